"""From slabs, which follow the source's bands, to chunks, which follow the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.block import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Assembly"]


class _OpenChunk:
    """A chunk of which some rows have come, copied together as they come.

    Keeping the pieces and joining them at the end would hold every count twice, and the slabs with them.
    """

    def __init__(self, n_cells: int, capacity: int, counts: Counts) -> None:
        self._indptr = np.zeros(n_cells + 1, np.int64)
        # Untouched pages cost nothing, so a capacity that is too high (a gene filter) is free.
        self._indices = np.empty(capacity, counts.indices.dtype)
        self._data = np.empty(capacity, counts.data.dtype)
        self._n_genes = counts.n_genes
        self._names: list[pa.StringArray] = []
        self._nnz = 0
        self.n_cells = 0

    def add(self, counts: Counts, names: pa.StringArray) -> None:
        end = self._nnz + counts.nnz
        wider = np.promote_types(self._data.dtype, counts.data.dtype)
        if wider != self._data.dtype:  # fractions keep their float type, and the files of one chunk may differ in it
            self._data = self._data.astype(wider)
        if end > len(self._indices):
            self._indices = _grown(self._indices, end)
            self._data = _grown(self._data, end)
        self._indices[self._nnz : end] = counts.indices
        self._data[self._nnz : end] = counts.data
        self._indptr[self.n_cells + 1 : self.n_cells + 1 + counts.n_cells] = counts.indptr[1:] + self._nnz
        self._names.append(names)
        self._nnz = end
        self.n_cells += counts.n_cells

    def whole(self) -> tuple[Counts, pa.StringArray]:
        counts = Counts(self._indptr, self._indices[: self._nnz], self._data[: self._nnz], self._n_genes)
        return counts, pa.concat_arrays(self._names)


def _grown(array: np.ndarray[Any, Any], least: int) -> np.ndarray[Any, Any]:
    larger = np.empty(max(least, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


class Assembly:
    """Cut consecutive pieces into whole chunks; holds no more than the chunks that are open.

    Parameters
    ----------
    boundaries
        Chunk -> half-open range of plan rows, ascending and without overlap.
    capacity
        Chunk -> non-zeros expected of it, to lay out its arrays once; being wrong costs a copy.
    """

    def __init__(self, boundaries: Mapping[int, tuple[int, int]], capacity: Callable[[int], int] = lambda _: 0) -> None:
        self._boundaries = dict(boundaries)
        self._capacity = capacity
        self._open: dict[int, _OpenChunk] = {}
        self._dropped: set[int] = set()

    def touching(self, start: int, stop: int) -> list[int]:
        """Return the chunks still wanted that hold any of the plan rows ``[start, stop)``."""
        return [
            chunk
            for chunk, (low, high) in self._boundaries.items()
            if low < stop and start < high and chunk not in self._dropped
        ]

    def drop(self, chunk: int) -> None:
        """Forget a chunk, some of whose rows will never come."""
        self._dropped.add(chunk)
        self._open.pop(chunk, None)

    def add(self, start: int, counts: Counts, names: pa.StringArray) -> Iterator[tuple[int, Counts, pa.StringArray]]:
        """Take the cells of plan rows from `start`; yield every chunk that is whole now.

        Parameters
        ----------
        start
            Plan row of the first cell; pieces come in order.
        counts, names
            ``(n_cells, n_genes)`` and ``(n_cells,)``; copied.
        """
        for chunk in self.touching(start, start + counts.n_cells):
            low, high = self._boundaries[chunk]
            first, last = max(low, start) - start, min(high, start + counts.n_cells) - start
            entry = self._open.get(chunk)
            if entry is None:
                entry = self._open[chunk] = _OpenChunk(high - low, self._capacity(chunk), counts)
            entry.add(counts.rows(first, last), names.slice(first, last - first))
            if entry.n_cells == high - low:
                del self._open[chunk]
                yield (chunk, *entry.whole())
