"""Entries of X that are not zero, counted for some cells: per cell and per gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ingest.errors import NoMatrixError
from ingest.fetch.assemble import GeneMap
from ingest.fetch.h5ad_csc import column_blocks
from ingest.fetch.h5ad_matrix import describe_matrix
from ingest.fetch.h5ad_slabs import CsrReader, DenseReader, H5Entries, Pointers

if TYPE_CHECKING:
    from ingest.fetch.h5ad_csc import Columns
    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["count_in_file", "count_in_memory"]

Array = np.ndarray[Any, Any]

_SLAB_BYTES = 64 << 20
_ENTRY_BYTES = 16


def count_in_memory(matrix: Any, rows: Array, label: str) -> tuple[Array, Array]:
    """Count in `rows` of a matrix ``(n_cells, n_genes)``, sparse or dense: ``(len(rows),)`` and ``(n_genes,)``.

    Raises
    ------
    NoMatrixError
        There is no matrix; `label` is what lacks it.
    """
    if matrix is None:
        raise NoMatrixError(f"{label}: there is no X")
    found: Any = matrix[rows] != 0
    if sparse.issparse(matrix):
        found = found.tocsr()
        return found.getnnz(axis=1), found.getnnz(axis=0)
    return np.count_nonzero(found, axis=1), np.count_nonzero(found, axis=0)


def count_in_file(file: OpenH5ad, rows: Array) -> tuple[Array, Array]:
    """Count in `rows`, ascending, of X of a file, by pieces of 64 MB: ``(len(rows),)`` and ``(n_genes,)``.

    Raises
    ------
    NoMatrixError
        There is no X.
    SourceError
        It holds no numbers, or is damaged.
    """
    if file.get("X") is None:
        raise NoMatrixError(f"{file.name}: there is no X", source=str(file.source))
    matrix = describe_matrix(file, "X")
    genes = GeneMap(np.empty(0, np.int32), matrix.shape[1], matrix.shape[1])
    return (_count_columns if matrix.layout == "csc" else _count_rows)(file, matrix, genes, rows)


def _count_rows(file: OpenH5ad, matrix: MatrixRef, genes: GeneMap, rows: Array) -> tuple[Array, Array]:
    reader: CsrReader | DenseReader
    if matrix.layout == "dense":
        reader = DenseReader(file, matrix, genes, slab_bytes=_SLAB_BYTES)
    else:
        pointers, entries, label = _parts(file, matrix)
        reader = CsrReader(pointers, entries, matrix, genes, slab_bytes=_SLAB_BYTES, label=label)
    per_cell, per_gene = np.zeros(len(rows), np.int64), np.zeros(matrix.shape[1], np.int64)
    for first, last, found in reader.parts(rows):
        per_cell[first:last] = np.diff(found.counts.indptr)  # zeros that are stored have been dropped
        per_gene += np.bincount(found.counts.indices, minlength=matrix.shape[1])
    return per_cell, per_gene


def _count_columns(file: OpenH5ad, matrix: MatrixRef, genes: GeneMap, rows: Array) -> tuple[Array, Array]:
    pointers, entries, _ = _parts(file, matrix)
    place = np.full(matrix.shape[0], len(rows), np.int64)  # of cells that are not in the sample: one beyond
    place[rows] = np.arange(len(rows))
    per_cell, per_gene = np.zeros(len(rows) + 1, np.int64), np.zeros(matrix.shape[1], np.int64)
    for block in column_blocks(pointers, genes, merge=entries.merge, most=_SLAB_BYTES // _ENTRY_BYTES):
        indices, values = entries.indices(block.low, block.high), entries.data(block.low, block.high)
        if len(indices) and (indices.min() < 0 or indices.max() >= matrix.shape[0]):
            raise file.error(f"{matrix.path}/indices", "point outside of the matrix", "index-range")
        found = place[indices]
        found[values == 0] = len(rows)
        per_cell += np.bincount(found, minlength=len(rows) + 1)
        per_gene += np.bincount(_columns_of(block)[found < len(rows)], minlength=matrix.shape[1])
    return per_cell[:-1], per_gene


def _columns_of(block: Columns) -> Array:
    lengths = np.diff(block.indptr)
    return np.repeat(np.arange(block.first, block.first + len(lengths)), lengths)


def _parts(file: OpenH5ad, matrix: MatrixRef) -> tuple[Pointers, H5Entries, str]:
    pointers = Pointers(file, f"{matrix.path}/indptr", matrix.nnz, most_bytes=_SLAB_BYTES)
    return pointers, H5Entries(file, matrix), f"{file.name}: {matrix.path}"
