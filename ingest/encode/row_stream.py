"""A dense matrix in the making, block of rows by block of rows, that is never dense itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.pending import PendingBlocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.block import Counts
    from ingest.digest import ArrayDigest
    from ingest.encode.compressors import Compressors

__all__ = ["RowStream", "rows_in_block"]

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 18
"""Numbers of a block, at most, where a row has no more: half a megabyte of int16. Readers keep a megabyte of HDF5's
chunks (before HDF5 2.0), so rows read one after the other cost one decompression a block even when they are int32."""
_MOST_ROWS = 1024


def rows_in_block(n_genes: int) -> int:
    """Return the rows of an HDF5 chunk: whole ones, whatever their type, so that widening cuts nothing anew."""
    return max(1, min(_MOST_ROWS, _BLOCK // max(1, n_genes)))


class RowStream:
    """The blocks of one matrix; where they are cut does not depend on the pieces that it came in.

    Parameters
    ----------
    n_genes
        Columns, more than 0.
    dtype
        Of the values as they are stored.
    compressors
        What makes a block's bytes.
    """

    def __init__(self, n_genes: int, dtype: np.dtype[Any], compressors: Compressors) -> None:
        self.n_genes, self.dtype = n_genes, dtype
        self._compressors = compressors
        self._block_rows = rows_in_block(n_genes)
        self._blocks = PendingBlocks(compressors.in_flight)
        self._rest: list[tuple[Array, Array]] = []
        """Of the block that is not full: places in it, int64, and values."""
        self._n_rest = 0

    def __len__(self) -> int:
        return len(self._blocks) * self._block_rows + self._n_rest

    @property
    def nbytes(self) -> int:
        """Bytes held now; of blocks that are being compressed, their uncompressed ones."""
        under_way = self._blocks.n_under_way * self._block_rows * self.n_genes * self.dtype.itemsize
        return self._blocks.nbytes + under_way + sum(places.nbytes + values.nbytes for places, values in self._rest)

    def add(self, counts: Counts) -> None:
        """Take the next rows, without stored zeros; they are copied or compressed, never kept."""
        start = 0
        while start < counts.n_cells:
            stop = min(counts.n_cells, start + self._block_rows - self._n_rest)
            self._keep(counts, start, stop)
            if self._n_rest == self._block_rows:
                self._press(self._block_rows)
            start = stop

    def _keep(self, counts: Counts, start: int, stop: int) -> None:
        low, high = counts.indptr[start], counts.indptr[stop]
        first = np.arange(self._n_rest, self._n_rest + stop - start, dtype=np.int64) * self.n_genes
        places = np.repeat(first, np.diff(counts.indptr[start : stop + 1])) + counts.indices[low:high]
        self._rest.append((places, counts.data[low:high].astype(self.dtype)))
        self._n_rest += stop - start

    def _press(self, n_rows: int) -> None:
        places, values = (np.concatenate(parts) for parts in zip(*self._rest, strict=True))
        self._rest, self._n_rest = [], 0
        self._blocks.append(self._compressors.start_sparse(places, values, n_rows * self.n_genes))

    def finish(self) -> tuple[int, Iterator[bytes]]:
        """Return the number of rows in a block, and the blocks, whose memory is given back on the way.

        The last compressed block is filled up with rows of zeros, as HDF5 wants it, but a matrix shorter than a block
        is one of its own length.
        """
        n_rows = min(self._block_rows, len(self))
        if self._n_rest:
            self._press(self._n_rest if self._compressors.filter is None else n_rows)
        return n_rows, self._blocks.settled().drain()

    def widened(self, dtype: np.dtype[Any], digest: ArrayDigest) -> RowStream:
        """Return a stream of the same values as another type, which holds them all exactly; this one is spent.

        One block after the other is decompressed, converted and given back: a chunk is never held twice.

        Parameters
        ----------
        digest
            Fed with all values so far, in order.
        """
        wide = RowStream(self.n_genes, dtype, self._compressors)
        for block in self._blocks.settled().drain():
            dense = self._compressors.undo(block, self.dtype, self._block_rows * self.n_genes)
            places = np.flatnonzero(dense)
            wide._rest = [(places, dense[places].astype(dtype))]
            digest.update(wide._rest[0][1])
            wide._press(self._block_rows)
        wide._rest = [(places, values.astype(dtype)) for places, values in self._rest]
        wide._n_rest = self._n_rest
        for _, values in wide._rest:
            digest.update(values)
        return wide
