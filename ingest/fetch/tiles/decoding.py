"""One tile of one field after the other, decompressed into memory that stays in the CPU's cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from ingest.fetch.tiles import kernels
from ingest.fetch.tiles.format import Unfamiliar, parts_of, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.fetch.assemble import RowPositions
    from ingest.fetch.tiles.format import Pipeline
    from ingest.fetch.tiles.schema import XSchema

__all__ = ["Runs", "TileDecoder"]

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Entries of one tile that lie together and are of one wanted row, all int32 ``(n_runs,)``."""

    position: Array
    """Where the row goes."""
    start: Array
    """First entry of the tile."""
    stop: Array

    def __len__(self) -> int:
        return len(self.position)


class TileDecoder:
    """Decodes tiles; what it returns of columns and values is good until the next call. One thread's own.

    Parameters
    ----------
    schema
        Of the array.
    """

    def __init__(self, schema: XSchema) -> None:
        self._schema = schema
        self._zstd = zstandard.ZstdDecompressor()
        capacity = schema.capacity
        self._columns = np.empty(capacity, np.int32)
        self._values = np.empty(capacity, schema.dtype)
        self._runs = np.empty((3, capacity), np.int32)
        itemsize = schema.dtype.itemsize
        self._bits = self._values.view(np.uint32 if itemsize == 4 else np.uint64)

    def rows(self, tile: Bytes, n_cells: int) -> Array:
        """Return the rows of a tile, int64 ``(n_cells,)``, an array of its own."""
        parts = [part for _, part in self._row_parts(tile, n_cells)]
        rows: Array = np.concatenate(parts)
        return rows

    def runs(self, tile: Bytes, n_cells: int, positions: RowPositions) -> Runs:
        """Return the runs of wanted rows in a tile of `n_cells` entries."""
        count = 0
        for first, rows in self._row_parts(tile, n_cells):
            low, lookup, sorted_rows, order = positions.arrays
            into = self._runs[0], self._runs[1], self._runs[2]
            count = kernels.find_runs(rows, first, low, lookup, sorted_rows, order, *into, count)
        position, start, stop = self._runs[:, :count].copy()
        return Runs(position, start, stop)

    def columns(self, tile: Bytes, n_cells: int, runs: Runs | None = None) -> Array:
        """Return the columns of a tile, int32 ``(n_cells,)``, negative where they are none.

        Parts without any of `runs` hold anything.
        """
        for first, n, data in self._parts(tile, n_cells, self._schema.columns, 8, runs):
            out = self._columns[first : first + n]
            if self._schema.columns.shuffled:
                kernels.join_columns(np.frombuffer(data, np.uint8), out)
            else:
                kernels.narrow_columns(np.frombuffer(data, np.int64), out)
        return self._columns[:n_cells]

    def values(self, tile: Bytes, n_cells: int, runs: Runs | None = None) -> Array:
        """Return the values of a tile ``(n_cells,)``; parts without any of `runs` hold anything."""
        itemsize = self._schema.dtype.itemsize
        for first, n, data in self._parts(tile, n_cells, self._schema.values, itemsize, runs):
            if self._schema.values.shuffled:
                join = kernels.join_four if itemsize == 4 else kernels.join_eight
                join(np.frombuffer(data, np.uint8), self._bits[first : first + n])
            else:
                self._values[first : first + n] = np.frombuffer(data, self._schema.dtype)
        return self._values[:n_cells]

    def _row_parts(self, tile: Bytes, n_cells: int) -> Iterator[tuple[int, Array]]:
        for first, n, data in self._parts(tile, n_cells, self._schema.rows, 8, None):
            if self._schema.rows.shuffled:
                rows = np.empty(n, np.int64)
                kernels.join_eight(np.frombuffer(data, np.uint8), rows.view(np.uint64))
            else:
                rows = np.frombuffer(data, np.int64)
            yield first, rows

    def _parts(
        self, tile: Bytes, n_cells: int, pipeline: Pipeline, itemsize: int, runs: Runs | None
    ) -> Iterator[tuple[int, int, Any]]:
        """Yield first entry, number of entries and bytes of each part that any of `runs` needs."""
        first, view = 0, tile.data
        for start, stop, size in parts_of(tile, pipeline):
            n = size // itemsize
            if size % itemsize or first + n > n_cells:
                raise Unfamiliar("a tile of more entries than it should have")
            if runs is None or _needed(runs, first, first + n):
                yield first, n, unpack(view[start:stop], size, pipeline, self._zstd)
            first += n
        if first != n_cells:
            raise Unfamiliar("a tile of fewer entries than it should have")


def _needed(runs: Runs, first: int, end: int) -> bool:
    """Tell whether any run holds an entry of ``[first, end)``."""
    after = int(np.searchsorted(runs.stop, first, side="right"))
    return after < len(runs) and bool(runs.start[after] < end)
