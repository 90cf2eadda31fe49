"""What a flavour decides: which genes, in which order, by which number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Choice", "in_order"]

Float64 = np.ndarray[Any, np.dtype[np.float64]]
Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The genes chosen and what all genes were ranked by."""

    genes: Int64
    """int64 ``(n_hvgs,)``: columns, the most variable first."""
    score: Float64
    """float64 ``(n_genes,)``; NaN where a gene could not be chosen. Over batches their mean."""
    score_name: str
    """``dispersion``, ``dispersions_norm`` or ``variances_norm``."""
    n_batches: Int64 | None = None
    """int64 ``(n_genes,)``: in how many batches each would be chosen."""
    rank: Float64 | None = None
    """float64 ``(n_genes,)``, seurat_v3 alone: median rank over the batches where the gene is among the first."""


def in_order(score: Float64, *before: Any) -> Int64:
    """Return genes by the keys `before`, ascending and the first decisive, then from high to low `score`, NaN last.

    Ties go to the gene that stands first.
    """
    falling = np.where(np.isnan(score), np.inf, -score)
    return np.lexsort((falling, np.isnan(score), *reversed(before))).astype(np.int64)
