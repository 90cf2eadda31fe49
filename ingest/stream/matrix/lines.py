"""The type between reading, computing and writing: consecutive lines, rows of a CSR or columns of a CSC matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Lines", "index_type", "pieces"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Entries of consecutive lines, as they are stored: unsorted, double or zero as they may be."""

    first: int
    """Number of the first line."""
    indptr: Array
    """int64 ``(n_lines + 1,)``, from 0."""
    indices: Array
    """int32 or int64 ``(n,)``: checked places within a line."""
    data: Array
    """``(n,)``."""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Entries."""
        return len(self.data)

    def part(self, begin: int, end: int) -> Lines:
        """Return lines ``[begin, end)`` of these; arrays are shared."""
        start, stop = int(self.indptr[begin]), int(self.indptr[end])
        return Lines(
            self.first + begin,
            self.indptr[begin : end + 1] - start,
            self.indices[start:stop],
            self.data[start:stop],
        )


def index_type(n_places: int) -> np.dtype[Any]:
    """Return the type in which places within a line of so many are stored: int32 as scipy has it, where it holds."""
    return np.dtype(np.int32 if n_places <= np.iinfo(np.int32).max else np.int64)


def pieces(lengths: Array, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of consecutive lines with `most` entries together; a single line may have more. Pure.

    Parameters
    ----------
    lengths
        int64 ``(n,)``: entries of each line.
    """
    ends = np.cumsum(lengths)
    at = 0
    while at < len(ends):
        before = int(ends[at - 1]) if at else 0
        stop = max(int(np.searchsorted(ends, before + most, side="right")), at + 1)
        yield at, stop
        at = stop
