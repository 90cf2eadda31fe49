"""The plan rows of one unit: their annotations, sources and coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import CorruptError
from ingest.memory import slab_entries
from ingest.profile import expected_nnz
from ingest.units import cut_slabs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.opened import OpenPlan

__all__ = ["UnitRows", "rows_of_chunks"]


class UnitRows:
    """Consecutive plan rows; everything inside is addressed by plan row."""

    def __init__(self, opened: OpenPlan, first: int, table: pa.Table) -> None:
        """`table` has the plan's rows from `first` on."""
        self.first = first
        self.table = table
        self._surveys = opened.surveys
        self._expected: np.ndarray[Any, np.dtype[np.int64]] | None = None
        number = {source: at for at, source in enumerate(opened.plan.identity.sources)}
        column = self.table["source"].combine_chunks()
        recode = np.array([number.get(value, -1) for value in column.dictionary.to_pylist()], np.int32)
        self._codes: np.ndarray[Any, np.dtype[np.int32]] = recode[column.indices.to_numpy()]
        if (self._codes < 0).any():
            raise CorruptError("the plan's index names a source that the plan does not", kind="foreign-source")
        is_soma = np.array([survey.layout == "soma" for survey in opened.surveys])[self._codes]
        self._coordinates: np.ndarray[Any, np.dtype[np.int64]] = np.where(
            is_soma, self.table["soma_joinid"].to_numpy(), self.table["row"].to_numpy()
        )

    def source(self, row: int) -> int:
        """Return the source number of one plan row."""
        return int(self._codes[row - self.first])

    def source_name(self, number: int) -> str:
        """Return what plan and ledger call source `number`."""
        return str(self._surveys[number].source)

    def codes(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the source numbers of plan rows ``[start, stop)``."""
        return self._codes[start - self.first : stop - self.first]

    def coordinates(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return joinids or row numbers of plan rows ``[start, stop)``."""
        return self._coordinates[start - self.first : stop - self.first]

    def obs(self, start: int, stop: int) -> pa.Table:
        """Return the index's columns of plan rows ``[start, stop)``."""
        return self.table.slice(start - self.first, stop - start)

    def coordinates_of(self, places: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return joinids or row numbers of the plan rows `places`."""
        coordinates: np.ndarray[Any, np.dtype[np.int64]] = self._coordinates[places - self.first]
        return coordinates

    def obs_of(self, places: np.ndarray[Any, np.dtype[np.int64]]) -> pa.Table:
        """Return the index's columns of the plan rows `places`."""
        return self.table.take(pa.array(places - self.first))

    def bands_of(
        self, places: np.ndarray[Any, np.dtype[np.int64]]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Return source number and band of the plan rows `places`."""
        codes = self._codes[places - self.first]
        band_rows = np.array([max(1, survey.band_rows) for survey in self._surveys], np.int64)
        return codes, self.coordinates_of(places) // band_rows[codes]

    def expected_nnz(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the non-zeros that plan rows ``[start, stop)`` have in the source, or its mean where not known."""
        return expected_nnz(self.obs(start, stop), self.codes(start, stop), self._surveys)

    def slabs(self, limit_bytes: int, value_bytes: int) -> list[tuple[int, int]]:
        """Return ranges of plan rows that are read in one go, each within `limit_bytes` while reading."""
        entries = self.expected_nnz(self.first, self.first + len(self._codes))
        bands = self.bands_of(np.arange(self.first, self.first + len(self._codes)))
        slabs = cut_slabs(*bands, entries, limit=slab_entries(limit_bytes, value_bytes))
        return [(start + self.first, stop + self.first) for start, stop in slabs]

    def slabs_of(
        self, places: np.ndarray[Any, np.dtype[np.int64]], limit_entries: int
    ) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        """Return the plan rows `places`, in any order, as what is read in one go: each in the order of one source."""
        places = places[np.lexsort((self.coordinates_of(places), self._codes[places - self.first]))]
        entries = self._entries()[places - self.first]
        return [places[start:stop] for start, stop in cut_slabs(*self.bands_of(places), entries, limit=limit_entries)]

    def _entries(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        if self._expected is None:
            self._expected = self.expected_nnz(self.first, self.first + len(self._codes))
        return self._expected


def rows_of_chunks(opened: OpenPlan, chunks: Sequence[int]) -> UnitRows:
    """Read the plan rows from the first of `chunks`, ascending, to the last.

    Raises
    ------
    CorruptError
        They are damaged, or name a source that the plan does not.
    TransientError
        The store does not answer.
    """
    first, last = opened.plan.rows(chunks[0])[0], opened.plan.rows(chunks[-1])[1]
    return UnitRows(opened, first, opened.index.rows(first, last))
