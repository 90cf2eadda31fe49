"""Sums per gene that can be merged in any order, and the moments they give, each rounded once.

Sums are whole numbers, so adding them is exact, associative and commutative: how chunks were cut into units, who died
and who came first changes nothing. Mean and variance are quotients of whole numbers, which Python divides with one
correct rounding: there is no cancellation, whatever the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.hvg.kernels import WORDS, add_limbs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BatchSums", "Moments", "shift_for", "whole_sums"]

Array = np.ndarray[Any, Any]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

_BITS = 62
"""Of the largest value: what `ingest.hvg.kernels` squares by halves."""


def shift_for(bound: float) -> int:
    """Return the largest shift with which values up to `bound` stay below ``2**62`` as multiples of ``2**-shift``.

    A float64 is such a multiple, exactly, from ``2**(53 - shift)`` on; smaller ones are off by ``2**-(shift + 1)`` at
    most.
    """
    return _BITS - max(0, math.frexp(bound)[1])


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and variance of every gene over some cells, both ``(n_genes,)``, correctly rounded."""

    n_cells: int
    detected: np.ndarray[Any, np.dtype[np.int64]]
    """int64: cells in which the gene is not 0."""
    mean: Float64
    variance: Float64
    """With n - 1 in the denominator, as scanpy has it; NaN for a single cell."""

    @property
    def dispersion(self) -> Float64:
        """Variance over mean; NaN where the gene was not seen."""
        found: Float64 = np.full(len(self.mean), np.nan)
        np.divide(self.variance, self.mean, out=found, where=self.detected > 0)
        return found


@dataclass(slots=True, eq=False)
class BatchSums:
    """Sums of every gene, apart for each batch; grows as batches are met."""

    n_genes: int
    shift: int = 0
    """Values are counted as multiples of ``2**-shift``."""
    labels: list[str] = field(default_factory=list)
    n_cells: list[int] = field(default_factory=list)
    limbs: Array = field(init=False)
    """uint64 ``(n_batches or more, n_genes, WORDS)``."""

    def __post_init__(self) -> None:
        self.limbs = np.zeros((0, self.n_genes, WORDS), np.uint64)

    def places(self, labels: Sequence[str], n_cells: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Count cells of each of `labels` and return where these batches are: int32 ``(len(labels),)``."""
        known = {label: at for at, label in enumerate(self.labels)}
        for label in labels:
            if label not in known:
                known[label] = len(self.labels)
                self.labels.append(label)
                self.n_cells.append(0)
        if len(self.labels) > len(self.limbs):
            more = np.zeros((len(self.labels) - len(self.limbs), self.n_genes, WORDS), np.uint64)
            self.limbs = np.concatenate([self.limbs, more]) if len(self.limbs) else more
        found = np.array([known[label] for label in labels], np.int32)
        for place, n in zip(found.tolist(), n_cells, strict=True):
            self.n_cells[place] += n
        return found

    def merge(self, other: BatchSums) -> None:
        """Add `other`, which stays as it is.

        Raises
        ------
        ValueError
            It counts other genes, or in other units.
        """
        if (self.n_genes, self.shift) != (other.n_genes, other.shift):
            raise ValueError("sums of other genes, or of other units")
        for place, limbs in zip(self.places(other.labels, other.n_cells).tolist(), other.limbs, strict=True):
            add_limbs(self.limbs[place], limbs)

    def moments(self, label: str) -> Moments:
        """Return the moments of one batch."""
        at = self.labels.index(label)
        return _moments(self.limbs[at], self.n_cells[at], self.shift)

    def total_moments(self) -> Moments:
        """Return the moments of all cells together."""
        total = np.zeros((self.n_genes, WORDS), np.uint64)
        for limbs in self.limbs:
            add_limbs(total, limbs)
        return _moments(total, sum(self.n_cells), self.shift)


def whole_sums(limbs: Array) -> tuple[list[int], list[int]]:
    """Return sum and sum of squares of every gene from its words ``(n_genes, WORDS)``, as Python's whole numbers."""
    words = limbs.tolist()
    return [w[1] + (w[2] << 64) for w in words], [w[3] + (w[4] << 64) + (w[5] << 128) for w in words]


def _moments(limbs: Array, n: int, shift: int) -> Moments:
    mean = np.zeros(len(limbs))
    variance = np.full(len(limbs), 0.0 if n > 1 else np.nan)
    seen = np.flatnonzero(limbs[:, 0])
    up, down = max(0, -shift), max(0, shift)
    for gene, total, squares in zip(seen.tolist(), *whole_sums(limbs[seen]), strict=True):
        mean[gene] = (total << up) / (n << down)
        if n > 1:
            # n Σx² - (Σx)² over n (n - 1): exact until the one division.
            variance[gene] = ((n * squares - total * total) << 2 * up) / (n * (n - 1) << 2 * down)
    return Moments(n, limbs[:, 0].astype(np.int64), mean, variance)
