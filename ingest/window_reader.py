"""Reading one unit window by window: in the order of its sources, rows held apart by chunk until all are there.

A band that ends in the next window of the unit is read for both. The next window is read as the chunks of the one
before are encoded and give their memory back (`ingest.window_store.Room`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import CorruptError, NotFoundError, SourceError, TransientError
from ingest.naming import cell_names
from ingest.row_fetch import RowFetch, is_of_rows
from ingest.sample_check import check_cells
from ingest.unit_reader import Trouble
from ingest.window_profile import band_keys
from ingest.window_store import HeldRows

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterable, Sequence

    from ingest.errors import IngestError
    from ingest.fetch.base import Fetched
    from ingest.open_sources import OpenSources
    from ingest.opened import OpenPlan
    from ingest.unit_rows import UnitRows
    from ingest.wanted import Wanted
    from ingest.window_store import Room

__all__ = ["WholeWindow", "WindowReader"]

_Int64 = np.ndarray[Any, np.dtype[np.int64]]
_NONE: _Int64 = np.empty(0, np.int64)


@dataclass(slots=True, eq=False)
class WholeWindow:
    """All rows of the chunks of one window that could be read."""

    chunks: dict[int, HeldRows] = field(default_factory=dict)
    """Chunk -> its rows, ascending."""
    bytes_read: int = 0
    """Stored bytes taken from sources since the window before."""


class WindowReader:
    """What a unit's chunks are made of, a window at a time, in the order of the plan.

    Parameters
    ----------
    rows
        At least the plan rows of the unit's chunks.
    wanted
        The chunks; those dropped meanwhile are not read for.
    slab_entries
        Non-zeros that are read in one go, or a band.
    room
        Where what is held is counted, and given back by whoever encodes it.
    stop
        Set from another thread: read nothing further.
    """

    def __init__(
        self,
        opened: OpenPlan,
        sources: OpenSources,
        rows: UnitRows,
        wanted: Wanted,
        *,
        window_cells: int,
        slab_entries: int,
        room: Room,
        stop: threading.Event,
    ) -> None:
        self._opened, self._rows, self._wanted = opened, rows, wanted
        self._room, self._stop, self._slab_entries = room, stop, slab_entries
        self._size, self._window_cells = opened.plan.identity.cells_per_chunk, window_cells
        self._only_soma = sum(survey.layout == "soma" for survey in opened.surveys) == 1
        self._fetch = RowFetch(sources, rows)
        self._held: dict[int, HeldRows] = {}
        self._bytes_read = 0

    @property
    def seconds(self) -> float:
        """Wall time spent in reading so far."""
        return self._fetch.seconds

    def pieces(self) -> Generator[WholeWindow | Trouble, None, None]:
        """Yield the windows of the wanted chunks, and what stands in the way of others."""
        window_of = self._window_cells // self._size
        windows = [list(chunks) for _, chunks in groupby(self._wanted.chunks, key=lambda chunk: chunk // window_of)]
        ahead = _NONE
        for chunks, following in zip_longest(windows, windows[1:], fillvalue=()):
            places = np.setdiff1d(self._places(chunks), ahead, assume_unique=True)
            ahead = self._sharing(places, self._places(following))
            slabs = self._rows.slabs_of(np.concatenate([places, ahead]), self._slab_entries)
            for slab, next_slab in zip_longest(slabs, slabs[1:]):
                self._room.wait()
                if self._stop.is_set():
                    return
                yield from self._read(slab, next_slab)
            yield self._whole(chunks)

    def _places(self, chunks: Iterable[int]) -> _Int64:
        """Return the plan rows wanted of `chunks`, int64 ``(n,)``, ascending."""
        found = [_NONE]
        for chunk in chunks:
            if not self._wanted.wants(chunk):
                continue
            start, stop = self._wanted.rows(chunk)
            places = np.arange(start, stop)
            if rules := self._opened.amendments.rules(chunk):
                places = places[~np.isin(self._rows.codes(start, stop), list(rules))]
            found.append(places)
        return np.concatenate(found)

    def _sharing(self, places: _Int64, following: _Int64) -> _Int64:
        """Return those of the plan rows `following` that lie in bands of which `places` want some, too."""
        keys, next_keys = (band_keys(*self._rows.bands_of(rows)) for rows in (places, following))
        return following[np.isin(next_keys, keys)]

    def _read(self, slab: _Int64, following: _Int64 | None = None) -> Generator[Trouble, None, None]:
        """Read plan rows of one source, in the source's order, for whichever of their chunks are still wanted."""
        slab = slab[self._still_wanted(slab)]
        if not len(slab) or self._stop.is_set():
            return
        number = self._rows.source(int(slab[0]))
        chunks = np.unique(slab // self._size).tolist()
        try:
            fetched = self._fetch.read(number, self._rows.coordinates_of(slab), self._expected(number, following))
        except (SourceError, TransientError, CorruptError, NotFoundError) as error:
            if len(chunks) > 1 and is_of_rows(error):
                # One bad cell must not hold back its neighbours' chunks: it is looked for by halves.
                first_half = slab // self._size < chunks[len(chunks) // 2]
                yield from self._read(slab[first_half])
                yield from self._read(slab[~first_half])
                return
            yield self._drop(chunks, error)
        else:
            self._bytes_read += fetched.bytes_read
            yield from self._keep(number, slab, fetched)

    def _still_wanted(self, slab: _Int64) -> np.ndarray[Any, np.dtype[np.bool_]]:
        chunks, inverse = np.unique(slab // self._size, return_inverse=True)
        wanted = np.array([self._wanted.wants(chunk) for chunk in chunks.tolist()], bool)
        return wanted[inverse]

    def _expected(self, number: int, following: _Int64 | None) -> _Int64 | None:
        if following is None or self._rows.source(int(following[0])) != number:
            return None
        return self._rows.coordinates_of(following)

    def _drop(self, chunks: Sequence[int], error: IngestError) -> Trouble:
        for chunk in chunks:
            self._wanted.drop(chunk)
            if chunk in self._held:
                self._room.give(self._held.pop(chunk).nbytes)
        return Trouble(chunks, error)

    def _keep(self, number: int, slab: _Int64, fetched: Fetched) -> Generator[Trouble, None, None]:
        """Put rows that were read to the others of their chunks."""
        survey, label = self._opened.surveys[number], self._opened.labels[number]
        coordinates = self._rows.coordinates_of(slab)
        names = cell_names(survey, label, coordinates, fetched.names, only_soma=self._only_soma)
        chunk_of = slab // self._size
        order = np.argsort(chunk_of, kind="stable")
        chunks, begins = np.unique(chunk_of[order], return_index=True)
        for chunk, mine in zip(chunks.tolist(), np.split(order, begins[1:]), strict=True):
            try:
                if fetched.names is not None:
                    check_cells(survey, self._rows.obs_of(slab[mine]), fetched.names.take(pa.array(mine)))
            except SourceError as error:
                yield self._drop([chunk], error)
                continue
            held = self._held.setdefault(chunk, HeldRows())
            held.was_unsorted |= fetched.was_unsorted
            self._room.take(held.add(slab[mine], fetched.counts, mine, names))

    def _whole(self, chunks: Sequence[int]) -> WholeWindow:
        self._room.hand_out()
        held = {chunk: self._held.pop(chunk) for chunk in chunks if chunk in self._held}
        window = WholeWindow(held, self._bytes_read)
        self._bytes_read = 0
        return window
