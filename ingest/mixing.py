"""How mixed the chunks of a plan are: the entropy of where their cells come from. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from ingest.cells import CellBatch

__all__ = ["Mixedness", "MixingMeter"]

_ORIGINS = ("dataset_id", "SRX_accession")
"""Columns that say what a cell belongs to, the first that has a value for it; without one its source does."""


@dataclass(frozen=True, slots=True)
class Mixedness:
    """The entropy of origins in the chunks of one order, in bits: 0 where all cells of a chunk are of one origin."""

    mean_bits: float
    """Over all chunks of full length; over the only one of a plan with a single, shorter chunk."""
    min_bits: float
    """Of the least mixed of these."""
    whole_bits: float
    """Of all cells together: the most that the mean can be, but for chance."""


class MixingMeter:
    """Takes the cells of a plan, in whichever order, in batches of whole chunks.

    Parameters
    ----------
    n_cells
        Of the plan.
    cells_per_chunk
        Only the last chunk may hold fewer.
    """

    def __init__(self, n_cells: int, cells_per_chunk: int) -> None:
        self._size = min(cells_per_chunk, n_cells)
        self._bits: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self._totals = np.zeros(0, np.int64)
        self.origin = "source"
        """The column by which cells are told apart."""

    def add(self, batch: CellBatch) -> None:
        """Take the next cells: a batch that ends where a chunk does, or with the plan."""
        origins = self._origins(batch)
        found = np.bincount(origins, minlength=len(self._totals))
        found[: len(self._totals)] += self._totals
        self._totals = found
        whole = len(origins) // self._size
        if whole:
            self._bits.append(_entropies(origins[: whole * self._size].reshape(whole, self._size)))

    def finish(self) -> Mixedness:
        """Return what was found in the cells taken so far, at least one."""
        bits = np.concatenate(self._bits)
        totals = self._totals[self._totals > 0]
        return Mixedness(float(bits.mean()), float(bits.min()), float(_bits_of(totals / totals.sum()).sum()))

    def _origins(self, batch: CellBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return a number for the origin of every cell, int64 ``(n_cells,)``; dictionaries are the same every time."""
        origins = batch.codes.astype(np.int64)
        for name in reversed(_ORIGINS):
            at = batch.table.schema.get_field_index(name)
            if at < 0 or not pa.types.is_dictionary(batch.table.schema.field(at).type):
                continue
            column = batch.table.column(at)
            codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
            origins = np.where(codes >= 0, codes, origins + len(column.dictionary))
            self.origin = name
        return origins


def _entropies(chunks: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the entropy of each row of numbers, float64 ``(n_chunks,)``; ``(n_chunks, n_cells)`` is taken."""
    n_chunks, size = chunks.shape
    ordered = np.sort(chunks, axis=1).ravel()
    differs = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    differs[::size] = True
    begins = np.flatnonzero(differs)
    shares = np.diff(np.append(begins, len(ordered))) / size
    bits: np.ndarray[Any, Any] = np.bincount(begins // size, weights=_bits_of(shares), minlength=n_chunks)
    return bits


def _bits_of(shares: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return what each share adds to the entropy (Shannon 1948): minus p times the binary logarithm of p."""
    bits: np.ndarray[Any, np.dtype[np.float64]] = -shares * np.log2(shares) + 0.0  # not -0.0 of a single origin
    return bits
