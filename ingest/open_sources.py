"""The sources that a worker has open, with one way to read them that tries again."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ingest.errors import IngestError, SourceChangedError, SourceError
from ingest.fetch.open import open_fetcher
from ingest.retry import Budget, Retrier

if TYPE_CHECKING:
    import numpy as np

    from ingest.fetch.base import Fetched, Fetcher, FetchLimits, FetchOptions
    from ingest.opened import OpenPlan
    from ingest.survey.model import SourceSurvey

__all__ = ["OpenSources"]

_MOST = 8
"""Sources kept open; each holds a file or a TileDB context."""


class OpenSources:
    """Least recently used sources are closed first; a source that failed is opened afresh.

    Of CSC files and of remote ones one is open: each holds a transposition, or itself, in memory, as much as a worker
    may hold beside a chunk.
    """

    def __init__(self, opened: OpenPlan, options: FetchOptions, limits: FetchLimits) -> None:
        self._opened, self._options, self._limits = opened, options, limits
        self._retrier = Retrier(Budget(attempts=5, total_s=120.0))
        self._fetchers: OrderedDict[int, Fetcher] = OrderedDict()

    @property
    def retries(self) -> int:
        """Reads that were tried again so far."""
        return self._retrier.retries

    def read(self, number: int, coordinates: np.ndarray[Any, np.dtype[np.int64]]) -> Fetched:
        """Return the counts of these cells of source `number`, in this order.

        Raises
        ------
        IngestError
            As `Fetcher.read`; a ``TransientError`` only when it came back every time.
        """

        def attempt(_: int) -> Fetched:
            try:
                return self._fetcher(number).read(coordinates)
            except IngestError as error:
                # What failed once may be half-dead (a dropped connection, a moved file). Data at fault are no reason:
                # opening a CSC file anew would transpose it anew.
                if not isinstance(error, SourceError) or isinstance(error, SourceChangedError):
                    self._close(number)
                raise

        return self._retrier.call(attempt)

    def expect(self, number: int, coordinates: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Tell an open source what the read after the next one will be."""
        if number in self._fetchers:
            self._fetchers[number].expect(coordinates)

    def open_ahead(self) -> None:
        """Open the Census that units will read, if there is one: over a network that takes a second or two.

        Whatever stands in the way is met again, and reported, by the first unit.
        """
        censuses = [number for number, survey in enumerate(self._opened.surveys) if survey.layout == "soma"]
        if len(censuses) == 1:
            with suppress(IngestError):
                self._fetcher(censuses[0])

    def _fetcher(self, number: int) -> Fetcher:
        if number in self._fetchers:
            self._fetchers.move_to_end(number)
            return self._fetchers[number]
        survey = self._opened.surveys[number]
        if _is_heavy(survey):
            for other in [one for one in self._fetchers if _is_heavy(self._opened.surveys[one])]:
                self._close(other)
        while len(self._fetchers) >= _MOST:
            self._close(next(iter(self._fetchers)))
        self._fetchers[number] = open_fetcher(survey, self._opened.genes, self._options, self._limits)
        return self._fetchers[number]

    def _close(self, number: int) -> None:
        fetcher = self._fetchers.pop(number, None)
        if fetcher is not None:
            fetcher.close()

    def close(self) -> None:
        """Close all sources."""
        for number in list(self._fetchers):
            self._close(number)


def _is_heavy(survey: SourceSurvey) -> bool:
    return survey.layout == "csc" or (survey.layout != "soma" and survey.source.path is None)
