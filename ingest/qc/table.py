"""The metrics of all cells, in a mapped file of 24 bytes each: memory does not grow with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.qc.parameters import CELL_RULES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.ledger.receipts import ChunkReceipt

__all__ = ["CELL", "CellTable", "flag_of", "mito_pct"]

Array = np.ndarray[Any, Any]

CELL = np.dtype([("n_genes", "<i4"), ("flags", "<u4"), ("total", "<f8"), ("mito", "<f8")])
"""Genes seen; the rules that the cell breaks, a bit each; its total, and that of its mitochondrial genes."""

_PIECE = 1 << 19


def flag_of(rule: str) -> np.uint32:
    """Return the bit of a cell's flags that says that it breaks `rule`."""
    return np.uint32(1 << CELL_RULES.index(rule))


def mito_pct(cells: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mitochondrial share in per cent, float64 ``(n,)``; NaN for a cell without counts."""
    found: np.ndarray[Any, np.dtype[np.float64]] = np.full(len(cells), np.nan)
    np.divide(cells["mito"], cells["total"], out=found, where=cells["total"] > 0)
    found *= 100
    return found


class CellTable:
    """The cells of some chunks, in their order.

    Parameters
    ----------
    path
        Of the new file; 24 bytes a cell.
    chunks
        What receipts say of the chunks, in order.
    """

    def __init__(self, path: Path, chunks: Sequence[ChunkReceipt]) -> None:
        ends = np.cumsum([chunk.n_cells for chunk in chunks]).tolist()
        self._spans = {c.chunk: slice(end - c.n_cells, end) for c, end in zip(chunks, ends, strict=True)}
        self._cells: Array = np.memmap(path, CELL, "w+", shape=(ends[-1],)) if ends[-1] else np.empty(0, CELL)

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def firsts(self) -> dict[int, int]:
        """Chunk -> place of its first cell."""
        return {chunk: span.start for chunk, span in self._spans.items()}

    def place(self, chunk: int, cells: Array) -> None:
        """Write the cells of one chunk, `CELL` ``(n_cells,)``; the same again changes nothing."""
        self._cells[self._spans[chunk]] = cells

    def pieces(self) -> Iterator[Array]:
        """Yield all cells in order, some at once, to be read and written in place."""
        for start in range(0, len(self), _PIECE):
            yield self._cells[start : start + _PIECE]

    def rows(self, start: int, stop: int) -> Array:
        """Return the cells ``[start, stop)``, in place."""
        return self._cells[start:stop]

    def sample(self, most: int) -> Array:
        """Return at most `most` cells, evenly spaced, as a copy."""
        step = max(1, -(-len(self) // most))
        return np.array(self._cells[::step])

    @property
    def n_kept(self) -> int:
        """Cells that break no rule."""
        return sum(int(np.count_nonzero(piece["flags"] == 0)) for piece in self.pieces())

    def kept_bits(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return which cells break no rule, a bit each, first cell in the highest bit of the first byte."""
        kept = np.empty(len(self), bool)
        start = 0
        for piece in self.pieces():
            kept[start : start + len(piece)] = piece["flags"] == 0
            start += len(piece)
        return np.packbits(kept)
