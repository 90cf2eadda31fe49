"""The genes of what is loaded: those of one dataset, of several together, or the ones asked for. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ingest.errors import ConfigError
from ingest.gene_ids import gene_ids
from ingest.genes import ABSENT, Genes
from ingest.load.read.reader import GeneColumns
from ingest.vocabulary import GeneRule, dataset_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["columns_onto", "joint_genes", "wanted_genes"]


def joint_genes(vocabularies: Sequence[Genes], how: str) -> Genes:
    """Return the genes of several datasets: all of any (``union``), or those that all have (``intersection``).

    Raises
    ------
    ConfigError
        There is no such rule, or no gene is left.
    """
    if how not in ("union", "intersection"):
        raise ConfigError(f"align={how!r}: genes are aligned by 'union' or 'intersection'", kind="bad-align")
    return dataset_genes(vocabularies, GeneRule(align=how))  # type: ignore[arg-type]  # checked above


def wanted_genes(genes: Genes, wanted: str | Sequence[str] | np.ndarray | Genes | None) -> Genes:
    """Return the genes asked for, in the order asked for: ids, ``@file`` of ids, or columns; None for all.

    Raises
    ------
    ConfigError
        A gene that no dataset has, or one asked for twice.
    """
    if isinstance(wanted, str):
        wanted = gene_ids(wanted, option="genes=")
    if wanted is None or isinstance(wanted, Genes):
        return genes if wanted is None else wanted
    if not isinstance(next(iter(wanted), ""), str):  # of a pandas Series, wanted[0] would be a label
        columns = np.asarray(wanted)
        if columns.dtype.kind not in "iu" or columns.min() < 0 or columns.max() >= len(genes):
            raise ConfigError(f"genes are ids, or columns from 0 to {len(genes) - 1:,}", kind="bad-gene")
        if len(np.unique(columns)) < len(columns):
            raise ConfigError("a gene is asked for twice", kind="duplicate-gene")
        return genes.take(columns.tolist())
    return dataset_genes([genes], GeneRule(wanted=tuple(wanted)))


def columns_onto(vocabularies: Sequence[Genes], target: Genes) -> GeneColumns:
    """Return where each dataset's genes stand among `target`."""
    maps = tuple(genes.map_onto(target) for genes in vocabularies)
    assert ABSENT == -1  # noqa: S101 # what the kernels take for it
    return GeneColumns(len(target), maps)
