"""Rows of a CSC matrix: a pass over its row numbers counts, further ones place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import SourceChangedError
from ingest.fetch.h5ad_planes import plain_numbers
from ingest.fetch.h5ad_slabs import Pointers
from ingest.fetch.h5ad_stored import StoredArray, Stretch
from ingest.load.memmap.convert.base import Written
from ingest.load.memmap.convert.h5ad_copy import usable_threads
from ingest.load.memmap.convert.h5ad_kernels import count_rows
from ingest.load.memmap.convert.h5ad_transposed import Cells, frozen, write_rows
from ingest.ordered_map import map_ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.load.memmap.convert.base import Place
    from ingest.load.memmap.convert.h5ad_matrix import Arrays, Reading

__all__ = ["CscRows"]

Array = np.ndarray[Any, Any]

_ENTRIES = 1 << 18
"""Read together, at least."""


class CscRows:
    """See `ingest.load.memmap.convert.h5ad_matrix.MatrixRows`.

    Raises
    ------
    HostileFileError
        Column pointers break a rule (``indptr-…``).
    """

    def __init__(self, reading: Reading, matrix: MatrixRef) -> None:
        self._reading, self._matrix = reading, matrix
        self._values, self._rows = (
            StoredArray(reading.file, f"{matrix.path}/{part}", reading.lock) for part in ("data", "indices")
        )
        n_columns = matrix.shape[1]
        pointers = Pointers(reading.file, f"{matrix.path}/indptr", matrix.nnz, most_bytes=8 * (n_columns + 1))
        self._starts = pointers.between(0, n_columns)
        self.n_entries = matrix.nnz
        self.value_dtype = self._values.dtype
        block = max(
            self._values.block_bytes // self._values.dtype.itemsize, self._rows.block_bytes // self._rows.dtype.itemsize
        )
        self._step = max(_ENTRIES // block, 1) * block
        self._threads = usable_threads(
            reading.threads, self._values, self._rows, memory_bytes=reading.memory_bytes // 2
        )

    def entries_before(self, rows: Array) -> Array:
        """Return how many entries stand before each of `rows`, ascending; the first call reads all row numbers."""
        return self._ends[rows]

    def write(self, place: Place, into: Arrays, *, tolerance: float, reached: Callable[[int], None]) -> Written:
        """Write some rows.

        Raises
        ------
        HostileFileError
            ``index-range``, ``unreadable``, ``truncated``.
        """
        ends = self._ends[place.first_row : place.first_row + place.n_rows + 1]
        harms = write_rows(
            self,
            ends - ends[0],
            place,
            into,
            tolerance=tolerance,
            memory_bytes=self._reading.memory_bytes,
            reached=reached,
        )
        return Written(place.n_rows, int(ends[-1] - ends[0]), harms.worst(lambda row: row))

    def cells(self, first_row: int, last_row: int) -> Iterator[Cells]:
        """Yield the entries of rows ``[first_row, last_row)``."""

        def read(start: int) -> Cells:
            stretch = Stretch(start, min(start + self._step, self.n_entries))
            rows, values = self._numbers(self._rows, stretch), self._numbers(self._values, stretch)
            columns = self._columns(stretch)
            if (first_row, last_row) != (0, self._matrix.shape[0]):
                mine = (rows >= first_row) & (rows < last_row)
                rows, columns, values = rows[mine], columns[mine], values[mine]
            return Cells.of(rows, columns, values)

        yield from self._mapped(read)

    def changed(self) -> Exception:
        """Make the error of a file that gives other entries than it gave when they were counted."""
        file = self._reading.file
        return SourceChangedError(
            f"{file.name}: {self._matrix.path} changed while it was read", source=str(file.source)
        )

    @cached_property
    def _ends(self) -> Array:
        counts = np.zeros(self._matrix.shape[0] + 1, np.int64)

        def read(start: int) -> tuple[int, Array]:
            return start, self._numbers(self._rows, Stretch(start, min(start + self._step, self.n_entries)))

        for start, rows in self._mapped(read):
            if count_rows(rows, counts[1:]):
                raise self._outside(start, rows)
        return np.cumsum(counts)

    def _outside(self, start: int, rows: Array) -> Exception:
        at = int(np.flatnonzero((rows < 0) | (rows >= self._matrix.shape[0]))[0])
        column = int(np.searchsorted(self._starts, start + at, side="right")) - 1
        what = f"column {column}: row {rows[at]} of {self._matrix.shape[0]}"
        return self._reading.file.error(self._rows.path, what, "index-range")

    def _mapped(self, read: Callable[[int], Any]) -> Iterator[Any]:
        starts = range(0, self.n_entries, self._step)
        if self._threads == 1:
            yield from map(read, starts)
            return
        with ThreadPoolExecutor(self._threads, "cell-ingest-transpose") as pool:
            yield from map_ordered(pool, read, starts, ahead=self._threads)

    def _numbers(self, array: StoredArray, stretch: Stretch) -> Array:
        parts = [plain_numbers(stored, array.dtype) for stored in array.read(stretch)]
        return frozen(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _columns(self, stretch: Stretch) -> Array:
        first = int(np.searchsorted(self._starts, stretch.start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stretch.stop, side="left"))
        lengths = np.diff(np.clip(self._starts[first : last + 1], stretch.start, stretch.stop))
        return np.repeat(np.arange(first, last, dtype=np.int64), lengths)
