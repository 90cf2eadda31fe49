"""The flavours that rank genes by dispersion, variance over mean: pure functions of the moments.

``dispersion`` ranks by it as it is. ``seurat`` (Satija et al., Nat Biotechnol 2015) and ``cell_ranger`` (Zheng et al.,
Nat Commun 2017) compare each gene with genes of similar mean, in the way of scanpy's
``pp.highly_variable_genes(n_top_genes=…)``, ties at the cut-off included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ingest.hvg.choice import Choice, in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.hvg.sums import Moments

__all__ = ["by_dispersion", "by_normalised_dispersion", "normalised_dispersion"]

Float64 = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_BINS = 20
_UNSEEN_MEAN = 1e-12
"""scanpy's mean of a gene without counts: it takes part in cutting the bins."""
_NORMAL_MAD = 0.6744897501960817
"""Third quartile of the normal distribution: what makes a median absolute deviation a standard deviation."""


def by_dispersion(batches: Sequence[Moments], *, n_hvgs: int, min_cells_pct: float) -> Choice:
    """Choose the `n_hvgs` genes of the largest variance over mean.

    Over several batches, genes are ranked by the number of batches in which they would be chosen, then by the mean
    of their dispersions in those where enough cells have them.

    Parameters
    ----------
    min_cells_pct
        Genes in fewer cells of a batch than this, in per cent, are left out there.
    """
    scores = np.array([_enough(moments, min_cells_pct) for moments in batches])
    if len(batches) == 1:
        order = in_order(scores[0])
        return Choice(order[: min(n_hvgs, _n_known(scores[0]))], scores[0], "dispersion")
    chosen = np.zeros(scores.shape, bool)
    for row, score in zip(chosen, scores, strict=True):
        row[in_order(score)[: min(n_hvgs, _n_known(score))]] = True
    n_batches, mean = chosen.sum(axis=0).astype(np.int64), _mean_known(scores)
    order = in_order(mean, -n_batches)
    return Choice(order[: min(n_hvgs, _n_known(mean))], mean, "dispersion", n_batches)


def _enough(moments: Moments, min_cells_pct: float) -> Float64:
    enough = moments.detected * 100.0 >= min_cells_pct * moments.n_cells
    return np.where(enough, moments.dispersion, np.nan)


def _n_known(score: Float64) -> int:
    return int(np.count_nonzero(~np.isnan(score)))


def _mean_known(scores: Float64) -> Float64:
    """Return the mean over batches of the scores that are known; NaN where none is."""
    known = ~np.isnan(scores)
    number = known.sum(axis=0)
    mean: Float64 = np.full(scores.shape[1], np.nan)
    np.divide(np.where(known, scores, 0.0).sum(axis=0), number, out=mean, where=number > 0)
    return mean


def by_normalised_dispersion(
    batches: Sequence[Moments], *, n_hvgs: int, flavour: str, genes: Sequence[str] = ()
) -> Choice:
    """Choose genes by their dispersion among genes of similar mean, as scanpy does.

    Over one batch every gene is chosen that reaches the `n_hvgs`-th highest score, so ties may make them more. Over
    several, genes without counts in a batch count as 0 there, and genes are ranked by the number of batches that
    choose them, then by mean score, then by id.

    Parameters
    ----------
    flavour
        ``seurat``: moments of normalised values; ``cell_ranger``: of their logarithm.
    genes
        Ids, which decide ties over several batches.
    """
    if len(batches) == 1:
        score = normalised_dispersion(batches[0].mean, batches[0].variance, flavour)
        chosen = _reaching(score, n_hvgs)
        order = in_order(score)
        return Choice(order[chosen[order]], score, "dispersions_norm")
    scores, chosen = np.zeros((len(batches), len(genes))), np.zeros((len(batches), len(genes)), bool)
    for row, picked, moments in zip(scores, chosen, batches, strict=True):
        seen = moments.detected > 0
        row[seen] = normalised_dispersion(moments.mean[seen], moments.variance[seen], flavour)
        picked[seen] = _reaching(row[seen], min(n_hvgs, int(seen.sum())))
    n_batches, mean = chosen.sum(axis=0).astype(np.int64), _mean_known(scores)
    by_id = np.argsort(np.array(genes, object), kind="stable")
    ranked = by_id[in_order(mean[by_id], -n_batches[by_id])]
    return Choice(ranked[:n_hvgs], mean, "dispersions_norm", n_batches)


def _reaching(score: Float64, n_hvgs: int) -> Bools:
    """Mark the genes whose score is at least the `n_hvgs`-th highest."""
    known = np.sort(score[~np.isnan(score)])
    if not len(known):
        return np.zeros(len(score), bool)
    with np.errstate(invalid="ignore"):
        return np.asarray(score >= known[len(known) - min(n_hvgs, len(known))])


def normalised_dispersion(mean: Float64, variance: Float64, flavour: str) -> Float64:
    """Return each gene's dispersion less the centre of its bin of means, over the bin's spread; all ``(n_genes,)``.

    ``seurat``: logarithms, 20 bins of equal width in log1p of the mean, mean and standard deviation; the only gene of
    a bin gets 1. ``cell_ranger``: bins by ventiles of the mean, median and median absolute deviation; equal edges,
    which scanpy refuses, are one edge.
    """
    if not len(mean):
        return np.zeros(0)
    mean = np.where(mean == 0, _UNSEEN_MEAN, mean)
    dispersion = variance / mean
    if flavour == "seurat":
        with np.errstate(divide="ignore"):
            dispersion = np.where(dispersion == 0, np.nan, np.log(dispersion))
        mean = np.log1p(mean)
        edges: Any = _BINS
    else:
        edges = np.unique([-np.inf, *np.percentile(mean, np.arange(10, 105, 5)), np.inf])
    frame = pd.DataFrame({"bin": pd.cut(mean, bins=edges, labels=False), "dispersion": dispersion})
    grouped = frame.groupby("bin")["dispersion"]
    if flavour == "seurat":
        centre, spread = grouped.transform("mean").to_numpy(), grouped.transform("std").to_numpy()
        alone = np.isnan(spread)
        centre, spread = np.where(alone, 0.0, centre), np.where(alone, centre, spread)
    else:
        centre = grouped.transform("median").to_numpy()
        off = pd.DataFrame({"bin": frame["bin"], "off": np.abs(dispersion - centre) / _NORMAL_MAD})
        spread = off.groupby("bin")["off"].transform("median").to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised: Float64 = (dispersion - centre) / spread
    return normalised
