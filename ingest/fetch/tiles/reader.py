"""Rows of X out of stored tiles: coordinates first, which tell where everything goes, then columns and values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.errors import SourceError
from ingest.fetch.assemble import Assembled, CooAssembler, RowPositions, empty_rows, without_zeros
from ingest.fetch.tiles import kernels
from ingest.fetch.tiles.decoding import TileDecoder
from ingest.fetch.tiles.format import Unfamiliar
from ingest.fetch.tiles.loading import TileLoader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ingest.fetch.assemble import GeneMap
    from ingest.fetch.tiles.decoding import Runs
    from ingest.fetch.tiles.loading import StoredTile
    from ingest.fetch.tiles.stored import StoredX

__all__ = ["TileReader"]

Array = np.ndarray[Any, Any]


class TileReader:
    """Reads rows of X; not shared between threads. See `ingest.fetch.soma.RowReader`.

    Memory beside the result: the stored bytes of the tiles that the rows touch, about 2 an entry (twice that over a
    network), and for each thread that decodes some 20 bytes for each entry of one tile.

    Parameters
    ----------
    stored
        The array.
    genes
        Source columns to target columns.
    threads
        That decode.
    source
        Named in errors.
    """

    def __init__(self, stored: StoredX, genes: GeneMap, *, threads: int, source: str) -> None:
        self._schema, self._genes, self._source = stored.schema, genes, source
        self._loader = TileLoader(stored)
        self._in_order = bool((np.diff(genes.columns[genes.columns >= 0]) > 0).all())
        """Whether genes that ascend in the source ascend in the result."""
        self._local = local()
        self._threads = ThreadPoolExecutor(threads, "tiles") if threads > 1 else None
        self.bytes_read = 0
        """From the store, so far."""
        self.tiles_read = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self._schema.dtype

    def expect(self, row_ranges: Array, column_ranges: Array | None) -> None:
        """Hear what the `assemble` after the next one will want: over a network it is loaded while that one decodes."""
        self._loader.expect(row_ranges, column_ranges)

    def assemble(self, rows: Array, row_ranges: Array, column_ranges: Array | None) -> Assembled:
        """Return the counts of `rows`; see `ingest.fetch.soma.RowReader`.

        Raises
        ------
        SourceError
            ``duplicate-row``; ``damaged-tile``; ``duplicate-entry``, ``index-range`` as `CooAssembler` finds them.
        OSError, IngestError
            As `ArrayFolder.read`.
        """
        positions = RowPositions(rows, source=self._source)
        try:
            loaded = self._loader.load(row_ranges, column_ranges)
            self.bytes_read += loaded.n_bytes
            self.tiles_read += len(loaded.tiles)
            placed = self._place(loaded.tiles, positions) if self._in_order else None
            return placed or self._gather(loaded.tiles, rows)
        except Unfamiliar as error:
            # All was well when the array was opened: now it is damage.
            raise SourceError(f"{self._source}: X holds {error}", kind="damaged-tile", source=self._source) from error

    def _place(self, tiles: Sequence[StoredTile], positions: RowPositions) -> Assembled | None:
        """Put every run where it belongs; None where a row's columns do not ascend."""
        runs = list(self._each(lambda tile: self._decoder.runs(tile.rows, tile.n_cells, positions), tiles))
        counts = np.zeros(len(positions.ascending), np.int64)
        for some in runs:
            kernels.count_runs(some.position, some.start, some.stop, counts)
        indptr, indices, data = empty_rows(counts, self.dtype)
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
        assembler = CooAssembler(rows, self._genes, dtype=self.dtype, source=self._source)
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
        """Release files and threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._loader.close()


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
