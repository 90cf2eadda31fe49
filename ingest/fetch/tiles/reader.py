"""Rows of X out of its stored tiles: they are loaded, and what they hold of the rows is placed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import SourceError
from ingest.fetch.tiles.format import Unfamiliar
from ingest.fetch.tiles.loading import TileLoader
from ingest.fetch.tiles.placing import TilePlacer

if TYPE_CHECKING:
    from ingest.fetch.assemble import Assembled, GeneMap
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
        self._source = source
        self._loader = TileLoader(stored)
        self._placer = TilePlacer(stored.schema, genes, threads=threads, source=source)
        self.dtype: np.dtype[Any] = stored.schema.dtype
        """Of the values."""
        self.bytes_read = 0
        """From the store, so far."""
        self.tiles_read = 0

    def expect(self, row_ranges: Array, column_ranges: Array | None) -> None:
        """Hear what the `assemble` after the next one will want: over a network it is loaded while that one decodes."""
        self._loader.expect(row_ranges, column_ranges)

    def assemble(self, rows: Array, row_ranges: Array, column_ranges: Array | None) -> Assembled:
        """Return the counts of `rows`; see `ingest.fetch.soma.RowReader`.

        Raises
        ------
        SourceError
            ``damaged-tile``, and as `TilePlacer.rows`.
        OSError, IngestError
            As `ArrayFolder.read`.
        """
        try:
            loaded = self._loader.load(row_ranges, column_ranges)
            self.bytes_read += loaded.n_bytes
            self.tiles_read += len(loaded.tiles)
            return self._placer.rows(loaded.tiles, rows)
        except Unfamiliar as error:
            # All was well when the array was opened: now it is damage.
            raise SourceError(f"{self._source}: X holds {error}", kind="damaged-tile", source=self._source) from error

    def close(self) -> None:
        """Release files and threads."""
        self._placer.close()
        self._loader.close()
