"""Names of genes made uniform: versions of ids go, mitochondrial genes are told alike, ids become symbols."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ingest.errors import LabelsError
from ingest.stream.labels.annotations import annotated
from ingest.stream.labels.edit import editing
from ingest.stream.labels.lookup import look_up_symbols
from ingest.stream.labels.normalise import map_labels
from ingest.stream.labels.symbols import is_gene_id
from ingest.stream.labels.terms import VERSIONED_ID
from ingest.stream.storage import resolve_data_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["standardise_gene_names"]

_MITOCHONDRIAL = re.compile(r"mt-(?=.)", re.IGNORECASE)
_ACTIONS = ("keep", "warn", "error")
_SHOWN = 5


def standardise_gene_names(
    path: Any,
    *,
    column: str | None = None,
    strip_version: bool = True,
    normalise_mt_prefix: bool = True,
    lookup_symbols: bool = False,
    species: str = "human",
    unmapped_action: Literal["keep", "warn", "error"] = "warn",
    inplace: bool = True,
) -> pd.Series[Any] | None:
    """Make the names of genes uniform, in a column of var or in its index.

    In place, only that is replaced, in a copy that then replaces the file. raw has genes of its own, which stay.

    Parameters
    ----------
    path
        Of the file, or its handle; with ``inplace=False`` whatever var can be read from.
    column
        Of var, categorical or text; None: var_names. var_names of which some have become equal stay so, with a warning.
    strip_version
        ENSG00000141510.18 becomes ENSG00000141510. Of symbols such as AL627309.1 the dot is a part: they stay.
    normalise_mt_prefix
        mt-Nd1 becomes MT-Nd1.
    lookup_symbols
        Ensembl ids become symbols, as MyGene.info has them, 1,000 a request; needs the package mygene.
    species
        Whose genes are looked up.
    unmapped_action
        About ids that MyGene.info does not know, which stay as they are: nothing, a warning, or an error.
    inplace
        Change the file and return None; otherwise return the names.

    Returns
    -------
    Series
        ``(n_genes,)``, indexed by var_names; None in place.

    Raises
    ------
    ValueError
        `unmapped_action` is none of these.
    NoColumnError
        A KeyError: there is no such column.
    LabelsError
        A ValueError: the column holds no text (kind ``not-text``); ids are unknown (``unmapped-genes``).
    ImportError
        mygene is not installed.
    TransientError
        MyGene.info does not answer.
    SourceChangedError
        In place: something else changed the file meanwhile.
    TypeError, NoFileError, SourceError, ConfigError
        `path` is nothing to read from, or, in place, to write to.
    """
    if unmapped_action not in _ACTIONS:
        raise ValueError(f"unmapped_action {unmapped_action!r} is none of {', '.join(_ACTIONS)}")
    target = resolve_data_path(path) if inplace else path
    with annotated(target) as given:
        var, where = given.var, f"{given.label}: {'var_names' if column is None else f'column {column!r} of var'}"
        found = pd.Series(var.index()) if column is None else var.column(column)
        names, version = None if inplace else var.index(), given.version
    change = _spelling(strip_version=strip_version, normalise_mt_prefix=normalise_mt_prefix)
    made = map_labels(found, change, where)
    if lookup_symbols:
        made = map_labels(made, _symbols(made, species, unmapped_action, where), where)
    if names is not None:
        return made.set_axis(names).rename(column)
    if not made.equals(found):
        _write(target, version, column, made, where)
    return None


def _spelling(*, strip_version: bool, normalise_mt_prefix: bool) -> Callable[[str], str]:
    def change(name: str) -> str:
        if strip_version and (found := VERSIONED_ID.fullmatch(name)):
            name = found[1] + (found[2] or "")
        if normalise_mt_prefix and (found := _MITOCHONDRIAL.match(name)):
            name = "MT-" + name[found.end() :]
        return name

    return change


def _symbols(names: pd.Series[Any], species: str, unmapped_action: str, where: str) -> Callable[[str], str]:
    asked = {name: _without_version(name) for name in pd.unique(names.dropna()) if is_gene_id(name)}
    symbols = look_up_symbols(sorted(set(asked.values())), species) if asked else {}
    unmapped = [name for name, bare in asked.items() if bare not in symbols]
    if unmapped:
        _say_unmapped(unmapped, len(asked), unmapped_action, where)
    return lambda name: symbols.get(asked.get(name, ""), name)


def _without_version(name: str) -> str:
    found = VERSIONED_ID.fullmatch(name)
    return name if found is None else found[1]


def _say_unmapped(unmapped: list[str], n_asked: int, action: str, where: str) -> None:
    message = f"{where}: MyGene.info has no symbol for {len(unmapped):,} of {n_asked:,} ids ({_some(unmapped)})"
    if action == "error":
        raise LabelsError(message, kind="unmapped-genes", hint="unmapped_action='keep' leaves them as they are")
    if action == "warn":
        warnings.warn(f"{message}; they stay as they are", stacklevel=4)


def _write(path: Path, version: str, column: str | None, names: pd.Series[Any], where: str) -> None:
    if column is None:
        twice = names[names.duplicated()]
        if len(twice):
            warnings.warn(f"{where}: {len(twice):,} are not unique now ({_some(twice)})", stacklevel=3)
    with editing(path, version=version) as edit:
        if column is None:
            edit.put_index("var", pd.Index(names))
        else:
            edit.put_column("var", column, names)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
