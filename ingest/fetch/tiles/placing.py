"""Tiles to rows: runs of one row each are found, given their places in the matrix, and put there, tile by tile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.errors import HostileFileError
from ingest.fetch.assemble import Assembled, CooAssembler, RowPositions, empty_rows, without_zeros
from ingest.fetch.tiles import kernels
from ingest.fetch.tiles.decoding import TileDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ingest.fetch.assemble import GeneMap
    from ingest.fetch.tiles.decoding import Runs
    from ingest.fetch.tiles.loading import StoredTile
    from ingest.fetch.tiles.schema import XSchema

__all__ = ["TilePlacer"]

Array = np.ndarray[Any, Any]


class TilePlacer:
    """Makes rows of stored tiles; not shared between threads.

    Parameters
    ----------
    schema
        Of the array.
    genes
        Source columns to target columns.
    threads
        That decode.
    source
        Named in errors.
    """

    def __init__(self, schema: XSchema, genes: GeneMap, *, threads: int, source: str) -> None:
        self._schema, self._genes, self._source = schema, genes, source
        self._in_order = bool((np.diff(genes.columns[genes.columns >= 0]) > 0).all())
        """Whether genes that ascend in the source ascend in the result."""
        self._local = local()
        self._threads = ThreadPoolExecutor(threads, "tiles") if threads > 1 else None

    def rows(self, tiles: Sequence[StoredTile], rows: Array) -> Assembled:
        """Return the counts of `rows`, int64 ``(n_rows,)``, all of whose entries are in `tiles`, among others.

        Raises
        ------
        SourceError
            ``duplicate-row``; ``duplicate-entry``, ``index-range`` as `CooAssembler` finds them.
        Unfamiliar
            Damaged tiles.
        """
        positions = RowPositions(rows, source=self._source)
        placed = self._place(tiles, positions) if self._in_order else None
        return placed or self._gather(tiles, rows)

    def _place(self, tiles: Sequence[StoredTile], positions: RowPositions) -> Assembled | None:
        """Put every run where it belongs; None where a row's columns do not ascend."""
        runs = list(self._each(lambda tile: self._decoder.runs(tile.rows, tile.n_cells, positions), tiles))
        counts = np.zeros(len(positions.ascending), np.int64)
        for some in runs:
            kernels.count_runs(some.position, some.start, some.stop, counts)
        if counts.max(initial=0) > self._genes.n_source:  # before there is room made for them
            n = int(counts.max())
            message = f"{self._source}: a row of {n:,} entries for {self._genes.n_source:,} genes"
            raise HostileFileError(message, kind="duplicate-entry", source=self._source)
        indptr, indices, data = empty_rows(counts, self._schema.dtype)
        cursor = indptr[:-1].copy()
        placing = [
            _Placing(tile, some, _reserved(some, cursor)) for tile, some in zip(tiles, runs, strict=True) if len(some)
        ]
        placed = list(self._each(lambda one: self._place_tile(one, indices, data), placing))
        if not _ascend(placing, placed, len(counts)):
            return None
        zeros, unwanted = sum(one.zeros for one in placed), sum(one.unwanted for one in placed)
        rows = without_zeros(Counts(indptr, indices, data, self._genes.n_target), zeros + unwanted)
        return Assembled(rows, was_unsorted=False, zeros_dropped=zeros)

    def _place_tile(self, one: _Placing, indices: Array, data: Array) -> _Placed:
        decoder, tile, runs = self._decoder, one.tile, one.runs
        columns = decoder.columns(tile.columns, tile.n_cells, runs)
        values = decoder.values(tile.values, tile.n_cells, runs)
        first, last = np.empty((2, len(runs)), np.int32)
        genes, out = (self._genes.columns, self._genes.n_source), (indices, data, first, last)
        found = kernels.place_runs(columns, values, runs.start, runs.stop, one.place, *genes, *out)
        return _Placed(*found, first, last)

    def _gather(self, tiles: Sequence[StoredTile], rows: Array) -> Assembled:
        """Assemble entries that may come in any order: genes in another one, rows in several fragments, damage."""
        assembler = CooAssembler(rows, self._genes, dtype=self._schema.dtype, source=self._source)
        decoder = self._decoder
        for tile in tiles:
            dim0 = decoder.rows(tile.rows, tile.n_cells)
            dim1 = decoder.columns(tile.columns, tile.n_cells).astype(np.int64)
            assembler.add(dim0, dim1, decoder.values(tile.values, tile.n_cells))
        return assembler.finish()

    @property
    def _decoder(self) -> TileDecoder:
        """The one of the thread that asks."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = TileDecoder(self._schema)
        decoder: TileDecoder = self._local.decoder
        return decoder

    def _each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        return map(function, items) if self._threads is None else self._threads.map(function, items)

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Placing:
    """A tile whose runs have their places."""

    tile: StoredTile
    runs: Runs
    place: Array
    """int64 ``(n_runs,)``: where each run goes in the matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """What `kernels.place_runs` found; `first` and `last` are the runs' columns at both ends, int32 ``(n_runs,)``."""

    ascends: bool
    zeros: int
    unwanted: int
    first: Array
    last: Array


def _reserved(runs: Runs, cursor: Array) -> Array:
    place = np.empty(len(runs), np.int64)
    kernels.reserve_runs(runs.position, runs.start, runs.stop, cursor, place)
    return place


def _ascend(placing: Sequence[_Placing], placed: Sequence[_Placed], n_rows: int) -> bool:
    """Tell whether every row's columns ascend, within its runs and from one to the next."""
    seen = np.full(n_rows, -1, np.int32)
    return all(one.ascends for one in placed) and all(
        kernels.chain_ascends(one.runs.position, done.first, done.last, seen)
        for one, done in zip(placing, placed, strict=True)
    )
