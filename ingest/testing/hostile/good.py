"""The good h5ad file that each case breaks in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["N_CELLS", "N_GENES", "write_good_h5ad"]

N_CELLS, N_GENES = 24, 40


def write_good_h5ad(path: Path) -> Path:
    """Write 24 cells x 40 genes: X of counts, labels, numbers, flags and texts in obs, arrays beside them."""
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.8, (N_CELLS, N_GENES)).astype(np.float32)
    dense[:, 0] = np.maximum(dense[:, 0], 1)  # two entries at least in every row, for the changes
    dense[:, -1] = np.maximum(dense[:, -1], 1)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["B cell", "T cell"], N_CELLS)),
            "score": rng.random(N_CELLS),
            "flag": rng.random(N_CELLS) < 0.5,
            "note": [f"well {number}" for number in range(N_CELLS)],
            "lane": pd.array([None, *range(1, N_CELLS)], dtype="Int64"),
        },
        index=[f"AAAC{number:04d}-1" for number in range(N_CELLS)],
    )
    var = pd.DataFrame(
        {"feature_name": [f"GENE{number}" for number in range(N_GENES)]},
        index=[f"ENSG{number:011d}" for number in range(1, N_GENES + 1)],
    )
    adata = anndata.AnnData(sparse.csr_matrix(dense), obs=obs, var=var)
    adata.obsm["X_pca"] = rng.random((N_CELLS, 3)).astype(np.float32)
    adata.uns["pca"] = {"params": {"n": 3}, "variance": rng.random(3)}
    adata.write_h5ad(path)
    return path
