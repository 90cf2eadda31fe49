"""Reading cells of a plan's sources: timed, named in errors, and asked for once where a source is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import SourceChangedError, SourceError, TransientError

if TYPE_CHECKING:
    from ingest.fetch.base import Fetched
    from ingest.open_sources import OpenSources
    from ingest.unit_rows import UnitRows

__all__ = ["RowFetch", "is_of_rows"]

Coordinates = np.ndarray[Any, np.dtype[np.int64]]


class RowFetch:
    """What one unit reads of its sources.

    Parameters
    ----------
    rows
        Of the unit, for the names of sources.
    """

    def __init__(self, sources: OpenSources, rows: UnitRows) -> None:
        self._sources, self._rows = sources, rows
        self._lost: dict[int, TransientError | SourceChangedError] = {}
        self.seconds = 0.0
        """Wall time spent in reading so far."""

    def read(self, number: int, coordinates: Coordinates, expected: Coordinates | None = None) -> Fetched:
        """Return the counts of cells of source `number`, in the order of `coordinates`.

        Parameters
        ----------
        expected
            What it will be asked for next: these bytes may be on their way while the present ones are decoded.

        Raises
        ------
        IngestError
            As `ingest.open_sources.OpenSources.read`.
        """
        if number in self._lost:  # it was tried for minutes, or is another now: its other rows would find the same
            raise self._lost[number]
        before = time.perf_counter()
        try:
            if expected is not None:
                self._sources.expect(number, expected)
            return self._sources.read(number, coordinates)
        except (TransientError, SourceError) as error:
            # Whatever label it was raised with: by this name the source is known to plan and ledger.
            error.source = self._rows.source_name(number)
            if isinstance(error, TransientError | SourceChangedError):
                self._lost[number] = error
            raise
        finally:
            self.seconds += time.perf_counter() - before


def is_of_rows(error: Exception) -> bool:
    """Say whether `error` may be that of a single row, whose neighbours can be read."""
    return isinstance(error, SourceError) and not isinstance(error, SourceChangedError)
