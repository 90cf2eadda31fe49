"""Turn a CSC matrix into rows once, in memory; see `ingest.fetch.h5ad_scratch` for one that is larger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.assemble import Assembled, CscAssembler, reorder_rows
from ingest.fetch.h5ad_slabs import plan_runs
from ingest.fetch.values import plain_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.fetch.assemble import GeneMap
    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_slabs import Entries, Pointers

__all__ = ["Columns", "CscReader", "column_blocks", "wanted_entries"]

Array = np.ndarray[Any, Any]

_ROW_BYTES = 40
"""Per row of the source: number, position, count, cursor and pointer of a transposition in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Consecutive source columns, or a part of one, and their entries."""

    first: int
    indptr: Array
    """int64 ``(m + 1,)``, from 0."""
    low: int
    """Where the entries start in the source."""

    @property
    def high(self) -> int:
        """Where they end."""
        return self.low + int(self.indptr[-1])


def column_blocks(pointers: Pointers, genes: GeneMap, *, merge: int, most: int) -> Iterator[Columns]:
    """Yield the wanted columns in order, in blocks of at most `most` entries; a longer column comes in parts."""
    wanted = np.flatnonzero(genes.targets(0, genes.n_source) >= 0)
    if not len(wanted):
        return
    starts, ends = pointers.bounds(wanted)
    for slab in plan_runs(starts, ends, wanted, merge=min(merge, most), most=most):
        first, last = int(wanted[slab.first]), int(wanted[slab.last - 1])
        low, high = int(starts[slab.first]), int(ends[slab.last - 1])
        if high - low <= most:
            yield Columns(first, pointers.between(first, last + 1) - low, low)
        else:  # one column
            for at in range(low, high, most):
                yield Columns(first, np.array([0, min(most, high - at)], np.int64), at)


def wanted_entries(pointers: Pointers, genes: GeneMap) -> int:
    """Return how many entries the wanted columns hold."""
    starts, ends = pointers.bounds(np.flatnonzero(genes.targets(0, genes.n_source) >= 0))
    return int((ends - starts).sum())


class CscReader:
    """Rows of a CSC matrix transposed in memory: entries of wanted genes and some bytes a row."""

    def __init__(
        self, pointers: Pointers, entries: Entries, matrix: MatrixRef, genes: GeneMap, *, slab_bytes: int, label: str
    ) -> None:
        dtype = plain_values(np.empty(0, matrix.dtype), source=label).dtype
        most = max(slab_bytes // (dtype.itemsize + 24), 1)
        assembler = CscAssembler(np.arange(matrix.shape[0]), matrix.shape[0], genes, dtype=dtype, source=label)
        for block in column_blocks(pointers, genes, merge=entries.merge, most=most):
            assembler.count(block.first, block.indptr, entries.indices(block.low, block.high))
        for block in column_blocks(pointers, genes, merge=entries.merge, most=most):
            indices, data = entries.indices(block.low, block.high), entries.data(block.low, block.high)
            assembler.fill(block.first, block.indptr, indices, data)
        self._rows = assembler.finish()
        self._step = max(slab_bytes // (dtype.itemsize + 4), 1)

    @staticmethod
    def memory_bytes(pointers: Pointers, matrix: MatrixRef, genes: GeneMap) -> int:
        """Return what a transposition in memory holds, slabs apart."""
        value_bytes = max(np.dtype(matrix.dtype).itemsize, 4)
        return wanted_entries(pointers, genes) * (4 + value_bytes) + matrix.shape[0] * _ROW_BYTES

    def parts(self, ascending: Array) -> Iterator[tuple[int, int, Assembled]]:
        """Yield ``(first, last, rows)``: the rows ``ascending[first:last]``, in that order."""
        ends = np.cumsum(np.diff(self._rows.counts.indptr)[ascending])
        for slab in plan_runs(np.concatenate([[0], ends[:-1]]), ends, ascending, merge=0, most=self._step):
            counts = reorder_rows(self._rows.counts, ascending[slab.first : slab.last])
            yield slab.first, slab.last, Assembled(counts, self._rows.was_unsorted, 0)

    def close(self) -> None:
        """Nothing lies outside memory."""
