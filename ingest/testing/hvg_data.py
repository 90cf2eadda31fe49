"""Counts that try whoever chooses variable genes: ties, constant genes, genes without counts, one giant count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from ingest.testing.h5ad_files import Csr

__all__ = ["trying_counts", "varied_counts"]


def varied_counts(n_cells: int, n_genes: int, *, seed: int = 0, n_batches: int = 1) -> Csr:
    """Draw overdispersed counts over four orders of mean, float32 ``(n_cells, n_genes)``.

    Cells differ in depth and in type; batch ``cell % n_batches`` scales some genes.
    """
    rng = np.random.default_rng(seed)
    means = 10 ** rng.uniform(-2, 1.7, n_genes)
    depth = rng.lognormal(0, 0.4, n_cells)[:, None]
    kind, marker = rng.integers(0, 4, n_cells), rng.integers(0, 12, n_genes)  # most genes mark no type
    higher = 1 + rng.exponential(4, n_genes) * (kind[:, None] == marker)
    of_batch = rng.lognormal(0, 0.5, (n_batches, n_genes))[np.arange(n_cells) % n_batches]
    spread = rng.gamma(4, 0.25, (n_cells, n_genes))
    counts: Csr = sparse.csr_matrix(rng.poisson(means * depth * higher * of_batch * spread).astype(np.float32))
    return counts


def trying_counts(n_cells: int, n_genes: int, *, seed: int = 0, n_batches: int = 1) -> Csr:
    """Return `varied_counts` with a third of its genes made troublesome.

    Every sixth gene equals the one before it; some have no counts, the same count everywhere, or one count in all.
    """
    dense: np.ndarray[Any, Any] = varied_counts(n_cells, n_genes, seed=seed, n_batches=n_batches).toarray()
    dense[:, 6::6] = dense[:, 5 : n_genes - 1 : 6][:, : len(range(6, n_genes, 6))]
    dense[:, 7::60] = 0
    dense[:, 8::60] = 3
    dense[:, 9::60] = 0
    dense[n_cells // 3, 9::60] = 1
    dense[:, 10] = 0
    dense[n_cells // 2, 10] = 2**20
    counts: Csr = sparse.csr_matrix(dense)
    return counts
