"""Rules over columns of obs: control cells alone, cells marked by somebody. The same for an index and for a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import ConfigError
from ingest.grammar.suggest import did_you_mean, unknown_column
from ingest.index_scan import COORDINATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ingest.qc.parameters import QcRules

__all__ = ["Annotation", "resolve_annotations"]

Bools = np.ndarray[Any, np.dtype[np.bool_]]

CONTROL_COLUMNS = (
    "is_control",
    "control",
    "perturbation_role",
    "genetic_perturbation_strategy",
    "perturbation",
    "perturbations",
    "gene_target",
    "target_gene",
    "guide_target",
    "guide_identity",
    "gene",
    "condition",
    "treatment",
    "drug",
)
"""Where perturbation data say what was done to a cell, the most telling first: CELLxGENE, scPerturb, Replogle, Arc."""

CONTROL_VALUES = frozenset(
    {"control", "controls", "ctrl", "negative control", "negativecontrol", "nontargeting", "non targeting", "ntc"}
    | {"nontarget", "unperturbed", "untreated", "vehicle", "dmso", "mock", "true"}
)
"""What they say of control cells, in lower case, with spaces for ``_`` and without ``-``."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Cells that go because of one column of obs."""

    rule: str
    """``leave_out_column`` or ``control_cells``."""
    column: str
    values: tuple[str, ...]
    """Texts of values; ``true`` of a column of booleans."""

    def dropped(self, column: pa.Array) -> Bools:
        """Return which cells go, bool ``(n_cells,)``: those that have a value, or those that have none of them."""
        having = _having(column, self.values)
        return ~having if self.rule == "control_cells" else having

    def __str__(self) -> str:
        return f"{self.column} {'is' if self.rule == 'leave_out_column' else 'is not'} {' or '.join(self.values)}"


def _having(column: pa.Array, values: Sequence[str]) -> Bools:
    codes, texts = _texts(column)
    wanted = np.array([*(text in values for text in texts), False], bool)
    having: Bools = wanted[codes]
    return having


def _texts(column: pa.Array) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[str | None]]:
    """Return code of each cell, -1 where it has no value, and the text of each code."""
    whole = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    codes = pc.fill_null(whole.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return codes, [_text(value) for value in whole.dictionary.to_pylist()]


def _text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def resolve_annotations(
    rules: QcRules,
    schema: pa.Schema,
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]],
    where: str,
) -> tuple[Annotation, ...]:
    """Return the annotations that `rules` ask for, every value known to occur.

    Parameters
    ----------
    schema
        Of the table of cells.
    batches
        Gives columns of all cells; asked once, for those that may matter.
    where
        What has these columns, for messages.

    Raises
    ------
    ConfigError
        No such column (kind ``unknown-column``), a value that no cell has (``unknown-value``), a column of no booleans
        where a value must be said (``bad-qc``), no column that says which cells are controls (``no-controls``).
    """
    if not rules.by_annotation:
        return ()
    named = [tuple(text.partition("=")[::2]) for text in rules.leave_out_column]
    asked = [column.strip() for column, _ in named]
    controls = [rules.control_column] if rules.control_column else list(CONTROL_COLUMNS)
    for column in [*asked, *(controls if rules.control_column else ())]:
        if column not in schema.names or column in COORDINATES:
            raise unknown_column(column, [name for name in schema.names if name not in COORDINATES], where)
    looked = [*asked, *(name for name in controls if rules.wants_controls and name in schema.names)]
    known = _distinct(list(dict.fromkeys(looked)), batches)
    found = [
        Annotation("leave_out_column", column, (_marked(column, value.strip(), known[column], where),))
        for column, (_, value) in zip(asked, named, strict=True)
    ]
    if rules.wants_controls:
        found.append(_controls(rules, known, where))
    return tuple(found)


def _distinct(
    columns: Sequence[str], batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
) -> dict[str, dict[str, None]]:
    """Return column -> the texts that its cells have."""
    known: dict[str, dict[str, None]] = {column: {} for column in columns}
    for batch in batches(columns) if columns else ():
        for column, texts in known.items():
            codes, names = _texts(batch.column(column))
            texts.update((text, None) for code in np.unique(codes) if code >= 0 and (text := names[code]) is not None)
    return known


def _marked(column: str, value: str, known: dict[str, None], where: str) -> str:
    if not value:
        if not known.keys() <= {"true", "false", "True", "False"}:
            raise ConfigError(
                f"leave_out_column {column}: its values are no booleans but {_some(known)}",
                kind="bad-qc",
                hint=f"say which cells go: {column}=VALUE",
            )
        return "True" if "True" in known else "true"
    value = value.lower() if value.lower() in ("true", "false") and value not in known else value
    if value not in known:
        raise _unknown_value(column, value, known, where)
    return value


def _controls(rules: QcRules, known: dict[str, dict[str, None]], where: str) -> Annotation:
    for column, texts in known.items():
        if rules.control_column not in (None, column) or (
            rules.control_column is None and column not in CONTROL_COLUMNS
        ):
            continue
        if rules.control_values is not None:
            absent = [value for value in rules.control_values if value not in texts]
            if absent:
                raise _unknown_value(column, absent[0], texts, where)
            return Annotation("control_cells", column, rules.control_values)
        if values := tuple(text for text in texts if _says_control(text)):
            return Annotation("control_cells", column, values)
    if rules.control_column is not None:
        raise ConfigError(
            f"control_column {rules.control_column}: no value of it is known to mean control "
            f"({_some(known[rules.control_column])})",
            kind="no-controls",
            hint="say which with control_values",
        )
    raise ConfigError(
        f"no column of {where} is known to say which cells are controls",
        kind="no-controls",
        hint="say it with control_column and control_values",
    )


def _says_control(text: str) -> bool:
    return text.lower().replace("-", "").replace("_", " ") in CONTROL_VALUES


def _unknown_value(column: str, value: str, known: dict[str, None], where: str) -> ConfigError:
    meant = did_you_mean(value, list(known)) or f"; it has {_some(known)}"
    return ConfigError(f"no cell of {where} has {column} '{value}'{meant}", kind="unknown-value")


def _some(known: dict[str, None]) -> str:
    shown = [repr(text) for text in list(known)[:5]]
    return ", ".join(shown) + (f" and {len(known) - 5:,} more" if len(known) > 5 else "") if shown else "nothing"
