"""Arrays that are used again: fresh memory of a window's size costs as much time as inflating into it."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

__all__ = ["Buffers"]

Array = np.ndarray[Any, Any]


class Buffers:
    """Lend arrays, and lend those again of which no view is left anywhere.

    Every view of an array, also a tensor made of one, refers to it. Whoever keeps a view keeps the array: it is then
    simply never lent again.

    Parameters
    ----------
    most
        Arrays kept for use.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._kept: list[Array] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, (self._most,)  # to another process go none: each has its own

    def lend(self, n: int, dtype: np.dtype[Any]) -> Array:
        """Return an array ``(n,)`` of whatever values."""
        size = n * dtype.itemsize
        with self._lock:
            found = self._free(size)
            if found is None:
                found = np.empty(max(size + size // 8, 1), np.uint8)
                self._kept.append(found)
                if len(self._kept) > self._most:
                    del self._kept[0]
            return found[:size].view(dtype)

    def _free(self, size: int) -> Array | None:
        best: int | None = None
        for number in range(len(self._kept)):
            length = len(self._kept[number])
            fits = size <= length <= max(4 * size, 1 << 16)
            if fits and _references(self._kept, number) <= _OURS and (best is None or length < len(self._kept[best])):
                best = number
        return None if best is None else self._kept[best]


def _references(kept: list[Array], number: int) -> int:
    """Count the references to a buffer, as Python counts them here: how many of them are ours is measured."""
    return sys.getrefcount(kept[number])


_OURS = _references([np.empty(1, np.uint8)], 0)
"""References to a buffer of which nobody has a view."""
