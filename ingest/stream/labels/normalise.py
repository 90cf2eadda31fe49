"""Labels of perturbations made uniform: what stands before and after the name goes, controls are called one thing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ingest.errors import ConfigError, LabelsError
from ingest.stream.labels.annotations import annotated, is_text
from ingest.stream.labels.edit import editing
from ingest.stream.labels.terms import CONTROL_ALIASES
from ingest.stream.storage import resolve_data_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["LabelRules", "map_labels", "normalise_perturbation_labels"]


@dataclass(frozen=True, slots=True)
class LabelRules:
    """What becomes of a label. Pure; build with `label_rules`.

    Each step happens once, so that "HLA-A-1" stripped of ``-[0-9]+`` keeps what only looks like another suffix. No
    step leaves an empty label: one that would, does nothing.
    """

    prefixes: tuple[str, ...] = ()
    """The longest first; each is taken off at most once."""
    suffixes: tuple[str, ...] = ()
    suffix: re.Pattern[str] | None = None
    """Taken off where it matches at the end."""
    aliases: frozenset[str] = frozenset(CONTROL_ALIASES)
    """Spellings of control, in lower case."""
    control: str = "NTC"

    def apply(self, label: str) -> str:
        """Return what becomes of `label`."""
        for prefix in self.prefixes:
            label = label.removeprefix(prefix) or label
        for suffix in self.suffixes:
            label = label.removesuffix(suffix) or label
        if self.suffix is not None:
            label = self.suffix.sub("", label, count=1) or label
        return self.control if label.strip().lower() in self.aliases else label


def label_rules(
    strip_prefixes: Iterable[str] | str | None,
    strip_suffixes: Iterable[str] | str | None,
    strip_suffix_regex: str | None,
    control_aliases: Iterable[str] | str | None,
    canonical_control: str,
) -> LabelRules:
    """Build the rules of `normalise_perturbation_labels` from its arguments.

    Raises
    ------
    ConfigError
        `strip_suffix_regex` is no regular expression (kind ``bad-regex``), or `canonical_control` is empty
        (``bad-label``).
    """
    if not canonical_control:
        raise ConfigError("canonical_control is empty; control cells need a label", kind="bad-label")
    try:
        re.compile(strip_suffix_regex or "")
        suffix = re.compile(rf"(?:{strip_suffix_regex})\Z") if strip_suffix_regex else None
    except re.error as error:
        raise ConfigError(f"{strip_suffix_regex!r} is no regular expression ({error})", kind="bad-regex") from error
    aliases = CONTROL_ALIASES if control_aliases is None else _listed(control_aliases)
    return LabelRules(
        _longest_first(strip_prefixes),
        _longest_first(strip_suffixes),
        suffix,
        frozenset(alias.strip().lower() for alias in aliases),
        canonical_control,
    )


def normalise_perturbation_labels(
    path: Any,
    column: str,
    *,
    strip_prefixes: Iterable[str] | None = None,
    strip_suffixes: Iterable[str] | None = None,
    strip_suffix_regex: str | None = None,
    control_aliases: Iterable[str] | None = None,
    canonical_control: str = "NTC",
    inplace: bool = True,
) -> pd.Series[Any] | None:
    """Make the labels of a column of obs uniform: prefixes, suffixes, the expression, then aliases of control.

    A categorical column stays categorical, in the order of its categories; those that become equal become one. Missing
    labels stay missing; text with missing labels is written as categorical. In place, only the column is replaced, in a
    copy that then replaces the file; what `sort_by_perturbation` noted about the order of this column is dropped when
    labels change.

    Parameters
    ----------
    path
        Of the file, or its handle; with ``inplace=False`` whatever obs can be read from.
    column
        Of obs, categorical or text.
    strip_prefixes, strip_suffixes
        Taken off, the longest first, each at most once.
    strip_suffix_regex
        Taken off once where it matches at the end.
    control_aliases
        Spellings of control in any case, instead of the usual ones (`ingest.stream.labels.terms.CONTROL_ALIASES`).
    canonical_control
        What control cells are called then.
    inplace
        Change the file and return None; otherwise return the labels.

    Returns
    -------
    Series
        ``(n_cells,)``, indexed by the names of cells; None in place.

    Raises
    ------
    NoColumnError
        A KeyError: there is no such column.
    LabelsError
        A ValueError: the column is neither categorical nor text, or its categories are no text (kind ``not-text``).
    ConfigError
        As of `label_rules`; in place, as of `ingest.stream.files.edited_copy`.
    SourceChangedError
        In place: something else changed the file meanwhile.
    TypeError, NoFileError, SourceError
        `path` is nothing to read from.
    """
    rules = label_rules(strip_prefixes, strip_suffixes, strip_suffix_regex, control_aliases, canonical_control)
    target = resolve_data_path(path) if inplace else path
    with annotated(target) as given:
        found = given.obs.column(column)
        names = None if inplace else given.obs.index()
        made = map_labels(found, rules.apply, f"{given.label}: column {column!r} of obs")
        version, was_sorted = given.version, given.note("sorting_metadata").get("sorted_by") == column
    if names is not None:
        return made.set_axis(names).rename(column)
    if not made.equals(found):
        with editing(target, version=version) as edit:
            edit.put_column("obs", column, made)
            if was_sorted:
                edit.drop_uns("sorting_metadata")
    return None


def map_labels(values: pd.Series[Any], change: Callable[[str], str], where: str) -> pd.Series[Any]:
    """Return `values` with `change` made to each label; categoricals stay so, missing values missing.

    Raises
    ------
    LabelsError
        They are no text (kind ``not-text``); `where` is what holds them.
    """
    if not is_text(values.dtype):
        raise _no_text(where, f"of type {values.dtype}")
    if isinstance(values.dtype, pd.CategoricalDtype):
        changed = [_changed(label, change, where) for label in values.cat.categories]
        kinds = list(dict.fromkeys(changed))
        place = {label: number for number, label in enumerate(kinds)}
        moved = np.array([*(place[label] for label in changed), -1], np.int64)  # the last for missing labels, code -1
        made = pd.Categorical.from_codes(moved[values.cat.codes], pd.Index(kinds), ordered=bool(values.cat.ordered))
        return pd.Series(made, index=values.index, name=values.name)
    known = {label: _changed(label, change, where) for label in pd.unique(values.dropna())}
    return values.map(known, na_action="ignore").astype(object)


def _changed(label: Any, change: Callable[[str], str], where: str) -> str:
    if not isinstance(label, str):
        raise _no_text(where, f"such as {label!r}")
    return change(label)


def _no_text(where: str, what: str) -> LabelsError:
    return LabelsError(f"{where} holds values {what}, no labels", kind="not-text")


def _listed(texts: Iterable[str] | str | None) -> list[str]:
    return [] if texts is None else [texts] if isinstance(texts, str) else list(texts)


def _longest_first(texts: Iterable[str] | str | None) -> tuple[str, ...]:
    return tuple(sorted(filter(None, _listed(texts)), key=len, reverse=True))
