"""Neighbours of cells: an obsp matrix as three mapped arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.load.memmap.arrays import map_array
from ingest.load.memmap.names import FileNames, Mode, NeighborSamplingStrategy

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NEIGHBOR_DTYPES", "NeighborSettings", "Neighbors", "has_neighbor_files"]

Array = np.ndarray[Any, Any]

NEIGHBOR_DTYPES = {
    FileNames.NEIGHBOR_INDICES_PTR: "uint64",
    FileNames.NEIGHBOR_INDICES: "uint32",
    FileNames.NEIGHBOR_VALUES: "float32",
}
"""Of every archive."""


@dataclass(frozen=True, slots=True)
class NeighborSettings:
    """Which neighbours, and which of them is taken.

    Raises
    ------
    ValueError
        There is no such strategy.
    """

    key: str = "next_cell_ids"
    """In obsp."""
    strategy: NeighborSamplingStrategy | str = NeighborSamplingStrategy.RANDOM
    fallback_to_identity: bool = True
    """Whether a cell without neighbours is silently its own; else it is so with a warning."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "strategy", NeighborSamplingStrategy(self.strategy))
        except ValueError:
            raise ValueError(f"Unsupported neighbor_sampling_strategy: {self.strategy}") from None


def has_neighbor_files(folder: Path) -> bool:
    """Return whether an archive has neighbours."""
    return all((folder / name.value).exists() for name in NEIGHBOR_DTYPES)


class Neighbors:
    """The mapped arrays, CSR ``(n_cells, n_cells)``: row i has the neighbours of cell i, and their weights.

    Raises
    ------
    FileNotFoundError
        The archive has none.
    CorruptError
        They are not of so many cells (kind ``scdl-neighbors``).
    """

    def __init__(self, folder: Path, n_cells: int, mode: Mode) -> None:
        self.indptr, self.indices, self.values = (
            map_array(folder, name, dtype, mode) for name, dtype in NEIGHBOR_DTYPES.items()
        )
        n_entries = int(self.indptr[-1]) if len(self.indptr) else -1
        if not (len(self.indptr) == n_cells + 1 and len(self.indices) == len(self.values) == n_entries):
            said = f"{folder}: neighbours are of {len(self.indptr) - 1:,} cells, the archive has {n_cells:,}"
            raise CorruptError(said, kind="scdl-neighbors", hint="convert it again with load_neighbors=True")

    def of(self, cell: int) -> slice:
        """Return where the neighbours of a cell stand."""
        return slice(int(self.indptr[cell]), int(self.indptr[cell + 1]))

    def sample(self, cell: int, settings: NeighborSettings) -> int:
        """Return one neighbour of a cell, or the cell itself where it has none.

        Drawn from numpy's global generator, as bionemo-scdl does: whoever seeds that gets the same neighbours.
        """
        found = self.indices[self.of(cell)]
        if not len(found):
            if not settings.fallback_to_identity:
                warnings.warn(
                    f"Cell {cell} has no neighbors and fallback_to_identity=False. Returning cell index itself anyway.",
                    stacklevel=3,
                )
            return cell
        if settings.strategy == NeighborSamplingStrategy.FIRST:
            return int(found[0])
        return int(np.random.choice(found))  # noqa: NPY002 # said above

    def stats(self) -> dict[str, Any]:
        """Return how many neighbours cells have."""
        counts = np.diff(self.indptr)
        return {
            "has_neighbors": True,
            "total_connections": len(self.indices),
            "min_neighbors_per_cell": int(counts.min()),
            "max_neighbors_per_cell": int(counts.max()),
            "avg_neighbors_per_cell": float(counts.mean()),
            "cells_with_no_neighbors": int((counts == 0).sum()),
        }

    def flush(self) -> None:
        """Bring what has been changed to the disk."""
        for array in (self.indptr, self.indices, self.values):
            if isinstance(array.base, np.memmap) or getattr(array, "_mmap", None) is not None:
                array.flush()
