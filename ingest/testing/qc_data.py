"""Cells for tests of quality control: debris, an empty cell, high mitochondrial shares, perturbations, doublets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from ingest.testing.hvg_data import varied_counts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["N_MITO", "write_qc_source"]

N_MITO = 9
"""The first genes, whose symbols begin with ``MT-``."""


def write_qc_source(path: Path, n_cells: int = 240, n_genes: int = 160, *, seed: int = 0) -> anndata.AnnData:
    """Write an h5ad file of whole counts and return it, with ``var["mt"]``.

    Every eighth cell is debris with a twentieth of its counts, every eleventh is dying, cell 5 is empty; some genes
    are seen in few cells. obs has ``is_doublet`` (bool), ``perturbation`` and ``donor`` (text), ``score`` (float).
    """
    rng = np.random.default_rng(seed)
    dense = varied_counts(n_cells, n_genes, seed=seed).toarray()
    dense[::8] = rng.binomial(dense[::8].astype(np.int64), 0.05)
    dense[::11, :N_MITO] *= 6
    dense[5] = 0
    dense[rng.random((n_cells, n_genes)) < np.linspace(0, 0.995, n_genes)] = 0
    names = [f"MT-{number}" if number < N_MITO else f"GENE{number}" for number in range(n_genes)]
    var = pd.DataFrame({"feature_name": names}, index=[f"ENSG{number:011d}" for number in range(n_genes)])
    obs = pd.DataFrame(
        {
            "is_doublet": rng.random(n_cells) < 0.1,
            "perturbation": pd.Categorical(rng.choice(["non-targeting", "TP53_1", "MYC_2"], n_cells)),
            "donor": pd.Categorical([f"d{number % 3}" for number in range(n_cells)]),
            "score": rng.random(n_cells),
        },
        index=[f"cell{number}" for number in range(n_cells)],
    )
    found = anndata.AnnData(sparse.csr_matrix(dense.astype(np.float32)), obs=obs, var=var)
    found.write_h5ad(path)
    found.var["mt"] = found.var["feature_name"].str.startswith("MT-")
    return found
