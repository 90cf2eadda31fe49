"""Chunks as one dense matrix: what a training loop that knows nothing but h5py reads a row of.

::

    X                   int16 (n_cells, n_genes), int32 in a file with a count beyond 32,767; HDF5 chunks of whole rows
    genes               (n_genes,)   feature ids
    cells               (n_cells,)   names, unique in the whole dataset
    obs/gene_count      (n_cells,)   int32: entries of the row of X that are not zero
    obs/umi_count       (n_cells,)   int64: their sum; float64 where X is of floats
    obs/SRX_accession   (n_cells,)   where the index has it, like every other column of it (`ingest.encode.h5_columns`)
    var/feature_name, var/feature_length   (n_genes,)

**gene_count and umi_count are those of X in the same file**, whatever genes were chosen and whatever the source says of
its cells. What the index says under these names stands beside them as ``obs/index_gene_count``,
``obs/index_umi_count``: where all genes of a source are kept the two may be compared, and neither ever passes for the
other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.digest import ArrayDigest, ContentDigest, canonical_obs
from ingest.encode.base import Encoded, Offsets
from ingest.encode.compressors import Compressors
from ingest.encode.elements import write_numbers, write_texts
from ingest.encode.filters import TEXT, Filter, choose_filter
from ingest.encode.h5_columns import COUNTED, write_columns
from ingest.encode.h5_file import H5File
from ingest.encode.row_stream import RowStream
from ingest.encode.value_type import holding
from ingest.validate import check_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from ingest.block import Counts
    from ingest.genes import Genes

__all__ = ["H5Codec", "H5Encoder"]

Array = np.ndarray[Any, Any]


class H5Codec:
    """Make dense files.

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
        self._table = _GeneTable(None if how is None else TEXT, about or {})

    def begin(self, genes: Genes, dtype: str) -> H5Encoder:
        """Start a file; see `ingest.encode.base.Codec`."""
        return H5Encoder(self._compressors, self._table, genes, np.dtype(dtype))

    def close(self) -> None:
        """End the threads."""
        self._compressors.close()


class _GeneTable:
    """The genes as a file to begin with, made once for all files of a dataset."""

    def __init__(self, how: Filter | None, about: Mapping[str, Any]) -> None:
        self._how, self._about = how, about
        self._made: tuple[Genes, bytes] | None = None

    def of(self, genes: Genes) -> bytes:
        made = self._made  # read once: another thread may replace it
        if made is None or not (made[0] is genes or made[0] == genes):
            made = self._made = genes, self._make(genes)
        return made[1]

    def _make(self, genes: Genes) -> bytes:
        with H5File() as file:
            file.describe(self._about)
            write_texts(file, "genes", genes.ids, self._how, {})
            file.group("var", {})
            write_texts(file, "var/feature_name", genes.names, self._how, {})
            write_numbers(file, "var/feature_length", np.array(genes.lengths, np.int64), self._how, {})
            return bytes(file.image())


class H5Encoder:
    """One file in the making; see `ingest.encode.base.ChunkEncoder`. Its memory is that of compressed rows."""

    def __init__(self, compressors: Compressors, table: _GeneTable, genes: Genes, dtype: np.dtype[Any]) -> None:
        self._filter = compressors.filter
        self._table = table
        self._genes = genes
        self._digest = ContentDigest(dtype)
        self._digest.indptr.update(np.zeros(1, np.int64))
        self._rows = RowStream(len(genes), dtype, compressors)
        self._counted: list[tuple[Array, Array]] = []
        self._nnz = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._rows.nbytes + sum(n_genes.nbytes + sums.nbytes for n_genes, sums in self._counted)

    def add(self, counts: Counts) -> None:
        """Take the next cells; zeros are not stored among them."""
        if counts.n_genes != len(self._genes):
            raise ValueError(f"cells of {counts.n_genes} genes in a file of {len(self._genes)}")
        found = check_rows(counts, source="checked counts", allow_noninteger=True)
        if found.n_zeros:
            raise ValueError(f"{found.n_zeros} stored zeros, which a dense matrix cannot tell from others")
        dtype = holding(self._rows.dtype, counts.data)
        if dtype != self._rows.dtype:
            self._digest.data = ArrayDigest(dtype)
            self._rows = self._rows.widened(dtype, self._digest.data)
        self._digest.indptr.update(counts.indptr[1:] + self._nnz)
        self._digest.indices.update(counts.indices)
        self._digest.data.update(counts.data)
        self._rows.add(counts)
        self._counted.append((found.nnz, found.sums))
        self._nnz += counts.nnz

    def finish(self, obs: pa.Table, names: pa.StringArray) -> Encoded:
        """Return the whole file."""
        n_cells = len(self._rows)
        if not n_cells == len(obs) == len(names):
            raise ValueError(f"{n_cells} cells with {len(obs)} obs rows and {len(names)} names")
        columns, dtype = canonical_obs(obs), self._rows.dtype
        how = TEXT if self._filter else None
        with H5File(self._table.of(self._genes)) as file:
            offsets = self._write_rows(file, n_cells)
            write_texts(file, "cells", names, how, {})
            write_columns(file, "obs", columns, self._counts(dtype), how)
            content = self._digest.hexdigest(self._genes, names, columns)
            return Encoded(file.image(), offsets, content, dtype.name)

    def _counts(self, dtype: np.dtype[Any]) -> dict[str, Array]:
        parts = self._counted or [(np.empty(0), np.empty(0))]
        n_genes, sums = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        # By the type of X, not of the pieces it came in: whole numbers are exact either way.
        return dict(zip(COUNTED, (n_genes.astype(np.int32), sums.astype(_sum_type(dtype))), strict=True))

    def _write_rows(self, file: H5File, n_cells: int) -> tuple[Offsets]:
        shape, dtype = (n_cells, len(self._genes)), self._rows.dtype
        n_rows, blocks = self._rows.finish()
        if self._filter is None or not n_cells:
            return (file.pieces("X", dtype, shape, blocks),)
        return (file.blocks("X", dtype, shape, n_rows, blocks, self._filter),)


def _sum_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype.kind == "f" else np.int64)
