"""Read a dense matrix of an h5ad file below HDF5, tile by tile, inflated in whatever thread asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_planes import plain_numbers
from ingest.fetch.h5ad_stored import Stored, StoredBlocks

if TYPE_CHECKING:
    from threading import Lock

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["StoredTiles"]

Array = np.ndarray[Any, Any]

_TILE_BYTES = 2 << 20


class StoredTiles(StoredBlocks):
    """A matrix of an open file, cut into tiles: blocks of HDF5 side by side, first all of a row of blocks.

    What is not chunked is cut into rows. Parameters and errors as of `ingest.fetch.h5ad_stored.StoredBlocks`; further:

    Parameters
    ----------
    dtype
        In which numbers are wanted that HDF5 must read.
    most_columns
        Of a tile, where blocks are not wider; None: as many as 2 MiB have room for.
    """

    def __init__(
        self, opened: OpenH5ad, path: str, lock: Lock, dtype: np.dtype[Any], *, most_columns: int | None = None
    ) -> None:
        super().__init__(opened, path, lock)
        self.dtype, self._most_columns = dtype, most_columns
        self.shape: tuple[int, int] = self._dataset.shape
        self._is_chunked = self._dataset.chunks is not None
        self._chunk: tuple[int, int] = self._dataset.chunks or (1, max(self.shape[1], 1))
        self.tile = self._tile()
        """Rows and columns of a tile; the last of a row or column may have fewer."""

    def _tile(self) -> tuple[int, int]:
        (chunk_rows, chunk_columns), (n_rows, n_columns) = self._chunk, self.shape
        most = max(_TILE_BYTES // self.dtype.itemsize, 1)
        across = min(max(most // (chunk_rows * chunk_columns), 1), -(-max(n_columns, 1) // chunk_columns))
        if self._most_columns is not None:
            across = min(across, max(self._most_columns // chunk_columns, 1))
        columns = across * chunk_columns
        down = max(most // (chunk_rows * columns), 1) if columns >= n_columns else 1
        return min(down, -(-max(n_rows, 1) // chunk_rows)) * chunk_rows, columns

    def read(self, row: int, column: int) -> Array:
        """Return the tile that begins there: ``(n_rows, n_columns)``, C order, not to be written to.

        Raises
        ------
        HostileFileError
            Bytes are damaged or missing.
        SourceError, TransientError
            The file cannot be read.
        """
        rows = slice(row, min(row + self.tile[0], self.shape[0]))
        columns = slice(column, min(column + self.tile[1], self.shape[1]))
        if self._blocks is None:
            return self._cut(rows, columns)
        if not self._is_chunked:
            return self._stretch(self._blocks.offsets[0], rows)
        if self.tile == self._chunk:
            return np.ascontiguousarray(self._block(rows, columns))
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        for top in range(rows.start, rows.stop, self._chunk[0]):
            down = slice(top, min(top + self._chunk[0], rows.stop))
            for left in range(columns.start, columns.stop, self._chunk[1]):
                across = slice(left, min(left + self._chunk[1], columns.stop))
                out[top - row : down.stop - row, left - column : across.stop - column] = self._block(down, across)
        return out

    def _stretch(self, offset: int, rows: slice) -> Array:
        width = self.shape[1] * self.dtype.itemsize
        stored = self._bytes(int(offset) + rows.start * width, (rows.stop - rows.start) * width)
        return np.frombuffer(stored, self.dtype).reshape(-1, self.shape[1])

    def _block(self, rows: slice, columns: slice) -> Array:
        """Return what the matrix has of one block."""
        blocks, (chunk_rows, chunk_columns) = self._blocks, self._chunk
        if blocks is None:
            return self._cut(rows, columns)
        shape = rows.stop - rows.start, columns.stop - columns.start
        number = rows.start // chunk_rows * -(-self.shape[1] // chunk_columns) + columns.start // chunk_columns
        (packed,) = self._packed(blocks, number, number + 1)
        found = None if packed is None else self._decoded(blocks, number, packed, is_full=shape == self._chunk)
        if found is None:
            return self._cut(rows, columns)
        numbers = plain_numbers(Stored(found, 0, blocks.elements, 0), self.dtype)
        return numbers.reshape(self._chunk)[: shape[0], : shape[1]]

    def _cut(self, rows: slice, columns: slice) -> Array:
        with self._lock, self._opened.reading(self.path):
            return np.ascontiguousarray(self._dataset[rows, columns], self.dtype)
