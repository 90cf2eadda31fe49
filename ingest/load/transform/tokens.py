"""Counts as tokens, whole numbers from 0 to ``n_tokens - 1`` for an embedding to look up; 0 is "no count".

None of them looks at anything but the one cell: normalising first is possible, and for quantile bins needless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.load.transform import kernels
from ingest.load.transform.base import bad_transform, room

if TYPE_CHECKING:
    from ingest.load.transform.base import Totals

__all__ = ["BinnedTokens", "DirectTokens", "LogTokens"]

_MOST_TOKENS = 2**24
"""Beyond this no embedding is meant."""


@dataclass(frozen=True, slots=True)
class DirectTokens:
    """The count itself, ``min(count, n_tokens - 1)``: int32.

    Raises
    ------
    ConfigError
        ``bad-transform``: fewer than two tokens; or, when called, values that are no counts.
    """

    n_tokens: int
    """Size of the vocabulary; the last token stands for all counts from there on."""

    def __post_init__(self) -> None:
        _check_number("n_tokens", self.n_tokens)

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:  # noqa: ARG002 # of no matter here
        """Return int32 tokens of the same entries."""
        if (at := kernels.no_count(counts.data)) >= 0:
            raise bad_transform(
                f"{self} of {counts.data[at].item()!r}: direct tokens are whole counts",
                hint="leave out what normalises before it, or take BinnedTokens or LogTokens",
            )
        out = room(counts.data, np.int32)
        kernels.direct(counts.data, self.n_tokens - 1, out)
        return _with(counts, out)


@dataclass(frozen=True, slots=True)
class LogTokens:
    """The count's order of magnitude, ``min(1 + floor(log_base(count)), n_tokens - 1)``: int32.

    With base 2: 1 is token 1, 2 and 3 are 2, 4 to 7 are 3. What is above zero and below `base` is 1, fractions too.
    Values are compared with the powers, so that a power itself never falls below its token.

    Raises
    ------
    ConfigError
        ``bad-transform``: fewer than two tokens, or a base that is not above 1.
    """

    n_tokens: int
    """Size of the vocabulary; the last token stands for all larger values."""
    base: float = 2.0
    """How much more is one token more."""

    def __post_init__(self) -> None:
        _check_number("n_tokens", self.n_tokens)
        if not (self.base > 1 and math.isfinite(self.base)):
            raise bad_transform(f"base {self.base!r}: a number above 1 is wanted, such as 2")

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:  # noqa: ARG002 # of no matter here
        """Return int32 tokens of the same entries."""
        steps = min(self.n_tokens - 2, int(math.log(np.finfo(np.float32).max, self.base)) + 1)
        return _by_edges(counts, np.power(np.float64(self.base), np.arange(1, steps + 1)))


@dataclass(frozen=True, slots=True)
class BinnedTokens:
    """The bin of each value above zero, from 1 to ``n_bins - 1``: int32.

    ``quantile``: by the quantiles of the cell's own values, as scGPT bins them (Cui et al., Nat Methods 2024; edges are
    linearly interpolated quantiles at ``n_bins - 1`` equal steps from 0 to 1; a bin is the number of edges reached).
    scGPT spreads equal values at random over the bins whose edges coincide there; here they all take the highest, so
    that an epoch can be repeated. Any strictly rising function of the values has the same bins: counts need neither
    normalising nor a logarithm first, and without are binned faster.

    ``uniform``: ``n_bins - 1`` intervals of equal width between zero and the cell's largest value, the upper end of
    each belonging to it.

    Numbers: 1 + how many of these edges, the same for all cells, a value reaches.

    Raises
    ------
    ConfigError
        ``bad-transform``: fewer than two bins, unknown or unsorted edges, or as many that they make other bins.
    """

    n_bins: int
    """Size of the vocabulary, bin 0 for zero included."""
    edges: str | tuple[float, ...] = "quantile"
    """``quantile``, ``uniform``, or ``n_bins - 2`` ascending numbers above zero."""

    def __post_init__(self) -> None:
        _check_number("n_bins", self.n_bins)
        if isinstance(self.edges, str):
            if self.edges not in ("quantile", "uniform"):
                raise bad_transform(f"edges {self.edges!r}: 'quantile', 'uniform' or numbers are wanted")
            return
        object.__setattr__(self, "edges", tuple(float(edge) for edge in self.edges))
        _check_edges(self.edges, self.n_bins)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary: `n_bins`."""
        return self.n_bins

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:  # noqa: ARG002 # of no matter here
        """Return int32 tokens of the same entries."""
        if not isinstance(self.edges, str):
            return _by_edges(counts, np.array(self.edges, np.float64))
        out = room(counts.data, np.int32)
        kernel = kernels.quantile_bins if self.edges == "quantile" else kernels.uniform_bins
        kernel(counts.indptr, counts.data, self.n_bins, out)
        return _with(counts, out)


def _check_number(name: str, n_tokens: int) -> None:
    if not 2 <= n_tokens <= _MOST_TOKENS:
        raise bad_transform(f"{name} {n_tokens!r}: from 2, one of them for zero, to {_MOST_TOKENS:,}")


def _check_edges(edges: tuple[float, ...], n_bins: int) -> None:
    if len(edges) != n_bins - 2:
        raise bad_transform(f"{len(edges)} edges make {len(edges) + 2} bins with that of zero, not {n_bins}")
    if any(not low < high for low, high in zip((0.0, *edges), (*edges, math.inf), strict=True)):
        raise bad_transform(f"edges {edges}: ascending numbers above zero are wanted")


def _by_edges(counts: Counts, edges: np.ndarray[Any, np.dtype[np.float64]]) -> Counts:
    """Return 1 + the number of `edges` that each value reaches."""
    table = (1 + np.searchsorted(edges, np.arange(kernels.TABLE), side="right")).astype(np.int32)
    table[0] = 0
    out = room(counts.data, np.int32)
    kernels.edge_tokens(counts.data, table, edges, out)
    return _with(counts, out)


def _with(counts: Counts, data: np.ndarray[Any, np.dtype[np.int32]]) -> Counts:
    return Counts(counts.indptr, counts.indices, data, counts.n_genes)
