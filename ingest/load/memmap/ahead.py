"""Ask the system for what a batch is about to touch, of archives that do not fit into memory.

A row that is not in memory is a page fault, and the disk is waited for row by row, page by page; or, where the system
reads ahead of each fault, megabytes are read for a row of ten kilobytes. Here it is told which bytes will be wanted,
all of a batch at once, and that nothing else will: the disk has them all in hand together. On an archive that is in
memory anyway that would only cost time.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import psutil

__all__ = ["Prefetch", "is_larger_than_memory"]

Array = np.ndarray[Any, Any]
Int64 = np.ndarray[Any, np.dtype[np.int64]]

_SHARE = 0.5
"""Of the memory that is free: an archive below it ends up in the page cache."""
_GAP_BYTES = 1 << 14
"""Read for nothing rather than asked for twice."""


def is_larger_than_memory(*arrays: Array) -> bool:
    """Return whether arrays take more than the page cache will keep."""
    return sum(array.nbytes for array in arrays) > _SHARE * psutil.virtual_memory().available


class Prefetch:
    """Spans of mapped arrays, asked for before they are read.

    Parameters
    ----------
    arrays
        As they were mapped; those that are not mapped, and systems without ``madvise``, are left alone.
    """

    def __init__(self, *arrays: Array) -> None:
        # The mapping behind a numpy memmap has no public name.
        mapped = [(getattr(array, "_mmap", None), array.itemsize) for array in arrays]
        able = hasattr(mmap, "MADV_WILLNEED")
        self._mapped: list[tuple[Any, int]] = [(found, size) for found, size in mapped if able and found is not None]
        for found, _ in self._mapped:
            found.madvise(mmap.MADV_RANDOM)

    def __call__(self, begins: Int64, ends: Int64) -> None:
        """Ask for entries ``[begins, ends)``; returns before they are there."""
        for found, size in self._mapped:
            for low, high in merged_spans(begins * size, ends * size):
                found.madvise(mmap.MADV_WILLNEED, low, high - low)


def merged_spans(begins: Int64, ends: Int64) -> list[tuple[int, int]]:
    """Return byte spans from page to page in ascending order, those together that lie close to each other."""
    some = ends > begins
    order = np.argsort(begins[some], kind="stable")
    low = begins[some][order] // mmap.PAGESIZE * mmap.PAGESIZE
    high = np.maximum.accumulate(ends[some][order])
    first = np.flatnonzero(np.concatenate([[True], low[1:] > high[:-1] + _GAP_BYTES])[: len(low)])
    last = np.concatenate([first[1:], [len(low)]]) - 1
    return list(zip(low[first].tolist(), high[last].tolist(), strict=True)) if len(low) else []
