"""Is every cell of the sources in the chunks exactly once, count for count? Asked of h5py and anndata alone.

Nothing of this project reads or compares here: whatever a run gets wrong, it gets wrong in one of the two places only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Compared", "Truth", "compare_cells", "read_truth"]

Row = tuple[bytes, bytes, float]
"""Columns and values of a cell's counts that are not zero, and its score in the index."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the sources and the index hold."""

    genes: tuple[str, ...]
    rows: dict[str, Row]
    """By barcode, which is distinct over all files."""


@dataclass(frozen=True, slots=True)
class Compared:
    """How chunks differ from their sources, in cells."""

    n_cells: int
    """Of the sources."""
    lost: int
    doubled: int
    altered: int
    """Other counts, another column of obs, or other genes than the source has."""
    strangers: int = 0
    """In no source."""

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return not (self.lost or self.doubled or self.altered or self.strangers)

    def __str__(self) -> str:
        """Say it in a line."""
        more = f", {self.strangers} of no source" if self.strangers else ""
        return f"of {self.n_cells:,} cells {self.lost} lost, {self.doubled} doubled, {self.altered} altered{more}"


def read_truth(files: Sequence[Path], index: Path) -> Truth:
    """Read h5ad files of equal genes whose counts are in X, and the ``score`` that `index` gives their cells in turn.

    Raises
    ------
    ValueError
        The files have other genes than each other, or a barcode stands twice.
    """
    rows: dict[str, Row] = {}
    genes: set[tuple[str, ...]] = set()
    scores = iter(pd.read_feather(index)["score"])
    n_cells = 0
    for path in files:
        file = anndata.read_h5ad(path)
        genes.add(tuple(file.var_names))
        matrix = sparse.csr_matrix(file.X)
        matrix.sort_indices()
        for at, name in enumerate(file.obs_names):
            low, high = matrix.indptr[at], matrix.indptr[at + 1]
            rows[name] = _row(matrix.indices[low:high], matrix.data[low:high], next(scores))
        n_cells += len(file.obs_names)
    if len(genes) != 1 or len(rows) != n_cells:
        raise ValueError("files of different genes, or with barcodes that stand twice")
    return Truth(genes.pop(), rows)


def compare_cells(dest: Path, truth: Truth) -> Compared:
    """Hold every cell of every file under ``DEST/chunks`` against its source."""
    seen: Counter[str] = Counter()
    altered = strangers = 0
    for path in sorted((dest / "chunks").glob("*.h5ad")):
        with h5py.File(path) as file:
            same_genes = tuple(file["var"][file["var"].attrs["_index"]].asstr()[()]) == truth.genes
            names = [name.rpartition(":")[2] for name in file["obs"][file["obs"].attrs["_index"]].asstr()[()]]
            scores, indptr = file["obs/score"][()], file["X/indptr"][()]
            indices, data = file["X/indices"][()], file["X/data"][()]
        for at, name in enumerate(names):
            low, high = indptr[at], indptr[at + 1]
            wanted = truth.rows.get(name)
            strangers += wanted is None
            altered += wanted is not None and not (
                same_genes and _row(indices[low:high], data[low:high], scores[at]) == wanted
            )
        seen.update(names)
    lost = len(truth.rows.keys() - seen.keys())
    doubled = sum(seen.values()) - len(seen)
    return Compared(len(truth.rows), lost, doubled, altered, strangers)


def _row(indices: Any, values: Any, score: float) -> Row:
    return np.asarray(indices, np.int64).tobytes(), np.asarray(values, np.float64).tobytes(), float(score)
