"""What was delivered, told without the loader's word: rows, and a number made of every cell's genes and counts.

Runs in every way's own environment: numpy and scipy alone are imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Delivered", "Truth", "as_csr", "fingerprints", "n_rows"]

_Numbers = np.ndarray[Any, np.dtype[np.uint64]]


def n_rows(matrix: Any) -> int:
    """Return the cells of a batch; of ragged ones ``(values, indices, lengths)`` too."""
    return len(matrix[2]) if isinstance(matrix, tuple) else int(matrix.shape[0])


def as_csr(matrix: Any) -> Any:
    """Return a batch as scipy CSR, whatever made it: scipy, numpy, torch (dense or CSR) or ragged arrays."""
    if isinstance(matrix, tuple):
        values, indices, lengths = (np.asarray(part) for part in matrix)
        return sp.csr_matrix((values, indices, np.concatenate([[0], np.cumsum(lengths)])))
    if hasattr(matrix, "crow_indices"):  # only a torch tensor has it, a dense one too
        if "csr" in str(matrix.layout):
            parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
            return sp.csr_matrix(tuple(part.numpy() for part in parts), shape=tuple(matrix.shape))
        matrix = matrix.numpy()
    return sp.csr_matrix(matrix)


def fingerprints(matrix: Any) -> _Numbers:
    """Return one number a row, uint64 ``(n_cells,)``: the sum of its counts, each times its gene's random number.

    Two cells that differ in any count share one with probability 2^-64.
    """
    csr = as_csr(matrix)
    weights = np.random.default_rng(20_260_105).integers(1 << 63, size=1 << 17, dtype=np.uint64) * 2 + 1
    products = np.empty(csr.nnz + 1, np.uint64)
    products[:-1] = csr.data.astype(np.uint64) * weights[csr.indices]
    products[-1] = 0  # so that an empty last row may begin there
    starts = np.asarray(csr.indptr[:-1], np.int64)
    sums = np.add.reduceat(products, starts) if len(starts) else np.empty(0, np.uint64)
    sums[np.diff(csr.indptr) == 0] = 0
    return sums


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the cells are, read by h5py alone."""

    cells: _Numbers
    """Fingerprints, ascending."""
    total: int
    """Sum of all counts."""

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as found:
            return cls(found["cells"], int(found["total"]))

    def write(self, path: Path) -> None:
        """Write a file for the processes that check."""
        np.savez(path, cells=self.cells, total=np.int64(self.total))


class Delivered:
    """All that an epoch delivered, batch by batch."""

    def __init__(self) -> None:
        self._parts: list[_Numbers] = []
        self._total = 0

    def add(self, matrix: Any) -> None:
        """Take in one batch."""
        csr = as_csr(matrix)
        self._parts.append(fingerprints(csr))
        self._total += int(csr.data.sum(dtype=np.float64))

    def check(self, truth: Truth, *, whole: bool) -> dict[str, Any]:
        """Return how many cells came, distinct ones, and their counts.

        Parameters
        ----------
        whole
            The epoch was not cut short: every cell has come once.

        Raises
        ------
        ValueError
            A cell came twice, came that does not exist, or has not come.
        """
        cells = _joined(self._parts)
        distinct, known = np.unique(cells), _within(cells, truth.cells)
        twins = len(truth.cells) - len(np.unique(truth.cells))
        if not known or len(distinct) < len(cells) - twins:
            raise ValueError(f"{len(cells)} cells came, {len(distinct)} distinct; all of them real: {known}")
        if whole and not (np.array_equal(np.sort(cells), truth.cells) and self._total == truth.total):
            raise ValueError(
                f"{len(cells)} cells with {self._total} counts came, not {len(truth.cells)} with {truth.total}"
            )
        return {"cells": len(cells), "distinct": len(distinct), "counts": self._total, "whole": whole}


def _joined(parts: Sequence[_Numbers]) -> _Numbers:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _within(cells: _Numbers, truth: _Numbers) -> bool:
    places = np.minimum(np.searchsorted(truth, cells), len(truth) - 1)
    return bool(np.array_equal(truth[places], cells))
