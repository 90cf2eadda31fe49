"""Rows of a dense matrix: what is not zero of them, as scipy's ``csr_matrix`` takes it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import SourceChangedError
from ingest.fetch.h5ad_stored import Stored
from ingest.load.memmap.convert.base import Place, Written
from ingest.load.memmap.convert.h5ad_cast import Harms, ValueCast
from ingest.load.memmap.convert.h5ad_kernels import take_filled
from ingest.load.memmap.convert.h5ad_transposed import Cells, frozen, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.load.memmap.convert.h5ad_matrix import Arrays, Reading

__all__ = ["DenseRows", "filled_entries"]

Array = np.ndarray[Any, Any]

_SLAB_BYTES = 32 << 20
_NONE = np.empty(0, np.int64)


class DenseRows:
    """See `ingest.load.memmap.convert.h5ad_matrix.MatrixRows`.

    Rows are read in slabs of whole HDF5 chunks. Where chunks are so tall that a slab would not fit, rows go through
    `ingest.load.memmap.convert.h5ad_transposed`, one column of chunks after the other.
    """

    def __init__(self, reading: Reading, matrix: MatrixRef) -> None:
        self._reading, self._matrix = reading, matrix
        self._dataset = reading.file.dataset(matrix.path)
        stored = self._dataset.dtype
        self.value_dtype: Any = np.dtype(np.uint8) if stored == np.bool_ else stored.newbyteorder("=")
        self._chunk = self._dataset.chunks or (1, max(matrix.shape[1], 1))
        row_bytes = max(matrix.shape[1] * stored.itemsize, 1)
        most = max(min(_SLAB_BYTES, reading.memory_bytes // 4) // row_bytes, 1)
        self._is_tall = self._chunk[0] * row_bytes > reading.memory_bytes // 4
        self._slab_rows = self._chunk[0] if self._is_tall else max(most // self._chunk[0], 1) * self._chunk[0]

    @property
    def n_entries(self) -> int:
        """Entries that are not zero; asked for the first time, all are read."""
        return int(self._ends[-1])

    def entries_before(self, rows: Array) -> Array:
        """Return how many entries stand before each of `rows`, ascending."""
        return self._ends[rows]

    def write(self, place: Place, into: Arrays, *, tolerance: float, reached: Callable[[int], None]) -> Written:
        """Write some rows.

        Raises
        ------
        HostileFileError
            ``unreadable``.
        """
        write = self._write_tall if self._is_tall else self._write_slab
        harms, entry_at, last = Harms(), place.entry_at, place.first_row + place.n_rows
        for first, stop in self._slabs(place.first_row, last):
            part = Place(first, stop - first, place.row_at + first - place.first_row, entry_at)
            entry_at += write(part, into, tolerance, harms)
            reached(stop - place.first_row)
        return Written(place.n_rows, entry_at - place.entry_at, harms.worst(lambda row: row))

    def cells(self, first_row: int, last_row: int) -> Iterator[Cells]:
        """Yield the entries of rows ``[first_row, last_row)``, one column of chunks after the other."""
        width = self._chunk[1]
        for column in range(0, self._matrix.shape[1], width):
            panel = self._read(first_row, last_row, column, column + width)
            rows, columns = np.nonzero(panel)
            yield Cells.of(rows + first_row, columns + column, panel[rows, columns])

    def changed(self) -> Exception:
        """Make the error of a file that gives other entries than it gave when they were counted."""
        file = self._reading.file
        return SourceChangedError(
            f"{file.name}: {self._matrix.path} changed while it was read", source=str(file.source)
        )

    @cached_property
    def _ends(self) -> Array:
        n_rows = self._matrix.shape[0]
        counts = np.zeros(n_rows + 1, np.int64)
        for first, last in self._slabs(0, n_rows):
            counts[first + 1 : last + 1] = self._counts(first, last)
        return np.cumsum(counts)

    def _counts(self, first: int, last: int) -> Array:
        counts = np.zeros(last - first, np.int64)
        width = self._chunk[1] if self._is_tall else max(self._matrix.shape[1], 1)
        for column in range(0, self._matrix.shape[1], width):
            counts += np.count_nonzero(self._read(first, last, column, column + width), axis=1)
        return counts

    def _slabs(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield rows that are read together, cut where chunks end."""
        step = self._slab_rows
        while first < last:
            stop = min(first // step * step + step, last)
            yield first, stop
            first = stop

    def _read(self, first: int, last: int, column: int, last_column: int) -> Array:
        with self._reading.lock, self._reading.file.reading(self._matrix.path):
            return np.ascontiguousarray(self._dataset[first:last, column:last_column], self.value_dtype)

    def _write_slab(self, part: Place, into: Arrays, tolerance: float, harms: Harms) -> int:
        block = frozen(self._read(part.first_row, part.first_row + part.n_rows, 0, self._matrix.shape[1]))
        ends, columns, values = filled_entries(block)
        out = np.empty(len(values), into.spec.data)
        cast = ValueCast(self.value_dtype, into.spec.data, tolerance)
        harm = cast.into(Stored(frozen(values), 0, len(out), 0), out)
        harms.add(harm and harm.of(lambda entry: part.first_row + int(np.searchsorted(ends, entry, side="right"))))
        into.write_row_ends(part.row_at, ends + part.entry_at)
        into.write_columns(part.entry_at, columns)
        into.write_values(part.entry_at, out)
        return len(out)

    def _write_tall(self, part: Place, into: Arrays, tolerance: float, harms: Harms) -> int:
        ends = np.concatenate([[0], np.cumsum(self._counts(part.first_row, part.first_row + part.n_rows))])
        memory_bytes = self._reading.memory_bytes // 2
        found = write_rows(
            self, ends, part, into, tolerance=tolerance, memory_bytes=memory_bytes, reached=lambda _: None
        )
        harms.add(found.total)
        return int(ends[-1])


def filled_entries(block: Array) -> tuple[Array, Array, Array]:
    """Return where each row ends, and columns and values of all that is not zero."""
    if block.dtype == np.float16:  # which numba does not have
        rows, columns = np.nonzero(block)
        return np.searchsorted(rows, np.arange(len(block)), side="right"), columns, block[rows, columns]
    ends = np.empty(len(block), np.int64)
    n = take_filled(block, ends, _NONE, np.empty(0, block.dtype))
    # One place more: the kernel writes before it knows whether the value counts.
    columns, values = np.empty(n + 1, np.int64), np.empty(n + 1, block.dtype)
    take_filled(block, ends, columns, values)
    return ends, columns[:n], values[:n]
