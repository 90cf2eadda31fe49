"""The chunks of one dataset, opened as far as somebody asks: where rows begin, how blocks are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.fetch.h5ad_bytes import SourceBytes
from ingest.load.read.blocks import BlockKind, DenseBlocks, PlainBlocks, PlainRows, ShuffledBlocks
from ingest.load.read.cache import ByteLru
from ingest.load.read.inflate import inflate_genes
from ingest.load.read.planning import RowEntries

if TYPE_CHECKING:
    from ingest.load.manifest import Manifest
    from ingest.load.read.layout import ArrayLayout, ChunkLayouts
    from ingest.load.read.ranges import ChunkBytes

__all__ = ["ChunkFile", "ChunkReader"]

_PLAIN_ENTRIES = 1 << 16
_PLAIN_BYTES = 1 << 19
_ENTRIES_BYTES = 64 << 20
"""Of the places where rows begin: 8 bytes a cell of the chunks used last."""


class ChunkReader:
    """The chunks of one dataset.

    Parameters
    ----------
    manifest, layouts, files
        What they are, where their blocks lie, where their bytes come from.
    """

    def __init__(self, manifest: Manifest, layouts: ChunkLayouts, files: ChunkBytes) -> None:
        self.manifest = manifest
        self.files = files
        self._layouts = layouts
        self._entries: ByteLru[RowEntries] = ByteLru(_ENTRIES_BYTES)
        self._kinds: ByteLru[BlockKind] = ByteLru(1 << 14)  # by number: as many as that

    def entries(self, at: int) -> RowEntries:
        """Return where the rows of the chunk at place `at` begin.

        Raises
        ------
        CorruptError
            The chunk is missing or damaged.
        """
        found = self._entries.get(at)
        if found is None:
            indptr = self._counted(at) if self.manifest.dense else self._indptr(at)
            n_cells = int(self.manifest.starts[at + 1] - self.manifest.starts[at])
            rises = len(indptr) == n_cells + 1 and indptr[0] == 0 and bool((np.diff(indptr) >= 0).all())
            if not rises or indptr[-1] != self.manifest.nnz[at]:
                raise self.damaged(at, "its rows do not begin where the dataset says")
            found = RowEntries(indptr, self._block(at), dense=self.manifest.dense)
            self._entries.put(at, found, indptr.nbytes)
        return found

    def kind(self, at: int) -> BlockKind:
        """Return how the blocks of the chunk at place `at` are stored."""
        found = self._kinds.get(at)
        if found is None:
            found = self._dense_kind(at) if self.manifest.dense else self._sparse_kind(at)
            self._kinds.put(at, found, 1)
        return found

    def damaged(self, at: int, what: str) -> CorruptError:
        """Return the error that names the chunk at place `at`."""
        self.files.forget(at)
        url, key = self.manifest.url, self.manifest.keys[at]
        return CorruptError(
            f"{url}/{key} is damaged: {what}",
            kind="chunk-damaged",
            hint=f"`python -m ingest verify {url}` looks at all of them; `repair` makes damaged ones again",
            chunk=self.manifest.numbers[at],
            key=key,
        )

    def close(self) -> None:
        """Let go of the files."""
        self.files.close()

    def _block(self, at: int) -> int:
        if self.manifest.dense:
            return self._rows_of_block(at)
        if self.manifest.codec == "none":
            return _PLAIN_ENTRIES
        return self._layouts.of(at, "X/data").elements

    def _rows_of_block(self, at: int) -> int:
        n_genes, width = len(self.manifest.genes), np.dtype(self.manifest.dtypes[at]).itemsize
        if self.manifest.codec == "none":
            return max(1, _PLAIN_BYTES // max(1, n_genes * width))
        return max(1, self._layouts.of(at, "X").elements // max(1, n_genes))

    def _sparse_kind(self, at: int) -> BlockKind:
        values, genes = (self._layouts.of(at, name) for name in ("X/data", "X/indices"))
        dtype, n_genes = np.dtype(self.manifest.dtypes[at]), len(self.manifest.genes)
        if self.manifest.codec == "none":
            return PlainBlocks(values, genes, dtype, n_genes, _PLAIN_ENTRIES)
        if values.elements != genes.elements or len(values.offsets) != len(genes.offsets):
            raise self._layouts.foreign(at)
        return ShuffledBlocks(values, genes, dtype, n_genes, self.manifest.codec)

    def _dense_kind(self, at: int) -> BlockKind:
        matrix = self._layouts.of(at, "X")
        dtype, n_genes = np.dtype(self.manifest.dtypes[at]), len(self.manifest.genes)
        if self.manifest.codec == "none":
            return PlainRows(matrix, dtype, n_genes, self._rows_of_block(at))
        return DenseBlocks(matrix, dtype, n_genes, self.manifest.codec)

    def _indptr(self, at: int) -> np.ndarray[Any, Any]:
        layout = self._layouts.of(at, "X/indptr")
        n = int(self.manifest.starts[at + 1] - self.manifest.starts[at]) + 1
        dtype = np.dtype(np.int32 if self.manifest.nnz[at] <= np.iinfo(np.int32).max else np.int64)
        spans = list(zip(layout.offsets.tolist(), layout.sizes.tolist(), strict=True))
        stored = self.files.read(at, spans)
        try:
            return np.concatenate([self._numbers(part, layout, dtype) for part in stored])[:n]
        except Exception as error:  # whatever inflating damaged bytes raises
            raise self.damaged(at, str(error)) from error

    def _numbers(self, stored: memoryview, layout: ArrayLayout, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        if self.manifest.codec == "none":
            return np.frombuffer(stored, dtype)
        size = layout.elements * dtype.itemsize
        raw = inflate_genes(self.manifest.codec)(stored, size)
        planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
        return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)

    def _counted(self, at: int) -> np.ndarray[Any, Any]:
        try:
            with ChunkFile(self, at).as_hdf5() as file:
                n_genes = file["obs/gene_count"][()]
        except CorruptError:
            raise
        except Exception as error:  # damage makes HDF5 raise anything
            raise self.damaged(at, str(error)) from error
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(n_genes, dtype=np.int64)])


class ChunkFile(SourceBytes):
    """A chunk as a file that HDF5 reads the parts of that it looks at, some bytes at a time."""

    _PAGE = 1 << 18

    def __init__(self, reader: ChunkReader, at: int) -> None:
        super().__init__(reader.manifest.keys[at])
        self._reader, self._at = reader, at
        self._size = int(reader.manifest.sizes[at])
        self._pages: dict[int, memoryview] = {}

    @property
    def size(self) -> int:
        """Length of the chunk."""
        return self._size

    @property
    def version(self) -> str:
        """There is this one: a chunk is written once."""
        return "written-once"

    def current_version(self) -> str:
        """Return the version, which does not change."""
        return self.version

    def copy(self, position: int, view: memoryview) -> None:
        """Fill `view` from `position`."""
        stop = position + len(view)
        for page in range(position // self._PAGE, -(-stop // self._PAGE) if len(view) else 0):
            start = page * self._PAGE
            low, high = max(position, start), min(stop, start + self._PAGE)
            view[low - position : high - position] = self._page(page)[low - start : high - start]
        self.bytes_read += len(view)

    def _page(self, page: int) -> memoryview:
        found = self._pages.get(page)
        if found is None:
            start = page * self._PAGE
            [found] = self._reader.files.read(self._at, [(start, min(self._PAGE, self._size - start))])
            self._pages[page] = found
        return found
