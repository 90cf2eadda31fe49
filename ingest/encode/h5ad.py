"""Chunks as h5ad: opened by plain anndata, h5py and scanpy, and with deflate or none without any plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.digest import ArrayDigest, ContentDigest, canonical_obs
from ingest.encode.array_stream import ArrayStream
from ingest.encode.base import Encoded, Offsets
from ingest.encode.compressors import Compressors
from ingest.encode.elements import frame_numbers, write_frame
from ingest.encode.filters import TEXT, choose_filter
from ingest.encode.h5_file import H5File
from ingest.encode.h5ad_outline import Outlines
from ingest.encode.value_type import holding

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from ingest.block import Counts
    from ingest.genes import Genes

__all__ = ["H5adCodec", "H5adEncoder"]

Array = np.ndarray[Any, Any]

_INDEX = np.dtype(np.int32)


class H5adCodec:
    """Make h5ad files.

    Parameters
    ----------
    codec, level
        As `ingest.encode.filters.choose_filter` has them.
    threads
        That compress; 1 for none but the caller's.
    about
        As `ingest.encode.open.open_codec` has it.
    """

    def __init__(
        self, codec: str = "deflate", level: int = 1, *, threads: int = 1, about: Mapping[str, Any] | None = None
    ) -> None:
        how = choose_filter(codec, level)
        self._compressors = Compressors(how, threads)
        self._outlines = Outlines(None if how is None else TEXT, about or {})

    def begin(self, genes: Genes, dtype: str) -> H5adEncoder:
        """Start a file; see `ingest.encode.base.Codec`."""
        return H5adEncoder(self._compressors, self._outlines, genes, np.dtype(dtype))

    def close(self) -> None:
        """End the threads."""
        self._compressors.close()


class H5adEncoder:
    """One file in the making; see `ingest.encode.base.ChunkEncoder`."""

    def __init__(self, compressors: Compressors, outlines: Outlines, genes: Genes, dtype: np.dtype[Any]) -> None:
        self._compressors = compressors
        self._outlines = outlines
        self._genes = genes
        self._digest = ContentDigest(dtype)
        self._digest.indptr.update(np.zeros(1, np.int64))
        self._indptr = [np.zeros(1, np.int64)]
        self._indices = ArrayStream(_INDEX, compressors, self._digest.indices)
        self._data = ArrayStream(dtype, compressors, self._digest.data)
        self._nnz = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._indices.nbytes + self._data.nbytes + sum(part.nbytes for part in self._indptr)

    def add(self, counts: Counts) -> None:
        """Take the next cells."""
        if counts.n_genes != len(self._genes):
            raise ValueError(f"cells of {counts.n_genes} genes in a file of {len(self._genes)}")
        dtype = holding(self._data.dtype, counts.data)
        if dtype != self._data.dtype:
            self._digest.data = ArrayDigest(dtype)
            self._data = self._data.widened(dtype, self._digest.data)
        indptr = counts.indptr[1:] + self._nnz
        self._indptr.append(indptr)
        self._digest.indptr.update(indptr)
        self._indices.add(counts.indices)
        self._data.add(counts.data)
        self._nnz += counts.nnz

    def finish(self, obs: pa.Table, names: pa.StringArray) -> Encoded:
        """Return the whole file."""
        indptr = np.concatenate(self._indptr)
        n_cells = len(indptr) - 1
        if not n_cells == len(obs) == len(names):
            raise ValueError(f"{n_cells} cells with {len(obs)} obs rows and {len(names)} names")
        columns = canonical_obs(obs)
        numbers = frame_numbers(columns)
        outline, places = self._outlines.of(self._genes, n_cells, columns, numbers)
        with H5File(outline, {at: numbers[place].tobytes() for place, at in places.items()}) as file:
            offsets = self._write_counts(file, indptr)
            write_frame(file, "obs", names, columns, numbers, TEXT if self._compressors.filter else None)
            content = self._digest.hexdigest(self._genes, names, columns)
            return Encoded(file.image(), offsets, content, self._data.dtype.name)

    def _write_counts(self, file: H5File, indptr: Array) -> tuple[Offsets, ...]:
        # int32 as scipy has it: it would widen the indices to match wider pointers.
        pointers = indptr.astype(_INDEX) if self._nnz <= np.iinfo(_INDEX).max else indptr
        starts = ArrayStream(pointers.dtype, self._compressors, ArrayDigest(pointers.dtype))
        starts.add(pointers)
        how, n = self._compressors.filter, len(self._data)
        if how is None or not n:
            streams = {"X/data": self._data, "X/indices": self._indices, "X/indptr": starts}
            return tuple(self._write_stream(file, path, stream) for path, stream in streams.items())
        length, data = self._data.finish()
        _, indices = self._indices.finish()
        entries = {"X/data": (self._data.dtype, data), "X/indices": (_INDEX, indices)}
        return (*file.blocks_in_turn(entries, n, length, how), self._write_stream(file, "X/indptr", starts))

    def _write_stream(self, file: H5File, path: str, stream: ArrayStream) -> Offsets:
        total = len(stream)
        length, blocks = stream.finish()
        if self._compressors.filter is None or not total:
            return file.pieces(path, stream.dtype, (total,), blocks)
        return file.blocks(path, stream.dtype, (total,), length, blocks, self._compressors.filter)
