"""Which lines are wanted, in which order, and entries that go with the places that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_planes import bits_of
from ingest.stream.matrix.kernels import choose_entries, count_chosen, sort_lines
from ingest.stream.matrix.lines import Lines, index_type

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Choice", "chosen", "in_order"]

Array = np.ndarray[Any, Any]


class Choice:
    """Some of `n_all` lines.

    Parameters
    ----------
    wanted
        int64, in the order wanted, none twice; None: all.

    Raises
    ------
    ValueError
        One is wanted twice, or is not there.
    """

    def __init__(self, wanted: Array | None, n_all: int) -> None:
        self.n = n_all if wanted is None else len(wanted)
        self.ascending: Array | None = None
        """int64: the lines wanted, as they are read; None: all."""
        self.ranks: Array | None = None
        """int64 ``(n,)``: where each of those goes; None where that is the same order."""
        self.places: Array | None = None
        """``(n_all,)``: the new number of each line; -1: it goes; None where all stay as they are."""
        if wanted is not None:
            self._choose(np.asarray(wanted, np.int64), n_all)

    def _choose(self, wanted: Array, n_all: int) -> None:
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < n_all):
            raise ValueError(f"lines up to {wanted.max():,} wanted of {n_all:,}")
        places = np.full(n_all, -1, index_type(max(n_all, 1)))
        places[wanted] = np.arange(len(wanted))
        read = np.flatnonzero(places >= 0)
        if len(read) != len(wanted):
            raise ValueError("a line is wanted twice")
        same_order = np.array_equal(read, wanted)
        if same_order and len(read) == n_all:
            return
        self.places = places
        self.ascending = None if len(read) == n_all else read
        self.ranks = None if same_order else places[read].astype(np.int64)


def chosen(blocks: Iterator[Lines], choice: Choice) -> Iterator[Lines]:
    """Yield lines with the entries at chosen places only, numbered anew, in order where places are not."""
    places = choice.places
    if places is None:
        yield from blocks
        return
    kind = index_type(choice.n)
    for block in blocks:
        counts = np.empty(len(block), np.int64)
        count_chosen(block.indptr, block.indices, places, counts)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        n, bits = int(indptr[-1]), bits_of(block.data.dtype)
        to, into = np.empty(n + 1, kind), np.empty(n + 1, block.data.dtype)
        arrays = block.indices, block.data.view(bits), places, to, into.view(bits)
        if choose_entries(block.indptr, *arrays):
            sort_lines(indptr, to, into.view(bits))
        yield Lines(block.first, indptr, to[:n], into[:n])


def in_order(blocks: Iterator[Lines], choice: Choice) -> Iterator[Lines]:
    """Yield lines whose places are what `choice` reads as those that it wants, sorted."""
    if choice.ranks is None:
        yield from blocks
        return
    ranks = choice.ranks.astype(index_type(choice.n))
    for block in blocks:
        indices = ranks[block.indices]
        sort_lines(block.indptr, indices, block.data.view(bits_of(block.data.dtype)))
        yield Lines(block.first, block.indptr, indices, block.data)
