"""From the cells of a window to the blocks that hold them. Pure: nothing is read.

::

    rows wanted, in any order ──► chunk and entry range of each ──► parts: what one block has of one row ──► jobs
                                                                    sorted by chunk and block               some blocks

Blocks are independent of each other: each part knows its place in the window, so any thread may do any job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Job", "RowEntries", "WindowPlan", "plan_window"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class RowEntries:
    """Where the rows of one chunk begin in its arrays."""

    indptr: Int64
    """``(n_cells + 1,)``: where each row's entries begin, zeros not counted."""
    block: int
    """Entries of a block, or its rows where the chunk is dense."""
    dense: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Consecutive blocks of one chunk and the parts wanted of them."""

    at: int
    """Place of the chunk in the manifest."""
    blocks: Int64
    """int64 ``(n_blocks,)``, ascending."""
    cuts: Int64
    """int64 ``(n_blocks + 1,)``: which parts are of which block."""
    parts: slice
    """Which parts of the window these are."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowPlan:
    """What is read for a window, and where it goes."""

    indptr: Int64
    """int64 ``(n_cells + 1,)``: rows of the window, in its order, all genes."""
    begin: Int64
    """int64 ``(n_parts,)``: first entry of each part within its block; of a dense chunk, its row there."""
    end: Int64
    dst: Int64
    """Its place in the window."""
    row: Int64
    """The row of the window that it is of."""
    jobs: tuple[Job, ...]


def plan_window(
    rows: Int64, chunk_of: Int64, starts: Int64, entries_of: Callable[[int], RowEntries], *, job_blocks: int
) -> WindowPlan:
    """Plan the reading of `rows`.

    Parameters
    ----------
    rows
        int64 ``(n_cells,)``: cells of a dataset, in any order, also several times.
    chunk_of
        Place in the manifest of each cell's chunk.
    starts
        First cell of each chunk.
    entries_of
        What says where a chunk's rows begin.
    job_blocks
        Blocks of a job, at most.
    """
    order = np.lexsort((rows, chunk_of))
    chunks = chunk_of[order]
    lengths = np.empty(len(rows), np.int64)
    cuts = np.flatnonzero(np.diff(chunks)) + 1
    groups = list(zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True)) if len(rows) else []
    spans: list[tuple[int, Int64, Int64, Int64, RowEntries]] = []
    for low, high in groups:
        at = int(chunks[low])
        entries = entries_of(at)
        local = rows[order[low:high]] - starts[at]
        first, last = entries.indptr[local].astype(np.int64), entries.indptr[local + 1].astype(np.int64)
        lengths[order[low:high]] = last - first
        spans.append((at, local, first, last, entries))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    parts: list[tuple[Int64, Int64, Int64, Int64]] = []
    jobs: list[Job] = []
    n_parts = 0
    for (low, high), (at, local, first, last, entries) in zip(groups, spans, strict=True):
        mine = order[low:high]
        if entries.dense:
            block, begin = np.divmod(local, entries.block)
            end, dst, row = begin + 1, indptr[mine], mine
        else:
            begin, end, dst, row, block = _cut(first, last, indptr[mine], mine, entries.block)
        parts.append((begin, end, dst, row))
        jobs += _jobs(at, block, n_parts, job_blocks)
        n_parts += len(begin)
    empty = np.empty(0, np.int64)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [empty] * 4
    begin, end, dst, row = columns
    return WindowPlan(indptr, begin, end, dst, row, tuple(jobs))


def _cut(first: Int64, last: Int64, dst: Int64, row: Int64, size: int) -> tuple[Int64, Int64, Int64, Int64, Int64]:
    """Cut rows ``[first, last)`` of a chunk where blocks end; return begin, end, dst, row and block of each part."""
    n_blocks = np.where(last > first, (last - 1) // size - first // size + 1, 0)
    which = np.repeat(np.arange(len(first)), n_blocks)
    within = np.arange(len(which)) - np.repeat(np.cumsum(n_blocks) - n_blocks, n_blocks)
    block = first[which] // size + within
    low = np.maximum(first[which], block * size)
    high = np.minimum(last[which], (block + 1) * size)
    # Rows ascend, so that blocks nearly do: where rows stand twice they may go one back.
    order = np.argsort(block, kind="stable") if (np.diff(block) < 0).any() else slice(None)
    base = block * size
    begin, end, into = low - base, high - base, dst[which] + (low - first[which])
    return begin[order], end[order], into[order], row[which][order], block[order]


def _jobs(at: int, block: Int64, offset: int, job_blocks: int) -> Iterator[Job]:
    if not len(block):
        return
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(block)) + 1, [len(block)]])
    for low in range(0, len(cuts) - 1, job_blocks):
        mine = cuts[low : low + job_blocks + 1]
        parts = slice(offset + int(mine[0]), offset + int(mine[-1]))
        yield Job(at, block[mine[:-1]], mine - mine[0], parts)
