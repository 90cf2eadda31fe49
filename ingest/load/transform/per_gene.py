"""One number a gene, as a setting: what genes are scaled by, which tokens they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ingest.load.transform.base import bad_transform, totals_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.block import Counts
    from ingest.genes import Genes
    from ingest.load.transform.base import Totals

__all__ = ["PerGene", "gene_medians"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PerGene:
    """Numbers ``(n_genes,)``, one a column of the cells that a transform gets; a value: copied, read-only, comparable.

    Raises
    ------
    ConfigError
        ``bad-transform``: not one number a gene.
    """

    values: np.ndarray[Any, Any]
    """float64 or int32 ``(n_genes,)``, read-only."""

    def __post_init__(self) -> None:
        given = np.asarray(self.values)
        if given.ndim != 1 or given.dtype.kind not in "iuf":
            raise bad_transform(f"{given.dtype} {given.shape}: one number a gene is wanted")
        if given.dtype.kind != "f" and len(given) and not -(2**31) <= given.min() <= given.max() < 2**31:
            raise bad_transform(f"a number of {given.max()}: whole numbers beyond int32 are not meant")
        values = np.array(given, np.float64 if given.dtype.kind == "f" else np.int32)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @classmethod
    def of(cls, genes: Genes, numbers: Mapping[str, float], *, missing: float) -> PerGene:
        """Return the numbers of `genes` by id, float64; `missing` for those that `numbers` does not know."""
        return cls(np.array([numbers.get(gene, missing) for gene in genes.ids], np.float64))

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PerGene):
            return NotImplemented
        return self.values.dtype == other.values.dtype and bool(np.array_equal(self.values, other.values))

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.values.tobytes()).hexdigest()[:8]
        return f"PerGene({self.values.dtype} of {len(self):,} genes, sha256 {digest}…)"


def gene_medians(counts: Counts, target_sum: float = 1e4, *, totals: Totals | None = None) -> PerGene:
    """Return each gene's median over the cells that have it, each cell brought to `target_sum`: float64 ``(n_genes,)``.

    What Geneformer divides by before it ranks (Theodoris et al., Nature 2023; there over 30 million cells, estimated).
    Some ten thousand cells drawn at random do. Genes that no cell has get 1.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)``; left as they are.
    totals
        float64 ``(n_cells,)``: each cell's sum over all genes, where `counts` has only some.
    """
    matrix = sparse.csr_matrix((counts.data, counts.indices, counts.indptr), (counts.n_cells, counts.n_genes))
    columns = matrix.astype(np.float64).tocsc()
    of_cell = totals_of(counts, totals)
    values = (
        columns.data * target_sum / np.where(of_cell > 0, of_cell, 1)[columns.indices]
    )  # empty cells may hold zeros
    medians = np.ones(counts.n_genes)
    for gene in range(counts.n_genes):
        of_gene = values[columns.indptr[gene] : columns.indptr[gene + 1]]
        above = of_gene[of_gene > 0]
        if len(above):
            medians[gene] = np.median(above)
    return PerGene(medians)
