"""Neighbours of cells out of obsp."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.errors import NoMatrixError
from ingest.fetch.h5ad_matrix import describe_pairs
from ingest.load.memmap.archive import ArchiveSpec
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.convert.h5ad_csc import CscRows
from ingest.load.memmap.convert.h5ad_csr import CsrRows

if TYPE_CHECKING:
    from ingest.load.memmap.convert.h5ad_matrix import Reading

__all__ = ["read_neighbors"]

Array = np.ndarray[Any, Any]


class _HeldArrays:
    """Arrays in memory, to be written as those of an archive are."""

    def __init__(self, spec: ArchiveSpec) -> None:
        self.spec = spec
        self.indptr = np.zeros(spec.n_rows + 1, spec.rows)
        self.indices, self.values = np.empty(spec.n_entries, spec.columns), np.empty(spec.n_entries, spec.data)

    def write_values(self, at: int, values: Array) -> None:
        self.values[at : at + len(values)] = values

    def write_columns(self, at: int, columns: Array) -> None:
        self.indices[at : at + len(columns)] = columns

    def write_row_ends(self, at: int, ends: Array) -> None:
        self.indptr[at + 1 : at + 1 + len(ends)] = ends


def read_neighbors(reading: Reading, key: str) -> tuple[Array, Array, Array] | None:
    """Read ``obsp[key]``, CSR: row i holds the neighbours of cell i. Beside the result memory is bounded.

    Returns
    -------
    tuple
        Row pointers uint64 ``(n_cells + 1,)``, cells uint32 and weights float32 ``(n_entries,)``; None, with a
        warning, where there is no such key.

    Raises
    ------
    NoMatrixError
        It is not sparse (kind ``not-sparse``).
    HostileFileError
        It breaks a rule of structure.
    """
    path, found = f"obsp/{key}", reading.file.get("obsp")
    with reading.file.reading("obsp"):
        # Of its names: "." and "matrix/data" would lead somewhere, too.
        names = list(found) if isinstance(found, h5py.Group) else []
    if key not in names:
        text = f"Neighbor key '{key}' not found in AnnData.obsp. Neighbor loading skipped."
        warnings.warn(text, stacklevel=3)
        return None
    matrix = describe_pairs(reading.file, path)
    if matrix is None:
        text = f"Neighbor matrix for key '{key}' is not a sparse matrix."
        raise NoMatrixError(text, kind="not-sparse", source=str(reading.file.source))
    rows = (CsrRows if matrix.layout == "csr" else CscRows)(reading, matrix)
    n_cells = matrix.shape[0]
    if not matrix.nnz:
        return np.zeros(n_cells + 1, np.uint64), np.empty(0, np.uint32), np.empty(0, np.float32)
    held = _HeldArrays(ArchiveSpec(n_cells, matrix.nnz, "float32", "uint32", "uint64"))
    rows.write(Place(0, n_cells, 0, 0), held, tolerance=np.inf, reached=lambda _: None)
    return held.indptr, held.indices, held.values
