"""What is added up over the chunks: counts, normalised values, clipped counts, totals of cells."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.hvg.batches import ALL, batch_codes
from ingest.hvg.kernels import add_clipped, add_counts, add_fractions, add_normalised
from ingest.hvg.sums import BatchSums, shift_for
from ingest.warm import compile_hvg_kernels

if TYPE_CHECKING:
    from ingest.block import Counts
    from ingest.fold_worker import ReadChunk
    from ingest.opened import OpenPlan

__all__ = ["CellTotals", "ClippedSums", "CountSums", "NormalisedSums", "add_values", "median_total"]

Array = np.ndarray[Any, Any]

_SLACK = 1 + 1e-9
"""A normalised value may round above its bound."""


def _placed(state: BatchSums, chunk: ReadChunk, batch_key: str | None) -> Array:
    """Count the chunk's cells and return where in `state` each belongs: int32 ``(n_cells,)``."""
    if batch_key is None:
        return np.full(chunk.n_cells, state.places([ALL], [chunk.n_cells])[0], np.int32)
    labels, codes = batch_codes(chunk.obs[batch_key])
    places: Array = state.places(labels, np.bincount(codes, minlength=len(labels)).tolist())[codes]
    return places


def add_values(state: BatchSums, counts: Counts, places: Array, bound: float | None, chunk: int) -> None:
    """Add checked values to `state`: counts as they are, fractions as multiples of its unit.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)``, of chunk number `chunk`.
    places
        int32 ``(n_cells,)``: where in `state` each cell belongs.
    bound
        The largest value, where fractions are allowed; None when all values are whole.

    Raises
    ------
    CorruptError
        A value is above `bound` (kind ``totals``).
    """
    if bound is None:
        add_counts(counts.indptr, counts.indices, counts.data, places, state.limbs)
        return
    scale = math.ldexp(1.0, state.shift)
    if add_fractions(counts.indptr, counts.indices, counts.data, places, scale, state.limbs) >= 0:
        said = f"chunk {chunk} holds a value above {bound:g}, the largest of all receipts"
        raise CorruptError(said, kind="totals", chunk=chunk)


@dataclass(frozen=True, slots=True)
class CountSums:
    """Sums of counts and their squares, per batch and gene."""

    batch_key: str | None = None
    bound: float | None = None
    """The largest value, where fractions are allowed; None when all values are whole."""

    def begin(self, opened: OpenPlan) -> BatchSums:
        """Return sums of nothing."""
        state = BatchSums(len(opened.genes), 0 if self.bound is None else shift_for(self.bound))
        compile_hvg_kernels()
        return state

    def add(self, state: BatchSums, chunk: ReadChunk) -> None:
        """Add one chunk.

        Raises
        ------
        CorruptError
            It holds a value larger than its receipt says.
        """
        batches = _placed(state, chunk, self.batch_key)
        for piece in chunk.pieces(allow_noninteger=self.bound is not None):
            add_values(state, piece.counts, batches[piece.cells], self.bound, chunk.number)

    def merge(self, state: BatchSums, other: BatchSums) -> None:
        """Add `other`."""
        state.merge(other)


@dataclass(frozen=True, slots=True)
class NormalisedSums:
    """Sums of ``count / (total of the cell / target)``, or of `log1p` of it, and of their squares.

    In float64, by the formula of scanpy's ``pp.normalize_total`` and ``pp.log1p``, which work in float32.
    """

    target: float
    logarithm: bool
    batch_key: str | None = None
    allow_noninteger: bool = False

    def begin(self, opened: OpenPlan) -> BatchSums:
        """Return sums of nothing."""
        largest = self.target * _SLACK
        state = BatchSums(len(opened.genes), shift_for(math.log1p(largest) * _SLACK if self.logarithm else largest))
        compile_hvg_kernels()
        return state

    def add(self, state: BatchSums, chunk: ReadChunk) -> None:
        """Add one chunk."""
        batches, scale = _placed(state, chunk, self.batch_key), math.ldexp(1.0, state.shift)
        for piece in chunk.pieces(allow_noninteger=self.allow_noninteger):
            counts = piece.counts
            factors = piece.summary.sums.astype(np.float64) / self.target
            add_normalised(
                counts.indptr,
                counts.indices,
                counts.data,
                batches[piece.cells],
                factors,
                self.logarithm,
                scale,
                state.limbs,
            )

    def merge(self, state: BatchSums, other: BatchSums) -> None:
        """Add `other`."""
        state.merge(other)


@dataclass(frozen=True, slots=True, eq=False)
class ClippedSums:
    """Sums of the counts up to a limit of their batch and gene; the first word says how many are above."""

    labels: tuple[str, ...]
    limits: Array
    """float64 ``(n_batches, n_genes)``."""
    batch_key: str | None = None

    def begin(self, opened: OpenPlan) -> BatchSums:
        """Return sums of nothing, with every batch in its place."""
        state = BatchSums(len(opened.genes))
        state.places(self.labels, [0] * len(self.labels))
        compile_hvg_kernels()
        return state

    def add(self, state: BatchSums, chunk: ReadChunk) -> None:
        """Add one chunk."""
        batches = _placed(state, chunk, self.batch_key)
        for piece in chunk.pieces():
            counts = piece.counts
            add_clipped(counts.indptr, counts.indices, counts.data, batches[piece.cells], self.limits, state.limbs)

    def merge(self, state: BatchSums, other: BatchSums) -> None:
        """Add `other`."""
        state.merge(other)


@dataclass(frozen=True, slots=True)
class CellTotals:
    """How many cells have which total."""

    allow_noninteger: bool = False

    def begin(self, opened: OpenPlan) -> Counter[float]:  # noqa: ARG002 # the Protocol's
        """Return no cells."""
        return Counter()

    def add(self, state: Counter[float], chunk: ReadChunk) -> None:
        """Add one chunk."""
        for piece in chunk.pieces(allow_noninteger=self.allow_noninteger):
            totals, numbers = np.unique(piece.summary.sums, return_counts=True)
            state.update(dict(zip(totals.tolist(), numbers.tolist(), strict=True)))

    def merge(self, state: Counter[float], other: Counter[float]) -> None:
        """Add `other`."""
        state.update(other)


def median_total(totals: Counter[float]) -> float | None:
    """Return the median total of the cells that have counts, the mean of the middle two where they are even.

    None where no cell has any.
    """
    pairs = sorted((total, n) for total, n in totals.items() if total > 0)
    if not pairs:
        return None
    values = np.array([total for total, _ in pairs])
    ends = np.cumsum([n for _, n in pairs])
    middle = [values[int(np.searchsorted(ends, at, side="right"))] for at in ((ends[-1] - 1) // 2, ends[-1] // 2)]
    return float(middle[0] + middle[1]) / 2
