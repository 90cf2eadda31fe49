"""Rows of a window between reading and encoding: half as large as counts are, each chunk's apart from the others'.

An entry takes four bytes: column and count as uint16, and the counts that are no such number once more, apart. Rows
come in any order; when all of a chunk's are there they are laid out in that of the plan, some at a time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.block import Counts
from ingest.fetch.kernels import compiled, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HeldRows", "Packed", "Room", "pack_rows"]

Array = np.ndarray[Any, Any]

_NARROW = 1 << 16
_FEW = 8
"""Counts are held as uint16 where at least all but one in so many are such numbers."""

_PART_ENTRIES = 1 << 20
"""Laid out at once: enough rows for a step in Python each, few enough to be forgotten."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Rows as they are held, ``(n_rows, n_genes)``."""

    indptr: np.ndarray[Any, np.dtype[np.int64]]
    """int64 ``(n_rows + 1,)`` from 0."""
    genes: Array
    """uint16 ``(nnz,)``; int32 where there are more columns than that has numbers."""
    data: Array
    """uint16 ``(nnz,)``; of the values' own type where too few are such numbers."""
    wide_at: np.ndarray[Any, np.dtype[np.int64]]
    """int64 ``(n_wide,)``, ascending: entries that uint16 does not hold."""
    wide: Array
    """``(n_wide,)``, of the values' own type."""
    n_genes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(part.nbytes for part in (self.indptr, self.genes, self.data, self.wide_at, self.wide))

    def lay_out(self, rows: Array, begins: Array, indices: Array, data: Array) -> None:
        """Write `rows`, int64 ``(k,)``, into `indices` and `data`, each from where `begins`, int64 ``(k,)``, says."""
        take_rows(self.indptr, self.genes, self.data, rows, begins, indices, data)
        if not len(self.wide_at):
            return
        moved = np.full(len(self.indptr) - 1, -1, np.int64)
        moved[rows] = begins
        row = np.searchsorted(self.indptr, self.wide_at, side="right") - 1
        mine = moved[row] >= 0
        data[(moved[row] + self.wide_at - self.indptr[row])[mine]] = self.wide[mine]


@compiled
def _pack(indptr: Array, indices: Array, data: Array, rows: Array, genes: Array, low: Array, wide_at: Array) -> int:
    """Copy `rows` of a checked CSR matrix; return how many counts `low` cannot hold, -1 if more than `wide_at` can."""
    place = 0
    n_wide = 0
    for i in range(rows.size):
        begin, end = indptr[rows[i]], indptr[rows[i] + 1]
        row_indices, row_data = indices[begin:end], data[begin:end]
        row_genes, row_low = genes[place:], low[place:]
        for at in range(row_indices.size):
            row_genes[at] = row_indices[at]
        others = 0
        for at in range(row_data.size):  # without a branch: what does not fit is counted first, then looked for
            value = row_data[at]
            narrow = np.uint16(np.int32(min(max(value, 0), 65535)))
            row_low[at] = narrow
            others += narrow != value
        if others > wide_at.size - n_wide:
            return -1
        for at in range(row_data.size if others else 0):
            if row_low[at] != row_data[at]:
                wide_at[n_wide] = place + at
                n_wide += 1
        place += row_indices.size
    return n_wide


