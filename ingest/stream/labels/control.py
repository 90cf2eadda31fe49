"""Which label means control."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd

from ingest.errors import LabelsError
from ingest.stream.labels.terms import CONTROL_TERMS, contains_term
from ingest.stream.saying import say

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["resolve_control_label"]

_SHOWN = 8


def resolve_control_label(labels: Iterable[Any], control_label: str | None, *, verbose: bool = True) -> str:
    """Return the label of the control cells: the one given, or else the one that says so.

    Looked for without regard to case: a label that is one of ctrl, control, nontarget, non-target, non_target, ntc, in
    this order; then one that contains such a word, in the same order (ntc between what are no letters); then one that
    contains both "non" and "target". Of several that do, the alphabetically first.

    Parameters
    ----------
    labels
        Of cells, or distinct ones, in any order; missing ones do not count.
    control_label
        The label, or None to look for it.
    verbose
        Print what was found.

    Raises
    ------
    LabelsError
        A ValueError: `control_label` is not among the labels, or none of them says control (kind
        ``no-control-label``).
    """
    texts = sorted(set(map(str, pd.unique(pd.Series(list(labels), dtype=object).dropna()))))
    if control_label is not None:
        return _given(texts, control_label)
    found = _found(texts)
    if not found:
        raise LabelsError(
            f"none of {len(texts):,} labels says control: {_some(texts)}",
            kind="no-control-label",
            hint="control_label (--control) says which one does",
        )
    more = f" (of {len(found)}: {_some(found)})" if len(found) > 1 else ""
    say(f"control cells have the label {found[0]!r}{more}", verbose=verbose)
    return found[0]


def _given(texts: list[str], control_label: str) -> str:
    if control_label in texts:
        return control_label
    near = get_close_matches(control_label, texts, 3)
    raise LabelsError(
        f"no cell has the label {control_label!r}",
        kind="no-control-label",
        hint=f"did you mean {_some(near)}?" if near else f"there are {_some(texts)}",
    )


def _found(texts: list[str]) -> list[str]:
    """Return the labels of the first rule that any of `texts` fulfils."""
    small = [(text, text.strip().lower()) for text in texts]
    for term in CONTROL_TERMS:
        if found := [text for text, label in small if label == term]:
            return found
    for term in CONTROL_TERMS:
        if found := [text for text, label in small if contains_term(label, term)]:
            return found
    return [text for text, label in small if "non" in label and "target" in label]


def _some(texts: list[str]) -> str:
    return ", ".join(map(repr, texts[:_SHOWN])) + (", …" if len(texts) > _SHOWN else "") if texts else "none"
