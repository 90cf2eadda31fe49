"""What is folded over the chunks: metrics of cells and sums of genes; then sums of genes over the cells that stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.encode.decode import decode_names
from ingest.hvg.batches import ALL
from ingest.hvg.folds import add_values
from ingest.hvg.sums import BatchSums, shift_for
from ingest.qc.kernels import measure_cells
from ingest.qc.table import CELL, flag_of
from ingest.warm import compile_qc_kernels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.fold_worker import ReadChunk
    from ingest.opened import OpenPlan
    from ingest.qc.table import CellTable

__all__ = ["DROPPED", "KEPT", "CellsAndGenes", "KeptGenes", "QcSums"]

Array = np.ndarray[Any, Any]

KEPT, DROPPED = "kept", "dropped"


def _no_sums(opened: OpenPlan, bound: float | None) -> BatchSums:
    compile_qc_kernels()
    return BatchSums(len(opened.genes), 0 if bound is None else shift_for(bound))


@dataclass(slots=True, eq=False)
class QcSums:
    """Sums of genes, and the cells of the chunks added: held by chunk, or handed to a table where there is one."""

    genes: BatchSums
    cells: dict[int, Array] = field(default_factory=dict)
    table: CellTable | None = None

    def keep(self, chunk: int, cells: Array) -> None:
        """Take the cells of one chunk."""
        if self.table is None:
            self.cells[chunk] = cells
        else:
            self.table.place(chunk, cells)


@dataclass(frozen=True, slots=True, eq=False)
class CellsAndGenes:
    """The first pass: every cell's metrics, every gene's sums."""

    mito: Array
    """bool ``(n_genes,)``."""
    bound: float | None = None
    """The largest value, where fractions are allowed; None when all values are whole."""
    listed: pa.Array | None = None
    """Names of cells that are left out."""

    def begin(self, opened: OpenPlan) -> QcSums:
        """Return sums of nothing, without a table."""
        return QcSums(_no_sums(opened, self.bound))

    def add(self, state: QcSums, chunk: ReadChunk) -> None:
        """Add one chunk.

        Raises
        ------
        CorruptError
            It holds a value larger than its receipt says.
        """
        cells = np.zeros(chunk.n_cells, CELL)
        places = np.full(chunk.n_cells, state.genes.places([ALL], [chunk.n_cells])[0], np.int32)
        for piece in chunk.pieces(allow_noninteger=self.bound is not None):
            counts = piece.counts
            n_genes, mito = np.empty(counts.n_cells, np.int32), np.empty(counts.n_cells)
            measure_cells(counts.indptr, counts.indices, counts.data, self.mito, n_genes, mito)
            mine = cells[piece.cells]
            mine["n_genes"], mine["total"], mine["mito"] = n_genes, piece.summary.sums, mito
            add_values(state.genes, counts, places[piece.cells], self.bound, chunk.number)
        if self.listed is not None:
            names = decode_names(chunk.data, key=chunk.opened.plan.key(chunk.number))
            cells["flags"][np.asarray(pc.is_in(names, self.listed))] |= flag_of("leave_out")
        state.keep(chunk.number, cells)

    def merge(self, state: QcSums, other: QcSums) -> None:
        """Add `other`."""
        state.genes.merge(other.genes)
        for chunk, cells in other.cells.items():
            state.keep(chunk, cells)


@dataclass(frozen=True, slots=True, eq=False)
class KeptGenes:
    """The second pass, where cells went and genes are to be counted in those that stay: sums apart for both."""

    kept: Array
    """uint8: `ingest.qc.table.CellTable.kept_bits`."""
    firsts: Mapping[int, int]
    """Chunk -> place of its first cell among them."""
    bound: float | None = None

    def begin(self, opened: OpenPlan) -> BatchSums:
        """Return sums of nothing, with both in their place."""
        state = _no_sums(opened, self.bound)
        state.places((KEPT, DROPPED), (0, 0))
        return state

    def add(self, state: BatchSums, chunk: ReadChunk) -> None:
        """Add one chunk.

        Raises
        ------
        CorruptError
            It holds a value larger than its receipt says.
        """
        dropped = self._dropped(self.firsts[chunk.number], chunk.n_cells)
        n_dropped = int(dropped.sum())
        state.places((KEPT, DROPPED), (chunk.n_cells - n_dropped, n_dropped))
        for piece in chunk.pieces(allow_noninteger=self.bound is not None):
            add_values(state, piece.counts, dropped[piece.cells], self.bound, chunk.number)

    def _dropped(self, first: int, n_cells: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        bits = np.unpackbits(self.kept[first // 8 : -(-(first + n_cells) // 8)])
        found: np.ndarray[Any, np.dtype[np.int32]] = 1 - bits[first % 8 : first % 8 + n_cells].astype(np.int32)
        return found

    def merge(self, state: BatchSums, other: BatchSums) -> None:
        """Add `other`."""
        state.merge(other)
