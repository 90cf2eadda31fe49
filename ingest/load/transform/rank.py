"""Cells as sequences of genes, the most expressed first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.load.transform import kernels
from ingest.load.transform.base import bad_transform, room
from ingest.load.transform.per_gene import PerGene

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ingest.load.transform.base import Totals

__all__ = ["RankOrder"]


@dataclass(frozen=True, slots=True)
class RankOrder:
    """Order each cell's genes by value over `gene_scale`, from high to low, and keep the first `length`.

    The rank value encoding of Geneformer (Theodoris et al., Nature 2023), which divides by the cell's total as well:
    that changes no order, so that counts may come as they are. Equal values are in the order of their columns. Genes
    without a count are never part of the sequence.

    Raises
    ------
    ConfigError
        ``bad-transform``: a length below 1, scales that are not above zero; or, when called, settings for another
        number of genes than the cells have.
    """

    length: int
    """Genes a cell at most."""
    gene_scale: PerGene | ArrayLike | None = None
    """``(n_genes,)``, above zero: what each gene is usually like, such as `gene_medians`; arrays become a `PerGene`."""
    gene_tokens: PerGene | ArrayLike | None = None
    """``(n_genes,)``: each gene's token, -1 for those to be left out, such as `GeneVocabulary.tokens`."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise bad_transform(f"length {self.length!r}: at least one gene is kept")
        scale = _per_gene(self.gene_scale, "gene_scale", np.float64)
        if scale is not None and not ((scale.values > 0) & np.isfinite(scale.values)).all():
            raise bad_transform("gene_scale: numbers above zero are wanted, such as 1 where nothing is known")
        object.__setattr__(self, "gene_scale", scale)
        object.__setattr__(self, "gene_tokens", _per_gene(self.gene_tokens, "gene_tokens", np.int32))

    def __call__(self, counts: Counts, totals: Totals | None = None) -> Counts:  # noqa: ARG002 # of no matter here
        """Return fewer entries: indices are the sequence, data the genes' tokens, or else ranks from 1 on, int32."""
        scale = _values(self.gene_scale, "gene_scale", counts.n_genes, np.float64)
        tokens = _values(self.gene_tokens, "gene_tokens", counts.n_genes, np.int32)
        indptr = np.empty_like(counts.indptr)
        indices, data = room(counts.indices, np.int32), room(counts.data, np.int32)
        at = kernels.rank_rows(
            counts.indptr,
            counts.indices,
            counts.data,
            counts.n_genes,
            scale,
            tokens,
            self.length,
            indptr,
            indices,
            data,
        )
        if at >= 0:
            raise ValueError(f"entry {at} is of no column of {counts.n_genes}")
        return Counts(indptr, indices[: indptr[-1]], data[: indptr[-1]], counts.n_genes)


def _per_gene(given: PerGene | ArrayLike | None, name: str, dtype: Any) -> PerGene | None:
    if given is None:
        return None
    per_gene = given if isinstance(given, PerGene) else PerGene(np.asarray(given))
    if not np.can_cast(per_gene.values.dtype, dtype):
        raise bad_transform(f"{name} of {per_gene.values.dtype}: whole numbers are wanted")
    return PerGene(per_gene.values.astype(dtype))


def _values(per_gene: PerGene | ArrayLike | None, name: str, n_genes: int, dtype: Any) -> np.ndarray[Any, Any]:
    """Return the numbers, or none at all, which stands for the identity."""
    if not isinstance(per_gene, PerGene):
        return PerGene(np.empty(0, dtype)).values  # read-only like the others: one type to compile
    if len(per_gene) != n_genes:
        raise bad_transform(
            f"{name} is of {len(per_gene):,} genes, the cells have {n_genes:,}",
            hint="it has one number for each gene that the loader delivers, in that order",
        )
    return per_gene.values
