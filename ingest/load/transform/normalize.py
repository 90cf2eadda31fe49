"""Every cell brought to the same total, and the logarithm: scanpy's ``pp.normalize_total`` and ``pp.log1p``.

A cell's total is over **all genes of the dataset**. Where only some are delivered, the loader hands over the totals, so
that a gene has one and the same value whichever genes are asked for, and the value is the one that scanpy gives when it
normalises before it takes the subset. Genes that the dataset itself left out (``run --gene-filter``) are not counted:
they are nowhere in it.

Arithmetic is in float64 and rounded once, so that results differ from scanpy's, which computes in float32, by its
rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.load.transform import kernels
from ingest.load.transform.base import bad_transform, room, totals_of

__all__ = ["Log1p", "Normalize", "NormalizeLog1p"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.load.transform.base import Totals


@dataclass(frozen=True, slots=True)
class Normalize:
    """Multiply each cell by ``target_sum / total``: float32. A cell without counts stays as it is.

    Raises
    ------
    ConfigError
        ``bad-transform``: `target_sum` is not a number above zero.
    """

    target_sum: float = 1e4
    """What each cell's total becomes."""

    def __post_init__(self) -> None:
        _check_target(self.target_sum)

    @property
    def goes_by_totals(self) -> bool:
        """True: see the module."""
        return True

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:
        """Return float32 values of the same entries."""
        return _by_rows(kernels.scale_rows, counts, _factors(counts, totals, self.target_sum))


@dataclass(frozen=True, slots=True)
class Log1p:
    """Take ``log(1 + value)``, natural: float32."""

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:  # noqa: ARG002 # of no matter here
        """Return float32 values of the same entries."""
        return _by_rows(kernels.log1p_rows, counts, np.ones(counts.n_cells))


@dataclass(frozen=True, slots=True)
class NormalizeLog1p:
    """`Normalize`, then `Log1p`, in one pass: ``log(1 + count * target_sum / total)``, float32.

    Raises
    ------
    ConfigError
        ``bad-transform``: `target_sum` is not a number above zero.
    """

    target_sum: float = 1e4
    """What each cell's total becomes before the logarithm."""

    def __post_init__(self) -> None:
        _check_target(self.target_sum)

    @property
    def goes_by_totals(self) -> bool:
        """True: see the module."""
        return True

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:
        """Return float32 values of the same entries."""
        return _by_rows(kernels.log1p_rows, counts, _factors(counts, totals, self.target_sum))


def _check_target(target_sum: float) -> None:
    if not (target_sum > 0 and math.isfinite(target_sum)):
        raise bad_transform(f"target_sum {target_sum!r}: a number above 0 is wanted, such as 1e4")


def _factors(counts: Counts, totals: Totals | None, target_sum: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    of_cell, factors = totals_of(counts, totals), np.ones(counts.n_cells)
    np.divide(target_sum, of_cell, out=factors, where=of_cell > 0)
    return factors


def _by_rows(kernel: Callable[[Any, Any, Any, Any], None], counts: Counts, factors: Any) -> Counts:
    out = room(counts.data, np.float32)
    kernel(counts.indptr, counts.data, factors, out)
    return Counts(counts.indptr, counts.indices, out, counts.n_genes)
