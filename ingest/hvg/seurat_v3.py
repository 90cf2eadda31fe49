"""``seurat_v3``: variance of counts, standardised by the trend of variance over mean and clipped.

Stuart et al., Cell 2019, in the way of scanpy's ``pp.highly_variable_genes(flavor="seurat_v3")``: a first pass over
the counts gives moments, to whose logarithms loess fits the trend; a second adds up counts clipped at
``sqrt(n_cells)`` standard deviations of the trend above the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError
from ingest.hvg.choice import Choice
from ingest.hvg.sums import whole_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.hvg.sums import Moments

__all__ = ["Trend", "by_standardised_variance", "fit_trend", "require_loess", "standardised_variance"]

Array = np.ndarray[Any, Any]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_SPAN = 0.3
_DEGREE = 2
_LEAST_GENES = 10
"""loess divides by the number of neighbours, a span of the genes: with fewer than four genes it ends the process."""


@dataclass(frozen=True, slots=True, eq=False)
class Trend:
    """What the trend expects of every gene of one batch; both float64 ``(n_genes,)``."""

    deviation: Float64
    """Standard deviation; 1 for genes whose counts do not vary."""
    limit: Float64
    """Counts above it are taken as it."""


def require_loess() -> None:
    """Make sure that loess can be had, before any chunk is read.

    Raises
    ------
    ConfigError
        scikit-misc is not installed (kind ``missing-package``).
    """
    try:
        import skmisc.loess  # noqa: F401 # the question is whether it is there
    except ImportError as error:
        raise ConfigError(
            f"--flavour seurat_v3 fits its trend with scikit-misc, which is not usable here ({error})",
            kind="missing-package",
            hint="pip install 'cell-ingest[hvg]'; the other flavours do without",
        ) from error


def fit_trend(moments: Moments, *, where: str = "the cells") -> Trend:
    """Fit log10 of the variance over log10 of the mean by loess (span 0.3, degree 2).

    Raises
    ------
    ConfigError
        Too few cells or genes for it (kind ``no-trend``).
    """
    from skmisc.loess import loess

    varies = moments.variance > 0
    expected = np.zeros(len(varies))
    x, y = np.log10(moments.mean[varies]), np.log10(moments.variance[varies])
    try:
        if len(x) < _LEAST_GENES:
            raise ValueError("too few genes")  # noqa: TRY301 # one sentence for all that is too little
        model = loess(x, y, span=_SPAN, degree=_DEGREE)
        model.fit()
        expected[varies] = model.outputs.fitted_values
    except ValueError as error:
        raise ConfigError(
            f"seurat_v3 finds no trend of variance over mean in {where}: {moments.n_cells:,} cells with "
            f"{np.count_nonzero(varies):,} genes that vary ({error})",
            kind="no-trend",
            hint="leave small batches out, or use --flavour dispersion",
        ) from error
    deviation = np.sqrt(10**expected)
    return Trend(deviation, deviation * np.sqrt(moments.n_cells) + moments.mean)


def standardised_variance(moments: Moments, trend: Trend, clipped: Array) -> Float64:
    """Return the variance around the mean, in units of the trend's, of the clipped counts: ``(n_genes,)``.

    ``(N mean² + Σx² - 2 mean Σx) / ((N - 1) deviation²)``, evaluated exactly and rounded once.

    Parameters
    ----------
    clipped
        Words ``(n_genes, WORDS)`` of the counts up to the limit; how many are above stands first.
    """
    n = moments.n_cells
    found = np.zeros(len(clipped))
    seen = np.flatnonzero(moments.detected)
    above = clipped[seen, 0].tolist()
    for gene, over, total, squares in zip(seen.tolist(), above, *whole_sums(clipped[seen]), strict=True):
        mean, limit = Fraction(float(moments.mean[gene])), Fraction(float(trend.limit[gene]))
        around = n * mean * mean + squares + over * limit * limit - 2 * mean * (total + over * limit)
        found[gene] = float(around / (n - 1)) / float(trend.deviation[gene]) ** 2 if n > 1 else np.nan
    return found


def by_standardised_variance(scores: Sequence[Float64], *, n_hvgs: int) -> Choice:
    """Choose the `n_hvgs` genes of the largest standardised variance.

    Over several batches: by the median of the ranks in the batches where the gene is among the first `n_hvgs`, then by
    the number of these batches. Ties go to the gene that stands first; scanpy leaves those of one batch to its sort.
    """
    table = np.array(scores)
    ranks = np.empty(table.shape)
    for row, score in zip(ranks, table, strict=True):
        row[np.argsort(-score, kind="stable")] = np.arange(table.shape[1])
    first = ranks < n_hvgs
    n_batches = first.sum(axis=0).astype(np.int64)
    median = np.full(table.shape[1], np.nan)
    some = n_batches > 0
    median[some] = np.nanmedian(np.where(first, ranks, np.nan)[:, some], axis=0)
    order = np.lexsort((-n_batches, np.where(some, median, np.inf))).astype(np.int64)
    several = n_batches if len(table) > 1 else None
    return Choice(order[:n_hvgs], table.mean(axis=0), "variances_norm", several, median)