def pack_rows(counts: Counts, rows: Array) -> Packed:
    """Return `rows`, int64 ``(k,)`` in range, of `counts`, in that order; whatever the values are, they come back."""
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.diff(counts.indptr)[rows], out=indptr[1:])
    nnz = int(indptr[-1])
    genes = np.empty(nnz, np.uint16 if counts.n_genes <= _NARROW else np.int32)
    low, wide_at = np.empty(nnz, np.uint16), np.empty(nnz // _FEW + 1, np.int64)
    n_wide = _pack(counts.indptr, counts.indices, counts.data, rows, genes, low, wide_at)
    if n_wide < 0:
        data = np.empty(nnz, counts.data.dtype)
        take_rows(counts.indptr, counts.indices, counts.data, rows, indptr, genes, data)
        return Packed(indptr, genes, data, np.empty(0, np.int64), np.empty(0, data.dtype), counts.n_genes)
    at = wide_at[:n_wide].copy()
    begins = np.searchsorted(indptr, at, side="right") - 1
    wide = counts.data[counts.indptr[rows[begins]] + at - indptr[begins]]
    return Packed(indptr, genes, low, at, wide, counts.n_genes)


class HeldRows:
    """The rows of one chunk that have been read so far."""

    def __init__(self) -> None:
        self._places: list[Array] = []
        self._pieces: list[Packed] = []
        self._names: list[pa.StringArray] = []
        self._dtype: Any = None
        self.was_unsorted = False
        """Indices within a row did not ascend in the source."""
        self.nbytes = 0

    def add(self, places: Array, counts: Counts, rows: Array, names: pa.StringArray) -> int:
        """Take `rows` of `counts`, which belong to the plan rows `places`; return the bytes held more.

        Parameters
        ----------
        places, rows
            int64 ``(k,)``; no place comes twice.
        names
            ``(n_cells,)`` of `counts`.
        """
        piece, named = pack_rows(counts, rows), names.take(pa.array(rows))
        self._places.append(places)
        self._pieces.append(piece)
        self._names.append(named)
        self._dtype = counts.data.dtype
        grown = piece.nbytes + int(named.nbytes) + places.nbytes
        self.nbytes += grown
        return grown

    def parts(self) -> Iterator[tuple[Counts, pa.StringArray]]:
        """Yield all rows in the order of the plan, about a million entries at once."""
        if not self._pieces:
            return
        places = np.concatenate(self._places)
        order = np.argsort(places)
        names = pa.concat_arrays(self._names).take(pa.array(order))
        sizes = np.array([len(part) for part in self._places])
        piece = np.repeat(np.arange(len(sizes)), sizes)[order]
        row = order - (np.cumsum(sizes) - sizes)[piece]
        lengths = np.concatenate([np.diff(part.indptr) for part in self._pieces])[order]
        ends = np.cumsum(lengths)
        first = 0
        while first < len(order):
            limit = int(ends[first] - lengths[first]) + _PART_ENTRIES
            last = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
            part = slice(first, last)
            yield self._laid_out(piece[part], row[part], lengths[part]), names.slice(first, last - first)
            first = last

    def _laid_out(self, piece: Array, row: Array, lengths: Array) -> Counts:
        indptr = np.zeros(len(row) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], self._dtype)
        by_piece = np.argsort(piece, kind="stable")
        edges = np.searchsorted(piece[by_piece], np.arange(len(self._pieces) + 1))
        for number in np.flatnonzero(np.diff(edges)).tolist():
            mine = by_piece[edges[number] : edges[number + 1]]
            self._pieces[number].lay_out(row[mine], indptr[:-1][mine], indices, data)
        return Counts(indptr, indices, data, self._pieces[0].n_genes)


class Room:
    """How much of the next windows may be read while one is still held: a bound in bytes that two threads keep.

    Parameters
    ----------
    most_bytes
        Beyond this nothing is read, unless nothing else could make room: a window that is not whole must become it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._n_bytes = self._handed_out = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, n_bytes: int) -> None:
        """Count rows that are held now."""
        with self._changed:
            self._n_bytes += n_bytes

    def give(self, n_bytes: int) -> None:
        """Count rows that are held no longer."""
        with self._changed:
            self._n_bytes -= n_bytes
            self._changed.notify_all()

    def hand_out(self) -> None:
        """Count a window that is whole: its rows will be given back."""
        with self._changed:
            self._handed_out += 1

    def hand_back(self) -> None:
        """Count a window of which all rows have been given back."""
        with self._changed:
            self._handed_out -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Block until something may be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._handed_out or self._n_bytes < self._most_bytes)

    def close(self) -> None:
        """Let whoever waits go on; nothing will be given back any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
