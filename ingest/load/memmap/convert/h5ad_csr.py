"""Rows of a CSR matrix: stored entries as they are, unsorted, double or zero as they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_slabs import Pointers
from ingest.fetch.h5ad_stored import StoredArray
from ingest.load.memmap.convert.base import Written
from ingest.load.memmap.convert.h5ad_cast import OutsideError
from ingest.load.memmap.convert.h5ad_copy import copy_entries, usable_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.load.memmap.convert.base import Place
    from ingest.load.memmap.convert.h5ad_matrix import Arrays, Reading

__all__ = ["CsrRows"]

Array = np.ndarray[Any, Any]

_POINTERS = 1 << 20


class CsrRows:
    """See `ingest.load.memmap.convert.h5ad_matrix.MatrixRows`.

    Raises
    ------
    HostileFileError
        Row pointers do not start at 0, fall, or do not end where entries do (``indptr-…``).
    """

    def __init__(self, reading: Reading, matrix: MatrixRef) -> None:
        self._reading, self._matrix = reading, matrix
        self._values, self._columns = (
            StoredArray(reading.file, f"{matrix.path}/{part}", reading.lock) for part in ("data", "indices")
        )
        self._pointers = Pointers(
            reading.file, f"{matrix.path}/indptr", matrix.nnz, most_bytes=reading.memory_bytes // 4
        )
        self.n_entries = matrix.nnz

    def entries_before(self, rows: Array) -> Array:
        """Return how many entries stand before each of `rows`, ascending."""
        found = np.full(len(rows), self.n_entries, np.int64)
        inside = int(np.searchsorted(rows, self._matrix.shape[0]))
        found[:inside] = self._pointers.bounds(rows[:inside])[0]
        return found

    def write(self, place: Place, into: Arrays, *, tolerance: float, reached: Callable[[int], None]) -> Written:
        """Write some rows.

        Raises
        ------
        HostileFileError
            ``index-range``, ``unreadable``, ``truncated``.
        """
        last = place.first_row + place.n_rows
        start, stop = (int(at) for at in self.entries_before(np.array([place.first_row, last])))
        self._write_row_ends(place, into, place.entry_at - start)
        n_threads = usable_threads(
            self._reading.threads, self._values, self._columns, memory_bytes=self._reading.memory_bytes
        )
        try:
            harms = copy_entries(
                self._values,
                self._columns,
                range(start, stop),
                n_columns=self._matrix.shape[1],
                into=into,
                entry_at=place.entry_at,
                tolerance=tolerance,
                threads=n_threads,
                done=lambda entry: reached(place.n_rows * (entry - start) // (stop - start)),
            )
        except OutsideError as error:
            raise self._outside(error) from None
        return Written(place.n_rows, stop - start, harms.worst(self._row_of))

    def _write_row_ends(self, place: Place, into: Arrays, shift: int) -> None:
        for at in range(0, place.n_rows, _POINTERS):
            n = min(_POINTERS, place.n_rows - at)
            ends = self._pointers.between(place.first_row + at, place.first_row + at + n)[1:]
            into.write_row_ends(place.row_at + at, ends + shift)

    def _row_of(self, entry: int) -> int:
        n_rows = self._matrix.shape[0]
        for first in range(0, n_rows, _POINTERS):
            part = self._pointers.between(first, min(first + _POINTERS, n_rows))
            if part[-1] > entry:
                return first + int(np.searchsorted(part, entry, side="right")) - 1
        return n_rows

    def _outside(self, error: OutsideError) -> Exception:
        what = f"row {self._row_of(error.entry)}: column {error.column} of {self._matrix.shape[1]}"
        return self._reading.file.error(self._columns.path, what, "index-range")
