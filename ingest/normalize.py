"""Counts brought to one total and logged, for datasets that store them so: ``log1p(count / (total / target))``.

The formula is that of scanpy's ``pp.normalize_total`` and ``pp.log1p``, which work in float32; here it is computed in
float64 and rounded once. A cell's total is that over the genes of the dataset, so that scanpy gives the same of a
dataset of counts with the same genes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.kernels import compiled

if TYPE_CHECKING:
    from ingest.block import Counts

__all__ = ["normalize_counts", "totals_of"]

Array = np.ndarray[Any, Any]

_TABLE = 256
"""Counts below this are computed once a cell, however many genes have them."""


@compiled
def _normalize(indptr: Array, data: Array, factors: Array, out: Array) -> None:
    made, values = np.full(_TABLE, -1, np.int64), np.empty(_TABLE, np.float32)
    for row in range(indptr.size - 1):
        factor = factors[row]
        for at in range(indptr[row], indptr[row + 1]):
            count = np.float64(data[at])
            slot = np.int64(count) if count < _TABLE else np.int64(-1)
            if slot >= 0 and np.float64(slot) != count:
                slot = np.int64(-1)
            if slot >= 0 and made[slot] == row:
                out[at] = values[slot]
                continue
            out[at] = np.float32(math.log1p(count / factor))
            if slot >= 0:
                made[slot], values[slot] = row, out[at]


def normalize_counts(counts: Counts, totals: Array, target: float) -> Counts:
    """Return checked counts, normalised: float32, the same places.

    Parameters
    ----------
    totals
        ``(n_cells,)``: the sum of each row; 0 only of one without entries.
    target
        What every total becomes.
    """
    out = np.empty(len(counts.data), np.float32)
    _normalize(counts.indptr, counts.data, totals.astype(np.float64) / target, out)
    return replace(counts, data=out)


def totals_of(counts: Counts) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return what the totals of normalised cells were brought to, float64 ``(n_cells,)``: sums of ``expm1``."""
    ends = np.concatenate([[0.0], np.cumsum(np.expm1(counts.data.astype(np.float64)))])
    totals: np.ndarray[Any, np.dtype[np.float64]] = ends[counts.indptr[1:]] - ends[counts.indptr[:-1]]
    return totals
