"""Chunks as h5ad: opened by plain anndata, h5py and scanpy, and with deflate or none without any plug-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.digest import ArrayDigest, ContentDigest, canonical_obs
from ingest.encode.array_stream import ArrayStream
from ingest.encode.base import Encoded, Offsets, encode_block
from ingest.encode.compressors import Compressors
from ingest.encode.elements import DICT, encoding, write_frame, write_numbers, write_texts
from ingest.encode.filters import TEXT, choose_filter
from ingest.encode.h5_file import H5File
from ingest.encode.value_type import holding

if TYPE_CHECKING:
    import pyarrow as pa

    from ingest.block import Block, Counts
    from ingest.genes import Genes

__all__ = ["H5adCodec"]

Array = np.ndarray[Any, Any]

_GROUPS = ("layers", "obsm", "obsp", "uns", "varm", "varp")
_INDEX = np.dtype(np.int32)


class H5adCodec:
    """Make h5ad files; what they share, the gene table, is made once and copied.

    Parameters
    ----------
    codec, level
        As `ingest.encode.filters.choose_filter` has them.
    threads
        That compress; 1 for none but the caller's.
    """

    def __init__(self, codec: str = "deflate", level: int = 1, *, threads: int = 1) -> None:
        self.compressors = Compressors(choose_filter(codec, level), threads)
        self._template: tuple[Genes, bytes] | None = None

    def begin(self, genes: Genes, dtype: str) -> H5adEncoder:
        """Start a file; see `ingest.encode.base.Codec`."""
        return H5adEncoder(self.compressors, genes, self._template_of(genes), np.dtype(dtype))

    def close(self) -> None:
        """End the threads."""
        self.compressors.close()

    def encode(self, block: Block) -> Encoded:
        """Return the file that holds `block`."""
        return encode_block(self, block)

    def _template_of(self, genes: Genes) -> bytes:
        known = self._template  # read once: other threads may replace it
        if known is None or not (known[0] is genes or known[0] == genes):
            known = self._template = genes, _template(genes, compressed=self.compressors.filter is not None)
        return known[1]


def _template(genes: Genes, *, compressed: bool) -> bytes:
    """Return a file with everything but cells."""
    text = TEXT if compressed else None
    with H5File() as file:
        file.describe(encoding("anndata", "0.1.0"))
        for name in _GROUPS:
            file.group(name, DICT)
        order = np.array(["feature_id", "feature_name", "feature_length"], h5py.string_dtype())
        file.group("var", {"_index": "_index", "column-order": order, **encoding("dataframe")})
        write_texts(file, "var/_index", genes.ids, text)
        file.link("var/_index", "var/feature_id")
        write_texts(file, "var/feature_name", genes.names, text)
        write_numbers(file, "var/feature_length", np.array(genes.lengths, np.int64), text)
        return bytes(file.image())


class H5adEncoder:
    """One file in the making; see `ingest.encode.base.ChunkEncoder`."""

    def __init__(self, compressors: Compressors, genes: Genes, template: bytes, dtype: np.dtype[Any]) -> None:
        self._compressors = compressors
        self._genes = genes
        self._template = template
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
        if not len(indptr) - 1 == len(obs) == len(names):
            raise ValueError(f"{len(indptr) - 1} cells with {len(obs)} obs rows and {len(names)} names")
        columns = canonical_obs(obs)
        with H5File(self._template) as file:
            offsets = self._write_counts(file, indptr)
            write_frame(file, "obs", names.to_pylist(), columns, TEXT if self._compressors.filter else None)
            content = self._digest.hexdigest(self._genes, names, columns)
            return Encoded(file.image(), offsets, content, self._data.dtype.name)

    def _write_counts(self, file: H5File, indptr: Array) -> tuple[Offsets, ...]:
        shape = np.array([len(indptr) - 1, len(self._genes)], np.int64)
        file.group("X", {**encoding("csr_matrix", "0.1.0"), "shape": shape})
        # int32 as scipy has it: it would widen the indices to match wider pointers.
        pointers = indptr.astype(_INDEX) if self._nnz <= np.iinfo(_INDEX).max else indptr
        starts = ArrayStream(pointers.dtype, self._compressors, ArrayDigest(pointers.dtype))
        starts.add(pointers)
        streams = {"X/data": self._data, "X/indices": self._indices, "X/indptr": starts}
        return tuple(self._write_stream(file, path, stream) for path, stream in streams.items())

    def _write_stream(self, file: H5File, path: str, stream: ArrayStream) -> Offsets:
        total = len(stream)
        length, blocks = stream.finish()
        if self._compressors.filter is None or not total:
            return file.pieces(path, stream.dtype, blocks)
        return file.blocks(path, stream.dtype, (total, length), blocks, self._compressors.filter)
