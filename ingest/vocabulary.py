"""Which genes the dataset has, and in which order: columns of every chunk. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ingest.errors import ConfigError, EmptySelectionError
from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["GeneRule", "dataset_genes"]


@dataclass(frozen=True, slots=True)
class GeneRule:
    """How the dataset's genes follow from those of its sources."""

    wanted: tuple[str, ...] | None = None
    """Exactly these ids, in this order; None takes all."""
    align: Literal["union", "intersection"] = "union"
    """Across sources: all genes of any (absent ones are zero and not measured), or those that all have."""
    max_genes: int | None = None
    """The first so many of the result."""


def dataset_genes(vocabularies: Sequence[Genes], rule: GeneRule) -> Genes:
    """Return the dataset's genes.

    The union keeps the first source's order and appends what later ones add; names and lengths are those of the
    first source that has the gene (the first that states a length).

    Raises
    ------
    ConfigError
        An id that no source has, or one that is asked for twice.
    EmptySelectionError
        No gene is left.
    """
    distinct = list(dict.fromkeys(vocabularies))
    known = distinct[0] if len(distinct) == 1 else _aligned(distinct, rule)
    genes = known if rule.wanted is None else _only(known, rule.wanted)
    if rule.max_genes is not None:
        genes = genes.take(range(min(len(genes), max(0, rule.max_genes))))
    if not len(genes):
        raise EmptySelectionError(
            "no genes are left",
            hint="--genes union keeps genes that only some sources have" if len(distinct) > 1 else None,
        )
    return genes


def _aligned(vocabularies: Sequence[Genes], rule: GeneRule) -> Genes:
    names: dict[str, str] = {}
    lengths: dict[str, int] = {}
    for vocabulary in vocabularies:
        for gene, name, length in zip(vocabulary.ids, vocabulary.names, vocabulary.lengths, strict=True):
            names.setdefault(gene, name)
            lengths[gene] = lengths.get(gene) or length
    # A gene asked for by id is found wherever it is, so the rule of alignment is not applied to a given list.
    everywhere = rule.align == "union" or rule.wanted is not None
    ids = [gene for gene in names if everywhere or all(gene in vocabulary for vocabulary in vocabularies)]
    return Genes(tuple(ids), tuple(names[gene] for gene in ids), tuple(lengths[gene] for gene in ids))


def _only(known: Genes, wanted: Iterable[str]) -> Genes:
    columns: dict[int, None] = {}
    unknown: list[str] = []
    for gene in wanted:
        column = known.position(gene)
        if column < 0:
            unknown.append(gene)
        elif column in columns:
            raise ConfigError(f"gene {gene!r} is asked for twice", kind="duplicate-gene")
        columns[column] = None
    if unknown:
        raise _unknown_genes(known, unknown)
    return known.take(list(columns))


def _unknown_genes(known: Genes, unknown: Sequence[str]) -> ConfigError:
    first = unknown[0]
    rest = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
    by_name = [gene for gene, name in zip(known.ids, known.names, strict=True) if name.upper() == first.upper()]
    if by_name:
        hint = f"{first} is a name; its id is {' or '.join(by_name)}"
    else:
        close = difflib.get_close_matches(first, known.ids, n=3, cutoff=0.8)
        hint = f"did you mean {', '.join(close)}?" if close else f"ids look like {known.ids[0]}"
    return ConfigError(
        f"no gene {first!r}{rest} among the {len(known):,} of the sources", kind="unknown-gene", hint=hint
    )
