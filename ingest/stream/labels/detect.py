"""Which column says what was done to a cell, and which what a gene is called: points for what speaks for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ingest.errors import LabelsError
from ingest.stream.labels.annotations import annotated
from ingest.stream.labels.symbols import check_symbols, id_share
from ingest.stream.labels.terms import PERTURBATION_COLUMNS, SAYS_CONTROL, SYMBOL_COLUMNS
from ingest.stream.saying import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ingest.stream.labels.annotations import Annotations, Columns

__all__ = ["Candidate", "detect_gene_symbol_column", "detect_perturbation_column", "infer_columns"]

_MOST_LABELS = 5_000
_A_GUESS = 3
"""Points that a column has for its type and the number of its values alone."""
_LEAST_DISTINCT = 0.5
"""Part of gene names that differ from one another: types of genes are few, symbols are many."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column and what speaks for it."""

    name: str
    reasons: tuple[tuple[int, str], ...]
    """Points, and what for."""

    @property
    def score(self) -> int:
        """The sum of points."""
        return sum(points for points, _ in self.reasons)

    def __str__(self) -> str:
        said = f"{self.name!r} ({', '.join(reason for _, reason in self.reasons)})"
        return said if self.score > _A_GUESS else f"{said}: a guess, nothing else speaks for it"


def detect_perturbation_column(
    adata: Any, *, control_label: str | None = None, min_unique: int = 2, verbose: bool = True
) -> str | None:
    """Return the column of obs that most likely says what was done to a cell, None if nothing speaks for any.

    Points: 3 for a known name (`ingest.stream.labels.terms.PERTURBATION_COLUMNS`), 2 for categorical or text, 1 for
    `min_unique` to 5,000 distinct values, 2 for a control label among them (the given one, or one that
    `resolve_control_label` would find). Of equals, the first of the known names, then the first of obs.

    Parameters
    ----------
    adata
        Path, URL, handle, or AnnData in memory or backed. Files are read a column and 65,536 rows at a time.
    control_label
        The label of control cells, if known.
    verbose
        Print what was found and why.

    Raises
    ------
    TypeError, NoFileError, SourceError, ConfigError
        `adata` is nothing to read annotations from.
    """
    with annotated(adata) as given:
        return _perturbation_column(given, control_label, min_unique, verbose=verbose)


def detect_gene_symbol_column(adata: Any, *, verbose: bool = True) -> str | None:
    """Return the column of var that most likely holds gene symbols, None if there is none.

    Points: 3 for a known name (`ingest.stream.labels.terms.SYMBOL_COLUMNS`), 2 for passing the check of
    `ensure_gene_symbol_column`, 1 if none at all is an id of a gene. Only categorical and text columns that pass the
    check, and at least half of whose values differ, are candidates: everything else would fail as symbols.

    Parameters
    ----------
    adata
        Path, URL, handle, or AnnData in memory or backed.
    verbose
        Print what was found and why.

    Raises
    ------
    TypeError, NoFileError, SourceError, ConfigError
        `adata` is nothing to read annotations from.
    """
    with annotated(adata) as given:
        return _symbol_column(given, verbose=verbose)


def infer_columns(adata: Any, *, control_label: str | None = None, verbose: bool = True) -> dict[str, str | None]:
    """Return ``{"perturbation_column": …, "gene_name_column": …}`` as the two detectors find them.

    Parameters
    ----------
    adata, control_label, verbose
        As of `detect_perturbation_column`.

    Raises
    ------
    TypeError, NoFileError, SourceError, ConfigError
        As of `detect_perturbation_column`.
    """
    with annotated(adata) as given:
        return {
            "perturbation_column": _perturbation_column(given, control_label, 2, verbose=verbose),
            "gene_name_column": _symbol_column(given, verbose=verbose),
        }


def _perturbation_column(
    given: Annotations, control_label: str | None, min_unique: int, *, verbose: bool
) -> str | None:
    candidates = [_judged_labels(given.obs, name, control_label, min_unique) for name in given.obs.names]
    return _best(candidates, PERTURBATION_COLUMNS, f"{given.label}: perturbations in obs", verbose=verbose)


def _symbol_column(given: Annotations, *, verbose: bool) -> str | None:
    candidates = [_judged_symbols(given.var, name) for name in given.var.names]
    return _best(candidates, SYMBOL_COLUMNS, f"{given.label}: gene symbols in var", verbose=verbose)


def _best(candidates: Sequence[Candidate], known: Sequence[str], what: str, *, verbose: bool) -> str | None:
    rank = {name: place for place, name in enumerate(known)}
    # Sorting is stable: what is left equal stays in the table's order.
    order = sorted(candidates, key=lambda one: (-one.score, rank.get(one.name.lower(), len(rank))))
    if not order or order[0].score <= 0:
        say(f"{what}: nothing speaks for any column", verbose=verbose)
        return None
    say(f"{what}: column {order[0]}", verbose=verbose)
    return order[0].name


def _judged_labels(obs: Columns, name: str, control_label: str | None, min_unique: int) -> Candidate:
    text = obs.is_text(name)
    reasons = [(3, "a known name")] if name.lower() in PERTURBATION_COLUMNS else []
    if text:
        reasons.append((2, "categorical or text"))
    n_labels, control = _look(obs, name, control_label, text=text)
    if min_unique <= n_labels <= _MOST_LABELS:
        reasons.append((1, f"{n_labels:,} values"))
    if control is not None:
        reasons.append((2, f"control cells: {control!r}"))
    return Candidate(name, tuple(reasons))


def _look(obs: Columns, name: str, control_label: str | None, *, text: bool) -> tuple[int, str | None]:
    """Return how many distinct values a column has, 5,001 at most, and the first that says control."""
    seen: set[Any] = set()
    control: str | None = None
    for piece in obs.pieces(name):
        found = _distinct(piece)
        if len(seen) <= _MOST_LABELS:
            seen.update(found)
        if control is None and (text or control_label is not None):
            control = _control_among(found, control_label)
        if len(seen) > _MOST_LABELS and (control is not None or not (text or control_label is not None)):
            break
    return min(len(seen), _MOST_LABELS + 1), control


def _distinct(piece: pd.Series[Any]) -> list[Any]:
    values = piece.dropna()
    if isinstance(values.dtype, pd.CategoricalDtype):
        return list(values.cat.categories[sorted(set(values.cat.codes))])
    try:
        return list(pd.unique(values))
    except TypeError:  # an object that has no hash
        return sorted(set(map(str, values)))


def _control_among(values: Iterable[Any], control_label: str | None) -> str | None:
    texts = [str(value) for value in values]
    if control_label is not None:
        return control_label if control_label in texts else None
    # One search over all: a column of barcodes has as many values as cells.
    lines = "\n".join(text.replace("\n", " ") for text in texts).lower()
    found = SAYS_CONTROL.search(lines)
    return None if found is None else texts[lines.count("\n", 0, found.start())]


def _judged_symbols(var: Columns, name: str) -> Candidate:
    symbols = pd.Index(var.column(name).astype(object)).dropna() if var.is_text(name) else pd.Index([], dtype=object)
    try:
        check_symbols(symbols, name)
    except LabelsError:
        return Candidate(name, ())
    if len(set(map(str, symbols))) < _LEAST_DISTINCT * len(symbols):
        return Candidate(name, ())
    reasons = [(3, "a known name")] if name.lower() in SYMBOL_COLUMNS else []
    reasons.append((2, "symbols"))
    if id_share(symbols) == 0:
        reasons.append((1, "no ids among them"))
    return Candidate(name, tuple(reasons))
