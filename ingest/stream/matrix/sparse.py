"""Lines of a stored CSR or CSC matrix, in blocks: those asked for, checked, read ahead on threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_planes import bits_of
from ingest.fetch.h5ad_slabs import Pointers
from ingest.fetch.h5ad_stored import StoredArray
from ingest.fetch.values import plain_indices
from ingest.stream.matrix.feed import Feed
from ingest.stream.matrix.kernels import outside, take_lines
from ingest.stream.matrix.lines import Lines, index_type, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.work import Work

__all__ = ["SparseLines"]

Array = np.ndarray[Any, Any]

_POINTERS = 1 << 15
"""Lines planned together."""
_KEPT_POINTERS_BYTES = 16 << 20
_BRIDGED_BYTES = 512 << 10
"""What is read over rather than started anew behind."""


class SparseLines:
    """One matrix; see `ingest.stream.matrix.source.MatrixSource`.

    Raises
    ------
    HostileFileError
        Pointers break a rule (``indptr-…``).
    """

    def __init__(self, file: OpenH5ad, ref: MatrixRef, work: Work) -> None:
        self._file, self._ref, self._work = file, ref, work
        self._data, self._indices = (StoredArray(file, f"{ref.path}/{part}", work.lock) for part in ("data", "indices"))
        path = f"{ref.path}/indptr"
        self._pointers = Pointers(file, path, ref.nnz, most_bytes=_KEPT_POINTERS_BYTES)
        major = 0 if ref.layout == "csr" else 1
        self.n_lines, self.n_places = ref.shape[major], ref.shape[1 - major]
        self.dtype = np.dtype(ref.dtype)
        self.entry_bytes = self.dtype.itemsize + index_type(self.n_places).itemsize
        self._most_lines = work.lines(ref.shape, by_columns=ref.layout == "csc")
        self._most = max(work.block_bytes // self.entry_bytes, 1)
        # A block is inflated whole: what lies in it between two lines is paid for already.
        self._block_lengths = [array.block_bytes // array.dtype.itemsize for array in (self._data, self._indices)]

    def count(self, wanted: Array | None) -> int:
        """Return how many entries the lines asked for have."""
        if wanted is None:
            return self._ref.nnz
        total = 0
        for first in range(0, len(wanted), _POINTERS):
            starts, ends = self._pointers.bounds(wanted[first : first + _POINTERS])
            total += int((ends - starts).sum())
        return total

    def blocks(self, wanted: Array | None = None) -> Iterator[Lines]:
        """Yield the lines asked for, in order; they are numbered anew.

        Parameters
        ----------
        wanted
            int64, ascending; None: all.

        Raises
        ------
        HostileFileError
            ``index-range``, ``unreadable``, ``truncated``.
        """
        first = 0
        for chosen in _parts(self.n_lines if wanted is None else wanted):
            for block in self._part(chosen):
                first, begin = first + len(block), first
                yield Lines(begin, block.indptr, block.indices, block.data)
                del block  # while the next is read

    def _part(self, chosen: Array) -> Iterator[Lines]:
        """Yield the lines of an ascending list that is not long."""
        starts, ends = self._pointers.bounds(chosen)
        runs = list(self._runs(starts, ends))
        ranges = _joined((int(starts[first]), int(ends[last - 1])) for first, last in runs)
        data, indices = (Feed(array, ranges, self._work) for array in (self._data, self._indices))
        try:
            for first, last in runs:
                yield self._read(data, indices, chosen[first:last], starts[first:last], ends[first:last])
        finally:
            data.close()
            indices.close()

    def _runs(self, starts: Array, ends: Array) -> Iterator[tuple[int, int]]:
        """Yield ranges of lines that are read together."""
        bridged = max(_BRIDGED_BYTES // self.entry_bytes, *self._block_lengths)
        cuts = np.flatnonzero(starts[1:] - ends[:-1] > bridged) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(starts)], strict=True):
            spans = np.diff(np.append(starts[first:last], ends[last - 1]))
            for begin, end in pieces(spans, self._most):
                step = self._most_lines
                yield from ((first + at, first + min(at + step, end)) for at in range(begin, end, step))

    def _read(self, data: Feed, indices: Feed, chosen: Array, starts: Array, ends: Array) -> Lines:
        span = int(ends[-1] - starts[0])
        values, places = data.take(span), self._checked(indices.take(span), chosen, starts)
        lengths = ends - starts
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        if indptr[-1] == span:
            return Lines(0, indptr, places, values)
        to, into = np.empty(int(indptr[-1]), places.dtype), np.empty(int(indptr[-1]), values.dtype)
        edges = np.column_stack([starts - starts[0], ends - starts[0]]).reshape(-1)
        bits = bits_of(values.dtype)
        take_lines(edges, places, values.view(bits), np.arange(0, 2 * len(chosen), 2), to, into.view(bits))
        return Lines(0, indptr, to, into)

    def _checked(self, stored: Array, chosen: Array, starts: Array) -> Array:
        places = plain_indices(stored, source=f"{self._file.name}: {self._ref.path}/indices")
        wrong = outside(places, self.n_places)
        if wrong >= 0:
            line = int(chosen[np.searchsorted(starts - starts[0], wrong, side="right") - 1])
            one, other = ("row", "column") if self._ref.layout == "csr" else ("column", "row")
            what = f"{one} {line}: {other} {places[wrong]} of {self.n_places}"
            raise self._file.error(f"{self._ref.path}/indices", what, "index-range")
        return places.astype(index_type(self.n_places), copy=False)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ascending ranges without the empty ones, neighbours as one: else what they share would be read twice."""
    joined: list[tuple[int, int]] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], stop
        elif start < stop:
            joined.append((start, stop))
    return joined


def _parts(wanted: int | Array) -> Iterator[Array]:
    n = wanted if isinstance(wanted, int) else len(wanted)
    for first in range(0, n, _POINTERS):
        last = min(first + _POINTERS, n)
        yield np.arange(first, last, dtype=np.int64) if isinstance(wanted, int) else wanted[first:last]
