"""Random numbers that are a function of what they are for: the same on every machine, in every version of anything.

A generator with a state would have to be wound forward to resume; here place `i` of stream (seed, epoch, …) has its
number at once. The mixing function is `splitmix64`_.

.. _splitmix64: https://doi.org/10.1145/2714064.2660195
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["draws", "permutation", "uniform"]

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def _mixed(words: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def draws(n: int, *stream: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return `n` numbers of the stream named by whole numbers, uint64 ``(n,)``."""
    state = np.zeros(1, np.uint64)
    for part in stream:
        state = _mixed(state + np.uint64((part * _GOLDEN + _GOLDEN) & _MASK))
    return _mixed(state + (np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)))


def permutation(n: int, *stream: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the numbers below `n` in an order drawn from the stream, int64 ``(n,)``."""
    return np.argsort(draws(n, *stream), kind="stable")


def uniform(*stream: int) -> float:
    """Return one number in [0, 1)."""
    return int(draws(1, *stream)[0] >> np.uint64(11)) / (1 << 53)
