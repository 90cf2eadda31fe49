"""Medians and quantiles of more values than memory holds: exact, by counting digits in a few passes over them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["median", "order_statistics", "quantiles"]

Float64 = np.ndarray[Any, np.dtype[np.float64]]

_BITS = 16
_RADIX = 1 << _BITS


def order_statistics(pieces: Callable[[], Iterable[Float64]], ranks: Sequence[int]) -> list[float]:
    """Return the values that stand at `ranks`, from 0, in ascending order.

    The bits of floats that are not negative order as their values do. Four passes fix sixteen of them each, for all
    ranks at once: half a megabyte a rank, whatever the number of values.

    Parameters
    ----------
    pieces
        Yields all values, float64 ``(n,)`` each, none negative or NaN; asked four times for the same.
    """
    known = dict.fromkeys(range(len(ranks)), 0)
    left = dict(enumerate(ranks))
    for shift in range(64 - _BITS, -1, -_BITS):
        counts = {prefix: np.zeros(_RADIX, np.int64) for prefix in known.values()}
        for piece in pieces():
            bits = np.ascontiguousarray(piece).view(np.uint64)
            digits = bits >> np.uint64(shift)
            for prefix, count in counts.items():
                mine = digits if shift == 64 - _BITS else digits[digits >> np.uint64(_BITS) == np.uint64(prefix)]
                count += np.bincount((mine & np.uint64(_RADIX - 1)).astype(np.int64), minlength=_RADIX)
        for at, prefix in known.items():
            ends = np.cumsum(counts[prefix])
            digit = int(np.searchsorted(ends, left[at], side="right"))
            left[at] -= int(ends[digit - 1]) if digit else 0
            known[at] = (prefix << _BITS) | digit
    found: list[float] = np.array(list(known.values()), np.uint64).view(np.float64).tolist()
    return found


def median(pieces: Callable[[], Iterable[Float64]], n: int) -> float:
    """Return the median of `n` values, the mean of the middle two where `n` is even; NaN where there are none."""
    if not n:
        return math.nan
    low, high = order_statistics(pieces, [(n - 1) // 2, n // 2])
    return (low + high) / 2


def quantiles(pieces: Callable[[], Iterable[Float64]], n: int, shares: Sequence[float]) -> list[float]:
    """Return the quantiles of `n` values at `shares` of 0 to 1, between two values in proportion, as numpy has them."""
    if not n:
        return [math.nan] * len(shares)
    places = [share * (n - 1) for share in shares]
    found = order_statistics(pieces, [rank for place in places for rank in (math.floor(place), math.ceil(place))])
    return [
        low + (high - low) * (at - math.floor(at))
        for at, low, high in zip(places, found[::2], found[1::2], strict=True)
    ]
