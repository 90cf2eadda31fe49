"""What one cell comes to, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = ["measure_cells"]

Array = np.ndarray[Any, Any]


@compiled
def measure_cells(indptr: Array, indices: Array, data: Array, mito: Array, n_genes: Array, mito_sums: Array) -> None:
    """Count the genes seen in each cell, and add up its counts of some of them in the order of its entries.

    Parameters
    ----------
    indptr, indices, data
        CSR of shape ``(n_cells, n_genes)``, checked.
    mito
        bool ``(n_genes,)``: the genes whose counts are added up.
    n_genes, mito_sums
        int32 and float64 ``(n_cells,)``, written to.
    """
    for row in range(indptr.size - 1):
        seen, total = 0, 0.0
        for at in range(indptr[row], indptr[row + 1]):
            seen += data[at] > 0
            if mito[indices[at]]:
                total += data[at]
        n_genes[row], mito_sums[row] = seen, total
