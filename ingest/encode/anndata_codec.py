"""Chunks as h5ad through anndata's own writer: opened by plain anndata, h5py and scanpy with no plug-in."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from ingest.digest import levels_of
from ingest.encode.base import Encoded, Offsets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.block import Block
    from ingest.genes import Genes

__all__ = ["AnndataCodec", "obs_frame", "var_frame"]


@dataclass(frozen=True, slots=True)
class AnndataCodec:
    """gzip with byte shuffle, both built into every HDF5."""

    codec: str = "deflate"
    """``deflate`` or ``none``."""
    level: int = 1
    """zlib level, 0 to 9; higher levels cost far more time than they save bytes on counts."""

    def encode(self, block: Block) -> Encoded:
        """Return the h5ad file that holds `block`, with its HDF5 chunk offsets."""
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            _write(file, block, self._filters())
            offsets = tuple(_offsets(file, f"X/{name}") for name in ("data", "indices", "indptr"))
        return Encoded(buffer.getbuffer(), offsets)

    def _filters(self) -> dict[str, Any]:
        if self.codec == "none":
            return {}
        return {"compression": "gzip", "compression_opts": self.level, "shuffle": True}


def _write(file: h5py.File, block: Block, filters: Mapping[str, Any]) -> None:
    counts = block.counts
    indptr = counts.indptr if counts.nnz > np.iinfo(np.int32).max else counts.indptr.astype(np.int32)
    matrix = sparse.csr_matrix(
        (counts.data, counts.indices, indptr), shape=(counts.n_cells, counts.n_genes), copy=False
    )
    cells = anndata.AnnData(matrix, obs=obs_frame(block.obs, block.obs_names), var=var_frame(block.genes))
    anndata.io.write_elem(file, "/", cells, dataset_kwargs=filters)


def obs_frame(obs: pa.Table, names: pa.StringArray) -> pd.DataFrame:
    """Return obs as pandas has it: strings become categoricals of the values present, sorted."""
    columns: dict[str, Any] = {}
    for name in obs.column_names:
        column = obs[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            levels = levels_of(column)
            columns[name] = pd.Categorical.from_codes(levels.codes, categories=pd.Index(levels.values, dtype=object))
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return pd.DataFrame(columns, index=pd.Index(names.to_pylist(), dtype=object))


def var_frame(genes: Genes) -> pd.DataFrame:
    """Return var: indexed by feature id, with feature_id, feature_name and feature_length (0: unknown)."""
    return pd.DataFrame(
        {
            "feature_id": np.array(genes.ids, object),
            "feature_name": np.array(genes.names, object),
            "feature_length": np.array(genes.lengths, np.int64),
        },
        index=pd.Index(genes.ids, dtype=object),
    )


def _offsets(file: h5py.File, path: str) -> Offsets:
    dataset = file[path]
    if dataset.chunks is None:
        # Contiguous storage is one chunk of everything; an empty dataset has no place in the file at all.
        at = dataset.id.get_offset()
        whole = () if at is None else (int(at),)
        return Offsets(path, dataset.shape, whole, tuple(int(dataset.id.get_storage_size()) for _ in whole))
    infos = [dataset.id.get_chunk_info(at) for at in range(dataset.id.get_num_chunks())]
    infos.sort(key=lambda info: info.chunk_offset)
    return Offsets(path, dataset.chunks, tuple(int(i.byte_offset) for i in infos), tuple(int(i.size) for i in infos))
