"""Our encoder beside `anndata.write_h5ad(compression="gzip")`: the same cells, the same columns of obs and var."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.census import survey_of
from ingest.block import Block
from ingest.encode.base import encode_block
from ingest.encode.open import open_codec
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.open import open_fetcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.census import Selection
    from benchmarks.values import Row

__all__ = ["as_anndata", "load_block", "measure", "run"]

_DENSITY = 0.5
_TIMES = {"write_h5ad": 1, "ours": 5}
"""Files in one measurement, small ones: what is fast is measured over several."""


def run(bench: Bench) -> list[Row]:
    """Write both kinds of file at both sizes, in every round."""
    rows: list[Row] = []
    with closing(open_codec("h5ad", "deflate", 1)) as codec:
        for size in bench.chunk_sizes:
            block = load_block(bench.selection(_DENSITY), size, bench.folder / "surveys")
            adata = as_anndata(block)
            path = bench.folder / "encoded.h5ad"

            def theirs(adata: Any = adata, path: Path = path) -> None:
                adata.write_h5ad(path, compression="gzip")

            def ours(block: Block = block, path: Path = path) -> None:
                path.write_bytes(encode_block(codec, block).data)

            ours()  # compiles
            theirs()
            for turn in range(bench.repeats):
                for way, write in (("write_h5ad", theirs), ("ours", ours)):
                    rows.append(measure(way, write, path, block, _TIMES[way]) | {"round": turn, "size": size})
    return rows


def measure(way: str, write: Callable[[], None], path: Path, block: Block, times: int) -> Row:
    """Write the file of `block` so many times; return what one of them took."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        write()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    size = path.stat().st_size
    path.unlink()
    return {
        "way": way,
        "cells": block.counts.n_cells,
        "nnz": block.counts.nnz,
        "seconds": round(wall / times, 5),
        "cpu_seconds": round(cpu / times, 5),
        "bytes": size,
        "bytes_per_cell": round(size / block.counts.n_cells, 1),
        "bytes_per_nnz": round(size / block.counts.nnz, 3),
    }


def load_block(selection: Selection, n_cells: int, cache: Path) -> Block:
    """Return the first cells of a selection as a run would hand them to its encoder."""
    survey = survey_of(selection, cache)
    with closing(open_fetcher(survey, survey.genes, FetchOptions(), FetchLimits(512 << 20, 1, cache))) as fetcher:
        counts = fetcher.read(selection.joinids[:n_cells]).counts
    return Block(counts, selection.obs().slice(0, n_cells), selection.names().slice(0, n_cells), survey.genes)


def as_anndata(block: Block) -> anndata.AnnData:
    """Return the same as anndata's users hold it: strings as categoricals, genes by their ids."""
    obs = {name: _column(block.obs[name].combine_chunks()) for name in block.obs.column_names}
    genes = block.genes
    var = {"feature_id": list(genes.ids), "feature_name": list(genes.names), "feature_length": genes.lengths}
    counts = block.counts
    matrix = sparse.csr_matrix(
        (counts.data, counts.indices, counts.indptr.astype(np.int32)), shape=(counts.n_cells, counts.n_genes)
    )
    return anndata.AnnData(
        matrix,
        obs=pd.DataFrame(obs, index=pd.Index(block.obs_names.to_pylist(), dtype=object)),
        var=pd.DataFrame(var, index=pd.Index(list(genes.ids), dtype=object)),
    )


def _column(column: Any) -> Any:
    values = column.to_pandas()
    categorical = isinstance(values.dtype, pd.CategoricalDtype)
    return values.cat.remove_unused_categories().array if categorical else values.array
