"""Our dense encoder beside `h5py.create_dataset(compression="gzip")`: the same matrix, the same annotations.

The matrix is made dense for h5py ahead of the measurement; ours is given the counts as they were read.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from benchmarks.encoding import load_block, measure
from ingest.encode.base import encode_block
from ingest.encode.open import open_codec

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.values import Row
    from ingest.block import Block

__all__ = ["as_matrix", "run", "write_dense"]

_DENSITY = 0.5
_TIMES = {"create_dataset": 1, "ours": 5}
"""Files in one measurement, small ones: what is fast is measured over several."""


def run(bench: Bench) -> list[Row]:
    """Write both kinds of file at both sizes, in every round."""
    rows: list[Row] = []
    with closing(open_codec("h5", "deflate", 1)) as codec:
        for size in bench.chunk_sizes:
            block = load_block(bench.selection(_DENSITY), size, bench.folder / "surveys")
            block = replace(block, counts=replace(block.counts, data=block.counts.data.astype(np.int16)))
            matrix, path = as_matrix(block), bench.folder / "encoded.h5"

            def theirs(matrix: Any = matrix, block: Block = block, path: Path = path) -> None:
                write_dense(path, matrix, block)

            def ours(block: Block = block, path: Path = path) -> None:
                path.write_bytes(encode_block(codec, block).data)

            ours()  # compiles
            theirs()
            for turn in range(bench.repeats):
                for way, write in (("create_dataset", theirs), ("ours", ours)):
                    rows.append(measure(way, write, path, block, _TIMES[way]) | {"round": turn, "size": size})
    return rows


def as_matrix(block: Block) -> np.ndarray[Any, Any]:
    """Return the counts as ``(n_cells, n_genes)``."""
    counts = block.counts
    matrix = np.zeros((counts.n_cells, counts.n_genes), counts.data.dtype)
    matrix[np.repeat(np.arange(counts.n_cells), np.diff(counts.indptr)), counts.indices] = counts.data
    return matrix


def write_dense(path: Path, matrix: np.ndarray[Any, Any], block: Block) -> None:
    """Write the file as a person would."""
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=matrix, compression="gzip")
        file.create_dataset("genes", data=list(block.genes.ids), compression="gzip")
        file.create_dataset("cells", data=block.obs_names.to_pylist(), compression="gzip")
        file.create_dataset("obs/gene_count", data=np.count_nonzero(matrix, axis=1), compression="gzip")
        file.create_dataset("obs/umi_count", data=matrix.sum(axis=1, dtype=np.int64), compression="gzip")
        for name in block.obs.column_names:
            file.create_dataset(f"obs/{name}", data=block.obs[name].to_pylist(), compression="gzip")
