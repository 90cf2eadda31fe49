"""A stored dense matrix: its rows or columns as they are, or as CSR what is not zero, as scipy's ``csr_matrix``."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ingest.ahead import Ahead
from ingest.fetch.h5ad_planes import bits_of
from ingest.fetch.h5ad_tiles import StoredTiles
from ingest.ordered_map import map_ordered
from ingest.stream.matrix.filled import Filled
from ingest.stream.matrix.kernels import take_lines
from ingest.stream.matrix.lines import Lines, index_type
from ingest.stream.matrix.regroup import Entries, regrouped

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.work import Work

__all__ = ["DenseRows", "dense_columns"]

Array = np.ndarray[Any, Any]
Item = TypeVar("Item")

_MOST_GAP = 64
"""Rows that are read over rather than read apart, where rows are not chunked."""
_TALL, _TALL_FILLED = 4, 16
"""How many times a block a band may be that is held as it is, or what is not zero of it."""


class DenseRows:
    """One matrix.

    It is read in bands of whole tiles (`ingest.fetch.h5ad_tiles`), each tile in a thread, the next band while one is
    worked on. Where chunks are so tall that a band would not fit, `lines` goes through
    `ingest.stream.matrix.regroup`, one column of tiles after the other, and `rows` reads a tile again for every band
    that it lies in.
    """

    def __init__(self, file: OpenH5ad, ref: MatrixRef, work: Work, scratch: Path) -> None:
        self._work, self._scratch = work, scratch
        self.dtype = np.dtype(ref.dtype)
        self.shape = ref.shape
        self._tiles = StoredTiles(file, ref.path, work.lock, self.dtype)
        row_bytes = max(ref.shape[1] * self.dtype.itemsize, 1)
        fits = max(work.block_bytes // row_bytes, 1)
        tall = min(self._tiles.tile[0], max(ref.shape[0], 1))
        self._is_tall = tall > _TALL_FILLED * fits
        self._band = fits if tall > _TALL * fits else -(-fits // tall) * tall
        self._filled = Filled(index_type(ref.shape[1]))

    def rows(self, wanted: Array | None = None) -> Iterator[tuple[Array, Array]]:
        """Yield ascending row numbers, int64 ``(n,)``, and the rows ``(n, n_columns)``."""
        return _ahead(self._bands(wanted))

    def _bands(self, wanted: Array | None) -> Generator[tuple[Array, Array], None, None]:
        most = self._work.lines(self.shape)
        for some in self._runs(wanted):
            block = self._read(int(some[0]), int(some[-1]) + 1)
            if len(block) > len(some):
                block = block[some - some[0]]
            for at in range(0, len(some), most):
                yield some[at : at + most], block[at : at + most]

    def _runs(self, wanted: Array | None) -> Iterator[Array]:
        """Yield the numbers of rows that are read together, all within a band."""
        n = self.shape[0]
        if wanted is None:
            yield from (np.arange(first, min(first + self._band, n)) for first in range(0, n, self._band))
            return
        jumps = (np.diff(wanted // self._band) > 0) | (np.diff(wanted) > max(_MOST_GAP, self._tiles.tile[0]))
        for run in np.split(wanted, np.flatnonzero(jumps) + 1):
            if len(run):
                yield run

    def _read(self, start: int, stop: int) -> Array:
        """Return rows ``[start, stop)``."""
        tall, wide = self._tiles.tile
        out = np.empty((stop - start, self.shape[1]), self.dtype)

        def put(place: tuple[int, int]) -> None:
            row, column = place
            tile = self._tiles.read(row, column)
            begin, end = max(start, row), min(stop, row + len(tile))
            out[begin - start : end - start, column : column + tile.shape[1]] = tile[begin - row : end - row]

        rows, columns = range(start // tall * tall, stop, tall), range(0, self.shape[1], wide)
        places = ((row, column) for row in rows for column in columns)
        for _ in map_ordered(self._work.pool, put, places, ahead=2 * self._work.threads):
            pass
        return out

    def lines(self, wanted: Array | None = None) -> Iterator[Lines]:
        """Yield rows as CSR, numbered anew."""
        if self._is_tall:
            n = self.shape[0] if wanted is None else len(wanted)
            yield from regrouped(self._entries(wanted), n, self.shape[1], self._scratch, self._work)
            return
        first = 0
        for _, pieces in groupby(self._pieces(wanted, by_rows=True), key=itemgetter(0)):
            block = _side_by_side([piece for _, piece in pieces])
            most = self._work.lines(self.shape)
            for at in range(0, len(block), most):
                part = block.part(at, min(at + most, len(block)))
                yield Lines(first + at, part.indptr, part.indices, part.data)
            first += len(block)

    def _pieces(self, wanted: Array | None, *, by_rows: bool) -> Iterator[tuple[int, Lines]]:
        """Yield what is not zero of each tile with wanted rows, and which of the wanted ones is its first."""
        tall, wide = self._tiles.tile
        tops, columns = self._tops(wanted), range(0, max(self.shape[1], 1), wide)
        if by_rows:
            places = ((row, column) for row in tops for column in columns)
        else:
            places = ((row, column) for column in columns for row in tops)

        def take(place: tuple[int, int]) -> tuple[int, Lines]:
            row, column = place
            tile, first = self._tiles.read(row, column), row
            if wanted is not None:
                first, last = np.searchsorted(wanted, (row, row + tall)).tolist()
                if last - first < len(tile):
                    tile = tile[wanted[first:last] - row]
            indptr, indices, data = self._filled.take(tile, column)
            return first, Lines(first, indptr, indices, data)

        yield from map_ordered(self._work.pool, take, places, ahead=2 * self._work.threads)

    def _tops(self, wanted: Array | None) -> list[int]:
        tall = self._tiles.tile[0]
        tops = range(0, self.shape[0], tall) if wanted is None else (np.unique(wanted // tall) * tall).tolist()
        return list(tops)

    def _entries(self, wanted: Array | None) -> Iterator[Entries]:
        """Yield what is not zero, that of the first columns first."""
        for first, piece in self._pieces(wanted, by_rows=False):
            lines = np.repeat(np.arange(first, first + len(piece)), np.diff(piece.indptr))
            yield Entries(lines, piece.indices, piece.data)


def dense_columns(file: OpenH5ad, ref: MatrixRef, work: Work, n_columns: int) -> Iterator[Array] | None:
    """Return an iterator over all columns, ``(n_rows, n)``, from the left, some together: no tile is read twice.

    None where a tile is wider than `n_columns`: then more than those would have to be held, or tiles read again.
    """
    dtype = np.dtype(ref.dtype)
    tiles = StoredTiles(file, ref.path, work.lock, dtype, most_columns=n_columns)
    (tall, wide), (n_rows, n_all) = tiles.tile, ref.shape
    if wide > n_columns and n_all > n_columns:
        return None

    def column_of_tiles(left: int) -> Array:
        out = np.empty((n_rows, min(wide, n_all - left)), dtype)

        def put(top: int) -> None:
            out[top : top + tall] = tiles.read(top, left)

        for _ in map_ordered(work.pool, put, range(0, n_rows, tall), ahead=2 * work.threads):
            pass
        return out

    return _ahead(column_of_tiles(left) for left in range(0, n_all, wide))


def _ahead(items: Generator[Item, None, None]) -> Iterator[Item]:
    ahead = Ahead(items)
    try:
        yield from ahead
    finally:
        ahead.close()


def _side_by_side(pieces: list[Lines]) -> Lines:
    """Return lines that are continued from piece to piece."""
    if len(pieces) == 1:
        return pieces[0]
    n = len(pieces[0])
    lengths = np.concatenate([np.diff(piece.indptr) for piece in pieces])
    indices, data = (np.concatenate([getattr(piece, part) for piece in pieces]) for part in ("indices", "data"))
    to, into = np.empty_like(indices), np.empty_like(data)
    bits = bits_of(data.dtype)
    order = np.arange(n * len(pieces)).reshape(len(pieces), n).T.reshape(-1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    take_lines(starts, indices, data.view(bits), order, to, into.view(bits))
    indptr = np.concatenate([[0], np.cumsum(lengths.reshape(len(pieces), n).sum(axis=0))])
    return Lines(pieces[0].first, indptr, to, into)
