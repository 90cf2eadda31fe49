"""Cells in memory: the one type between fetching, encoding and loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from ingest.genes import Genes

__all__ = ["Block", "Counts", "concat_counts"]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """A CSR matrix of shape ``(n_cells, n_genes)``; indices ascend within a row, no entry stands twice."""

    indptr: np.ndarray[Any, np.dtype[np.int64]]
    """int64 ``(n_cells + 1,)``; starts at 0."""
    indices: np.ndarray[Any, np.dtype[np.int32]]
    """int32 ``(nnz,)``; gene columns."""
    data: np.ndarray[Any, Any]
    """``(nnz,)``; float32 unless the dataset says otherwise."""
    n_genes: int
    """Number of columns."""

    @property
    def n_cells(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return int(self.indptr[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.indptr.nbytes + self.indices.nbytes + self.data.nbytes

    def rows(self, start: int, stop: int) -> Counts:
        """Return rows ``[start, stop)``; indices and data are views, indptr is new."""
        low, high = self.indptr[start], self.indptr[stop]
        return Counts(self.indptr[start : stop + 1] - low, self.indices[low:high], self.data[low:high], self.n_genes)


def concat_counts(parts: Sequence[Counts]) -> Counts:
    """Stack matrices of equal width and value dtype below each other; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(part.nnz for part in parts)])
    indptr = np.concatenate(
        [np.zeros(1, np.int64), *(part.indptr[1:] + offset for part, offset in zip(parts, offsets[:-1], strict=True))]
    )
    return Counts(
        indptr,
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.data for part in parts]),
        parts[0].n_genes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Cells with their counts, their annotations and the genes that the columns stand for."""

    counts: Counts
    """``(n_cells, n_genes)``."""
    obs: pa.Table
    """The index's columns, one row a cell."""
    obs_names: pa.StringArray
    """Names unique in the whole dataset, ``(n_cells,)``."""
    genes: Genes
    """``(n_genes,)`` ids, names and lengths."""

    def __post_init__(self) -> None:
        n_cells, n_genes = self.counts.n_cells, self.counts.n_genes
        if not (len(self.obs) == len(self.obs_names) == n_cells and len(self.genes) == n_genes):
            raise ValueError(
                f"block of {n_cells} cells x {n_genes} genes with {len(self.obs)} obs rows, "
                f"{len(self.obs_names)} names and {len(self.genes)} genes"
            )
