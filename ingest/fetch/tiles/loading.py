"""The stored bytes of the tiles that rows need: all of one read asked for together, the next one's ahead of time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import IngestError
from ingest.fetch.tiles.format import Unfamiliar
from ingest.fetch.tiles.fragment import COLUMNS, FILES, ROWS, VALUES
from ingest.fetch.tiles.picking import byte_ranges, pick_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from ingest.fetch.tiles.folder import ArrayFolder, Span
    from ingest.fetch.tiles.fragment import Fragment
    from ingest.fetch.tiles.stored import StoredX

__all__ = ["Loaded", "StoredTile", "TileLoader"]

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class StoredTile:
    """One tile as it is stored."""

    n_cells: int
    """Its entries."""
    rows: Bytes
    columns: Bytes
    values: Bytes


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What one read needs."""

    tiles: Sequence[StoredTile]
    """Fragment after fragment, each in its own order."""
    n_bytes: int
    """Taken from the store."""


class TileLoader:
    """Loads tiles; over a network also those of the read that comes next, while this one's are decoded.

    Parameters
    ----------
    stored
        The array.
    """

    def __init__(self, stored: StoredX) -> None:
        self._stored = stored
        self._thread = ThreadPoolExecutor(1, "tiles-ahead") if stored.folder.is_far else None
        self._begun: tuple[Array, Future[Loaded]] | None = None
        self._wish: tuple[Array, Array | None] | None = None

    def expect(self, row_ranges: Array, column_ranges: Array | None) -> None:
        """Hear what the `load` after the next one will be given; nothing happens yet."""
        self._wish = row_ranges, column_ranges

    def load(self, row_ranges: Array, column_ranges: Array | None) -> Loaded:
        """Return the tiles that the ranges touch, and begin with those that are expected next.

        Raises
        ------
        Unfamiliar
            Tables that contradict each other.
        OSError, IngestError
            As `ArrayFolder.read`.
        """
        loaded = self._taken(row_ranges) or self._load(row_ranges, column_ranges)
        if self._thread is not None and self._wish is not None:
            self._begun = self._wish[0], self._thread.submit(self._load, *self._wish)
        self._wish = None
        return loaded

    def _taken(self, row_ranges: Array) -> Loaded | None:
        """Return what was begun, if it is this and went well; it is waited for. Otherwise it is forgotten."""
        if self._begun is None:
            return None
        (expected, future), self._begun = self._begun, None
        if not np.array_equal(expected, row_ranges):
            future.cancel()
            return None
        with suppress(IngestError, OSError, Unfamiliar):  # asked for again, it will say so again
            return future.result()
        return None

    def _load(self, row_ranges: Array, column_ranges: Array | None) -> Loaded:
        fragments = self._stored.fragments(int(row_ranges[0, 0]), int(row_ranges[-1, 1]))
        wanted = [_Wanted.of(one, row_ranges, column_ranges, self._stored.folder) for one in fragments]
        data = iter(self._stored.folder.read([span for one in wanted for span in one.spans()]))
        tiles = [tile for one in wanted for tile in one.tiles(data)]
        return Loaded(tiles, sum(one.n_bytes for one in wanted))

    def close(self) -> None:
        """End the thread and release the files."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)  # a network may take its time to give up
        self._stored.folder.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Tiles of one fragment, and the bytes to ask for."""

    fragment: Fragment
    picked: Array
    """int64 ``(n,)``: numbers of the tiles."""
    ranges: dict[int, Array]
    """Field -> what `byte_ranges` says of its file."""

    @classmethod
    def of(cls, fragment: Fragment, rows: Array, columns: Array | None, folder: ArrayFolder) -> _Wanted:
        picked = pick_tiles(fragment, rows, columns)
        gap, most = folder.most_gap_bytes, folder.most_bytes
        ranges = {
            field: byte_ranges(fragment.starts[field], picked, most_gap_bytes=gap, most_bytes=most) for field in FILES
        }
        return cls(fragment, picked, ranges)

    @property
    def n_bytes(self) -> int:
        return sum(int((ranges[:, 1] - ranges[:, 0]).sum()) for ranges in self.ranges.values())

    def spans(self) -> Iterator[Span]:
        for field, ranges in self.ranges.items():
            for start, stop, *_ in ranges.tolist():
                yield f"{self.fragment.path}/{FILES[field]}", start, stop

    def tiles(self, data: Iterator[Bytes]) -> Iterator[StoredTile]:
        """Yield the tiles out of what `data` has for `spans`, one after the other."""
        pieces = {field: list(self._cut(field, data)) for field in self.ranges}
        cells = self.fragment.cells[self.picked].tolist()
        for n_cells, *stored in zip(cells, pieces[ROWS], pieces[COLUMNS], pieces[VALUES], strict=True):
            yield StoredTile(n_cells, *stored)

    def _cut(self, field: int, data: Iterator[Bytes]) -> Iterator[Bytes]:
        starts = self.fragment.starts[field]
        for start, _, first, last in self.ranges[field].tolist():
            piece, tiles = next(data), self.picked[first : last + 1]
            begins, ends = (starts[tiles] - start).tolist(), (starts[tiles + 1] - start).tolist()
            yield from (piece[begin:end] for begin, end in zip(begins, ends, strict=True))
