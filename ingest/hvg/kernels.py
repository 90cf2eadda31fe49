"""Exact sums per gene, compiled: whole numbers in limbs of 64 bits, so that no order of adding changes a bit.

A gene's sums are six uint64 words: how many values, their sum (two limbs, the lower first) and the sum of their squares
(three limbs). Counts are added as they are; other values, of which none is negative, as multiples of ``2**-shift``
below ``2**62``. `ingest.hvg.sums` reads the words back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = ["WORDS", "add_clipped", "add_counts", "add_fractions", "add_limbs", "add_normalised"]

Array = np.ndarray[Any, Any]

WORDS = 6
"""uint64 words of one gene: n, sum (2), sum of squares (3)."""

_TABLE = 256
"""Counts below this are normalised once a cell, however many genes have them."""

_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


@compiled
def _add_small(limbs: Array, batch: int, gene: int, value: Any) -> None:
    """Add a whole number below ``2**32``: its square fits one word."""
    limbs[batch, gene, 0] += _ONE
    low = limbs[batch, gene, 1] + value
    if low < value:
        limbs[batch, gene, 2] += _ONE
    limbs[batch, gene, 1] = low
    square = value * value
    low = limbs[batch, gene, 3] + square
    if low < square:
        limbs[batch, gene, 4] += _ONE
    limbs[batch, gene, 3] = low


@compiled
def _square(value: Any) -> tuple[Any, Any]:
    """Return the lower and the upper word of the square of a number below ``2**62``, by halves."""
    high, low = value >> _HALF, value & _LOW
    middle, least = high * low, low * low
    lower = least + (middle << np.uint64(33))
    upper = high * high + (middle >> np.uint64(31))
    if lower < least:
        upper += _ONE
    return lower, upper


@compiled
def _add_wide(limbs: Array, batch: int, gene: int, value: Any, lower: Any, upper: Any) -> None:
    """Add a number below ``2**62`` whose square is (`lower`, `upper`)."""
    limbs[batch, gene, 0] += _ONE
    low = limbs[batch, gene, 1] + value
    if low < value:
        limbs[batch, gene, 2] += _ONE
    limbs[batch, gene, 1] = low
    low = limbs[batch, gene, 3] + lower
    if low < lower:
        upper += _ONE  # the square of a number below 2**62 leaves room for it
    limbs[batch, gene, 3] = low
    high = limbs[batch, gene, 4] + upper
    if high < upper:
        limbs[batch, gene, 5] += _ONE
    limbs[batch, gene, 4] = high


@compiled
def add_counts(indptr: Array, indices: Array, data: Array, batches: Array, limbs: Array) -> None:
    """Add checked whole counts below ``2**31``.

    Parameters
    ----------
    indptr, indices, data
        CSR of shape ``(n_cells, n_genes)``.
    batches
        int32 ``(n_cells,)``: where in `limbs` each cell is counted.
    limbs
        uint64 ``(n_batches, n_genes, WORDS)``, added to.
    """
    for row in range(indptr.size - 1):
        batch = batches[row]
        for at in range(indptr[row], indptr[row + 1]):
            count = np.int64(data[at])
            if count > 0:
                _add_small(limbs, batch, indices[at], np.uint64(count))


@compiled
def add_fractions(indptr: Array, indices: Array, data: Array, batches: Array, scale: float, limbs: Array) -> int:
    """Add values as multiples of ``1 / scale``, a power of two; otherwise as `add_counts`.

    Return the first row with a value that does not fit below ``2**62 / scale``, or -1.
    """
    for row in range(indptr.size - 1):
        batch = batches[row]
        for at in range(indptr[row], indptr[row + 1]):
            scaled = np.rint(np.float64(data[at]) * scale)
            if not scaled < 4611686018427387904.0:
                return row
            if data[at] > 0:
                value = np.uint64(np.int64(scaled))
                lower, upper = _square(value)
                _add_wide(limbs, batch, indices[at], value, lower, upper)
    return -1


@compiled
def add_normalised(
    indptr: Array,
    indices: Array,
    data: Array,
    batches: Array,
    factors: Array,
    logarithm: bool,
    scale: float,
    limbs: Array,
) -> None:
    """Add each value divided by its cell's factor, `log1p` of that where `logarithm`; otherwise as `add_fractions`.

    Parameters
    ----------
    factors
        float64 ``(n_cells,)``: a cell's total over the target; not 0 where the cell has values.
    """
    made = np.full(_TABLE, -1, np.int64)
    values, lowers, uppers = np.empty(_TABLE, np.uint64), np.empty(_TABLE, np.uint64), np.empty(_TABLE, np.uint64)
    for row in range(indptr.size - 1):
        batch, factor = batches[row], factors[row]
        for at in range(indptr[row], indptr[row + 1]):
            count = np.float64(data[at])
            if not count > 0:
                continue
            slot = np.int64(count) if count < _TABLE else np.int64(-1)
            if slot >= 0 and np.float64(slot) != count:
                slot = np.int64(-1)
            if slot >= 0 and made[slot] == row:
                _add_wide(limbs, batch, indices[at], values[slot], lowers[slot], uppers[slot])
                continue
            normalised = count / factor
            if logarithm:
                normalised = math.log1p(normalised)
            value = np.uint64(np.int64(np.rint(normalised * scale)))
            lower, upper = _square(value)
            _add_wide(limbs, batch, indices[at], value, lower, upper)
            if slot >= 0:
                made[slot], values[slot], lowers[slot], uppers[slot] = row, value, lower, upper


@compiled
def add_clipped(indptr: Array, indices: Array, data: Array, batches: Array, limits: Array, limbs: Array) -> None:
    """Add the counts up to the limit of their batch and gene; of larger ones only count how many (word 0).

    Parameters
    ----------
    limits
        float64 ``(n_batches, n_genes)``.
    """
    for row in range(indptr.size - 1):
        batch = batches[row]
        for at in range(indptr[row], indptr[row + 1]):
            count, gene = np.int64(data[at]), indices[at]
            if count > limits[batch, gene]:
                limbs[batch, gene, 0] += _ONE
            elif count > 0:
                _add_small(limbs, batch, gene, np.uint64(count))
                limbs[batch, gene, 0] -= _ONE


@compiled
def add_limbs(into: Array, other: Array) -> None:
    """Add the sums of `other` ``(n_genes, WORDS)`` to those of `into`."""
    for gene in range(into.shape[0]):
        into[gene, 0] += other[gene, 0]
        for first, last in ((1, 2), (3, 5)):
            carry = np.uint64(0)
            for word in range(first, last + 1):
                low = into[gene, word] + carry
                carry = _ONE if low < carry else np.uint64(0)
                total = low + other[gene, word]
                if total < low:
                    carry += _ONE
                into[gene, word] = total
