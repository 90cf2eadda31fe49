"""Gene symbols, told from ids of genes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd

from ingest.errors import LabelsError
from ingest.stream.labels.annotations import annotated
from ingest.stream.labels.terms import GENE_ID

if TYPE_CHECKING:
    from ingest.stream.labels.annotations import Annotations

__all__ = ["check_symbols", "ensure_gene_symbol_column", "id_share", "is_gene_id", "symbols_of"]

_log = logging.getLogger(__name__)

_USUAL = "gene_symbols"
"""The column that need not be there: var_names are taken instead."""


def ensure_gene_symbol_column(adata: Any, gene_name_column: str | None) -> pd.Index[Any]:
    """Return the gene symbols of `adata`, ``(n_genes,)``, in the order of var.

    Parameters
    ----------
    adata
        Path, URL, handle, or AnnData in memory or backed.
    gene_name_column
        Column of var. None: var_names, and so for "gene_symbols" where there is no such column; the log says so.

    Raises
    ------
    NoColumnError
        A KeyError: there is no such column.
    LabelsError
        A ValueError: more than half are ids (Ensembl's, FlyBase's, WormBase's, yeast's; kind ``gene-ids``), or there
        are no names at all (``no-gene-names``).
    TypeError, NoFileError, SourceError, ConfigError
        `adata` is nothing to read names from.
    """
    with annotated(adata) as given:
        symbols, where = symbols_of(given, gene_name_column)
        check_symbols(symbols, f"{given.label}: {where}")
    return symbols


def symbols_of(given: Annotations, column: str | None) -> tuple[pd.Index[Any], str]:
    """Return what `column` holds as an Index, unchecked, and what to call it."""
    if column is None or (column == _USUAL and column not in given.var.names):
        missing = "" if column is None else f", having no column {column!r}"
        _log.info("%s: var_names are taken for gene symbols%s", given.label, missing)
        return given.var.index(), "var_names"
    return pd.Index(given.var.column(column).astype(object)), f"column {column!r} of var"


def check_symbols(symbols: pd.Index[Any], where: str) -> None:
    """Raise LabelsError, naming `where`, unless at least half of `symbols` are no ids; missing ones do not count."""
    names = symbols.dropna()
    if not any(str(name).strip() for name in names):
        raise LabelsError(f"{where} holds no gene names", kind="no-gene-names", hint=_hint())
    if (share := id_share(names)) > 0.5:
        example = next(name for name in names if is_gene_id(name))
        raise LabelsError(
            f"{where} holds ids of genes such as {example}, no symbols ({share:.0%})", kind="gene-ids", hint=_hint()
        )


def is_gene_id(name: Any) -> bool:
    """Tell whether a name is an id of a gene, not a symbol."""
    return GENE_ID.fullmatch(str(name).strip()) is not None


def id_share(names: pd.Index[Any]) -> float:
    """Return which part of `names` are ids of genes, 0 of none."""
    return sum(map(is_gene_id, names)) / len(names) if len(names) else 0.0


def _hint() -> str:
    return "name the column of var that holds symbols"
