"""What streaming operations are measured on: h5ad files of two lengths, CSR, CSC and dense, as anndata writes them.

400 of 4,000 genes in every cell, gzip; made once into the user's cache.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from platformdirs import user_cache_path
from scipy import sparse

from benchmarks.loading_data import once

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LAYOUTS", "N_GENES", "make_stream_data", "stream_file"]

N_GENES, _EACH = 4_000, 400
LAYOUTS = ("csr", "csc", "dense")


def stream_file(folder: Path, layout: str, n_cells: int) -> Path:
    """Return where a file lies, in the folder that `make_stream_data` returned."""
    return folder / f"{layout}-{n_cells}.h5ad"


def make_stream_data(sizes: Sequence[int]) -> Path:
    """Make the files that are not there yet, and return their folder."""
    folder = user_cache_path("cell-ingest") / "stream"
    folder.mkdir(parents=True, exist_ok=True)
    for n_cells in sizes:
        for layout in LAYOUTS:
            once(stream_file(folder, layout, n_cells), partial(_make, layout, n_cells))
    return folder


def _make(layout: str, n_cells: int, path: Path) -> None:
    import anndata

    rng = np.random.default_rng(n_cells)
    step = N_GENES // _EACH
    offsets = rng.integers(0, step, (n_cells, _EACH), dtype=np.int32)
    indices = (offsets + np.arange(0, N_GENES, step, dtype=np.int32)).reshape(-1)
    data = rng.geometric(0.5, len(indices)).astype(np.float32)
    indptr = np.arange(0, len(indices) + 1, _EACH)
    counts: Any = sparse.csr_matrix((data, indices, indptr), shape=(n_cells, N_GENES))
    labels = np.array(["control", *(f"gene{number}" for number in range(200))])
    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(rng.choice(labels, n_cells)), "share": rng.random(n_cells)},
        index=[f"cell{number}" for number in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{number}" for number in range(N_GENES)])
    matrix = counts.toarray() if layout == "dense" else counts.asformat(layout)
    anndata.AnnData(matrix, obs=obs, var=var).write_h5ad(path, compression="gzip")
