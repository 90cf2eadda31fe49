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
from ingest.fetch.tiles.decoding import Runs, TileDecoder
from ingest.fetch.tiles.format import Unfamiliar
from ingest.fetch.tiles.fragment import COLUMNS, FILES, ROWS, VALUES
from ingest.fetch.tiles.picking import byte_ranges, pick_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ingest.fetch.assemble import GeneMap
    from ingest.fetch.tiles.folder import Span
    from ingest.fetch.tiles.fragment import Fragment
    from ingest.fetch.tiles.stored import StoredX

__all__ = ["TileReader"]

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """The stored bytes of one tile."""

    n_cells: int
    rows: Bytes
    columns: Bytes
    values: Bytes
    name: str
    """For errors."""


class TileReader:
    """Reads rows of X; not shared between threads.

    Memory beside the result: the stored bytes of the tiles that the rows touch, about 2 an entry, and per thread some
    20 bytes for each entry of one tile.

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
        self._stored, self._genes, self._source = stored, genes, source
        kept = genes.columns[genes.columns >= 0]
        self._in_order = bool((np.diff(kept) > 0).all())
        """Whether genes that ascend in the source ascend in the result."""
        self._local = local()
        self._threads = ThreadPoolExecutor(threads, "tiles") if threads > 1 else None
        self.bytes_read = 0
        self.tiles_read = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self._stored.schema.dtype

    def assemble(self, rows: Array, row_ranges: Array, column_ranges: Array | None) -> Assembled:
        """Return the counts of `rows`.

        Parameters
        ----------
        rows
            int64 ``(n_rows,)``, distinct, in the order wanted, at least one.
        row_ranges, column_ranges
            Inclusive ranges that hold all wanted, int64 ``(n, 2)``, ascending; columns None for all.

        Raises
        ------
        SourceError
            ``duplicate-row``; ``damaged-tile``; ``duplicate-entry``, ``index-range``: see `CooAssembler`.
        OSError, IngestError
            As `ArrayFolder.read`.
        """
        positions = RowPositions(rows, source=self._source)
        try:
            tiles = self._tiles(row_ranges, column_ranges)
            placed = self._place(tiles, positions) if self._in_order else None
            return placed or self._gather(tiles, rows)
        except Unfamiliar as error:
            # When the array was opened all was well: now it is damage.
            raise SourceError(f"{self._source}: {error}", kind="damaged-tile", source=self._source) from error

    def _tiles(self, row_ranges: Array, column_ranges: Array | None) -> list[_Tile]:
        fragments = self._stored.fragments(int(row_ranges[0, 0]), int(row_ranges[-1, 1]))
        return [tile for fragment in fragments for tile in self._tiles_of(fragment, row_ranges, column_ranges)]

    def _tiles_of(self, fragment: Fragment, row_ranges: Array, column_ranges: Array | None) -> Iterator[_Tile]:
        picked = pick_tiles(fragment, row_ranges, column_ranges)
        pieces = {field: self._pieces(fragment, field, picked) for field in FILES}
        self.tiles_read += len(picked)
        for at, tile in enumerate(picked.tolist()):
            yield _Tile(
                int(fragment.cells[tile]),
                pieces[ROWS][at],
                pieces[COLUMNS][at],
                pieces[VALUES][at],
                f"{fragment.path.rsplit('/', 1)[-1]}, tile {tile}",
            )

    def _pieces(self, fragment: Fragment, field: int, picked: Array) -> list[Bytes]:
        """Return the bytes of each of the tiles in the file of `field`."""
        folder, starts = self._stored.folder, fragment.starts[field]
        ranges = byte_ranges(starts, picked, most_gap_bytes=folder.most_gap_bytes, most_bytes=folder.most_bytes)
        spans: list[Span] = [(f"{fragment.path}/{FILES[field]}", int(start), int(stop)) for start, stop, *_ in ranges]
        found: list[Bytes] = []
        for (start, stop, first, last), data in zip(ranges.tolist(), folder.read(spans), strict=True):
            self.bytes_read += stop - start
            tiles = picked[first : last + 1]
            begins, ends = (starts[tiles] - start).tolist(), (starts[tiles + 1] - start).tolist()
            found += [data[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return found

    def _place(self, tiles: Sequence[_Tile], positions: RowPositions) -> Assembled | None:
        """Put every run where it belongs; None where a row's columns do not ascend."""
        n_rows = len(positions.ascending)
        runs = list(self._each(lambda tile: self._decoder.runs(tile.rows, tile.n_cells, positions), tiles))
        counts = np.zeros(n_rows, np.int64)
        for some in runs:
            kernels.count_runs(some.position, some.start, some.stop, counts)
        indptr, indices, data = empty_rows(counts, self.dtype)
        cursor = indptr[:-1].copy()
        placing = [
            _Placing(tile, some, _reserved(some, cursor)) for tile, some in zip(tiles, runs, strict=True) if len(some)
        ]
        placed = list(self._each(lambda one: self._place_tile(one, indices, data), placing))
        if not all(one.ascends for one in placed) or not _chain(runs, placed, n_rows):
            return None
        zeros, unwanted = sum(one.zeros for one in placed), sum(one.unwanted for one in placed)
        rows = without_zeros(Counts(indptr, indices, data, self._genes.n_target), zeros + unwanted)
        return Assembled(rows, was_unsorted=False, zeros_dropped=zeros)

    def _place_tile(self, one: _Placing, indices: Array, data: Array) -> _Placed:
        decoder, tile, runs = self._decoder, one.tile, one.runs
        columns = decoder.columns(tile.columns, tile.n_cells, runs)
        values = decoder.values(tile.values, tile.n_cells, runs)
        first, last = np.empty(len(runs), np.int32), np.empty(len(runs), np.int32)
        ascends, zeros, unwanted = kernels.place_runs(
            columns,
            values,
            runs.start,
            runs.stop,
            one.place,
            self._genes.columns,
            self._genes.n_source,
            indices,
            data,
            first,
            last,
        )
        return _Placed(ascends, zeros, unwanted, first, last)

    def _gather(self, tiles: Sequence[_Tile], rows: Array) -> Assembled:
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
        if not hasattr(self._local, "decoder"):
            self._local.decoder = TileDecoder(self._stored.schema)
        decoder: TileDecoder = self._local.decoder
        return decoder

    def _each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        return map(function, items) if self._threads is None else self._threads.map(function, items)

    def close(self) -> None:
        """Release files and threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._stored.folder.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Placing:
    tile: _Tile
    runs: Runs
    place: Array
    """int64 ``(n_runs,)``: where each run goes in the matrix."""


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    ascends: bool
    zeros: int
    unwanted: int
    first: Array
    last: Array


def _reserved(runs: Runs, cursor: Array) -> Array:
    place = np.empty(len(runs), np.int64)
    kernels.reserve_runs(runs.position, runs.start, runs.stop, cursor, place)
    return place


def _chain(runs: Sequence[Runs], placed: Sequence[_Placed], n_rows: int) -> bool:
    """Tell whether a row's columns ascend from run to run."""
    seen = np.full(n_rows, -1, np.int32)
    there = [some for some in runs if len(some)]
    return all(
        kernels.chain_ascends(some.position, one.first, one.last, seen)
        for some, one in zip(there, placed, strict=True)
    )
