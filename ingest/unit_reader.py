"""Reading one unit: its slabs one after the other, each once, by a thread that does nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from ingest.amendments import Amendments
from ingest.errors import CorruptError, NotFoundError, SourceError, TransientError
from ingest.row_fetch import RowFetch, is_of_rows

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Sequence

    from ingest.errors import IngestError
    from ingest.fetch.base import Fetched
    from ingest.open_sources import OpenSources
    from ingest.row_fetch import Coordinates
    from ingest.unit_rows import UnitRows
    from ingest.wanted import Wanted

__all__ = ["Piece", "Trouble", "UnitReader"]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows that lie together in one source and in the plan."""

    start: int
    """Plan row of the first."""
    stop: int
    fetched: Fetched


@dataclass(frozen=True, slots=True, eq=False)
class Trouble:
    """Rows that cannot be read."""

    chunks: Sequence[int]
    """The chunks that lack them now."""
    error: IngestError


class UnitReader:
    """What a unit's chunks are made of, in plan order.

    Parameters
    ----------
    rows
        At least the plan rows of the unit's chunks.
    wanted
        The chunks; those dropped meanwhile are not read for.
    slabs
        Ranges of plan rows that are read in one go.
    stop
        Set from another thread: read nothing further.
    amendments
        What chunks are made without.
    """

    def __init__(
        self,
        sources: OpenSources,
        rows: UnitRows,
        wanted: Wanted,
        slabs: Sequence[tuple[int, int]],
        stop: threading.Event,
        amendments: Amendments | None = None,
    ) -> None:
        self._amendments = Amendments() if amendments is None else amendments
        self._rows, self._wanted, self._slabs, self._stop = rows, wanted, slabs, stop
        self._fetch = RowFetch(sources, rows)
        self._following: tuple[int, tuple[int, int]] | None = None
        """Where the slab in hand ends, and the one after it."""

    @property
    def seconds(self) -> float:
        """Wall time spent in reading so far."""
        return self._fetch.seconds

    def pieces(self) -> Generator[Piece | Trouble, None, None]:
        """Yield all rows of the wanted chunks, and what stands in the way of others."""
        for (start, stop), following in zip_longest(self._slabs, self._slabs[1:]):
            self._following = (stop, following) if following is not None else None
            yield from self._read(start, stop)

    def _read(self, start: int, stop: int) -> Generator[Piece | Trouble, None, None]:
        without = self._amendments.without(self._rows.source(start)) if self._amendments else frozenset[int]()
        for low, high, chunks in self._wanted.parts(start, stop, without):
            if self._stop.is_set():
                return
            try:
                number = self._rows.source(low)
                fetched = self._fetch.read(number, self._rows.coordinates(low, high), self._next(number, high))
            except (SourceError, TransientError, CorruptError, NotFoundError) as error:
                if len(chunks) > 1 and is_of_rows(error):
                    # One bad cell must not hold back its neighbours' chunks: it is looked for by halves.
                    middle = self._wanted.rows(chunks[len(chunks) // 2])[0]
                    yield from self._read(low, middle)
                    yield from self._read(middle, high)
                    continue
                for chunk in chunks:
                    self._wanted.drop(chunk)
                yield Trouble(chunks, error)
            else:
                yield Piece(low, high, fetched)
                del fetched  # whoever took it has it alone

    def _next(self, number: int, stop: int) -> Coordinates | None:
        """Return what comes after a slab's last piece, where that is of the same source."""
        if self._following is None or stop != self._following[0]:
            return None
        start, end = self._following[1]
        if self._rows.source(start) != number:  # another one's next read would be this itself, not the one after it
            return None
        return self._rows.coordinates(start, end)
