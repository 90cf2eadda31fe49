"""The words that labels are recognised by: names of columns, words for control cells, shapes of gene ids. Pure."""

from __future__ import annotations

import re

__all__ = [
    "CONTROL_ALIASES",
    "CONTROL_TERMS",
    "GENE_ID",
    "PERTURBATION_COLUMNS",
    "SAYS_CONTROL",
    "SYMBOL_COLUMNS",
    "VERSIONED_ID",
    "contains_term",
]

PERTURBATION_COLUMNS = (
    "perturbation",
    "gene",
    "gene_target",
    "condition",
    "guide_identity",
    "target_gene_name",
    "gene_name",
    "sgrna",
    "guide",
    "guide_id",
    "sgrna_name",
    "target",
)
"""Names of obs columns that say what was done to a cell."""

SYMBOL_COLUMNS = ("gene_symbols", "gene_name", "gene", "symbol", "hgnc_symbol", "gene_symbol", "feature_name")
"""Names of var columns that hold gene symbols."""

CONTROL_TERMS = ("ctrl", "control", "nontarget", "non-target", "non_target", "ntc")
"""Labels of control cells, in lower case; the first that is found wins."""

CONTROL_ALIASES = (
    "ntc",
    "non-targeting",
    "non_targeting",
    "nontarget",
    "non-target",
    "non_target",
    "control",
    "ctrl",
    "scramble",
    "scrambled",
    "non-targeting control",
    "non-targeting-control",
)
"""Spellings of a control label that `normalise_perturbation_labels` makes one of, in lower case."""

# "ntc" is a word of its own only between what are no letters: gene symbols such as NTCP have it, too.
_ALONE = r"(?<![a-z])ntc(?![a-z])"
_INSIDE = {term: re.escape(term) if term != "ntc" else _ALONE for term in CONTROL_TERMS}

SAYS_CONTROL = re.compile("|".join([*_INSIDE.values(), "non[^\n]*target", "target[^\n]*non"]))
"""Found in a label, lower case, that `resolve_control_label` would take; labels may stand in lines."""

GENE_ID = re.compile(
    r"ENS[A-Z]*[GT]\d+(?:\.\d+)?(?:_PAR_Y)?"  # Ensembl genes and transcripts; ENSA is a gene's symbol
    r"|ENS[A-Z]*[EPR]\d{6,}(?:\.\d+)?"  # … exons, proteins; ENSAP1 is a symbol, too
    r"|FBgn\d+|WBGene\d+"  # flies, worms
    r"|Y[A-P][LR]\d{3}[CW](?:-[A-Z])?"  # yeast
)
"""What is an id of a gene and no symbol, matched whole."""

VERSIONED_ID = re.compile(r"(ENS[A-Z]*[EGPRT]\d+)\.\d+(_PAR_Y)?")
"""An Ensembl id with its version, matched whole. AL627309.1 is none: that dot is part of a symbol."""


def contains_term(label: str, term: str) -> bool:
    """Tell whether `label`, in lower case, contains one of CONTROL_TERMS."""
    return re.search(_INSIDE[term], label) is not None
