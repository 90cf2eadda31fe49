"""Fit the literals of a filter to the types of the columns, so that every engine compares alike.

Left to themselves engines differ: SOMA truncates ``nnz == 1.5`` to ``nnz == 1`` and refuses ``in`` on booleans and
small integers, Arrow widens a float32 column before comparing it with 0.1. A bound filter leaves them no choice.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from ingest.errors import ConfigError
from ingest.grammar.tree import AllOf, AnyOf, Comparison, Leaf, Membership, Node, Op, Value, spell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Binder"]

_ORDER: Final[dict[Op, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FLOATS: Final = {pa.float16(): np.float16, pa.float32(): np.float32, pa.float64(): np.float64}


@dataclass(frozen=True, slots=True)
class Binder:
    """Fits one comparison at a time."""

    schema: pa.Schema
    """Types of the columns; every column of the filter is one of them."""
    where: str
    """What has these columns, for messages: ``the Census obs``."""
    categories: Mapping[str, Sequence[str]]
    """For columns whose engine cannot order categories: all categories. ``<`` then becomes ``in``."""

    def fit(self, leaf: Leaf) -> Node:
        """Return `leaf` with literals of the column's own type, or an equivalent.

        Raises
        ------
        ConfigError
            ``filter-type``: the literal, or the comparison, makes no sense for the column.
        """
        if isinstance(leaf, Membership):
            return self._membership(leaf)
        return self._comparison(leaf)

    def _membership(self, leaf: Membership) -> Node:
        terms = [self._comparison(Comparison(leaf.column, "==", value)) for value in leaf.values]
        values = tuple(dict.fromkeys(term.value for term in terms if isinstance(term, Comparison)))
        if not values:
            return _always(leaf.column, 0) if leaf.negated else _never(leaf.column, 0)
        kind = _value_type(self.schema.field(leaf.column).type)
        if pa.types.is_boolean(kind) or kind in (pa.uint8(), pa.int16()):
            return _one_by_one(leaf, values, ())
        # SOMA takes a minus in comparisons, not in lists.
        below = {value for value in values if not isinstance(value, str) and value < 0}
        return _one_by_one(leaf, tuple(sorted(below)), tuple(value for value in values if value not in below))

    def _comparison(self, leaf: Comparison) -> Node:
        stored = self.schema.field(leaf.column).type
        kind = _value_type(stored)
        if leaf.op in _ORDER and pa.types.is_dictionary(stored):
            self._check_orderable(leaf, stored)
            if leaf.column in self.categories:
                return self._as_membership(leaf)
        if pa.types.is_null(kind):
            return leaf
        if _is_text(kind):
            return leaf if isinstance(leaf.value, str) else self._mismatch(leaf, "text", f"quote it: '{leaf.value}'")
        if pa.types.is_boolean(kind):
            return self._boolean(leaf)
        if pa.types.is_integer(kind):
            return self._integer(leaf, kind)
        if kind in _FLOATS:
            return self._floating(leaf, kind)
        return self._mismatch(leaf, str(kind), "filters compare text, numbers and booleans")

    def _as_membership(self, leaf: Comparison) -> Node:
        if not isinstance(leaf.value, str):
            return self._mismatch(leaf, "text", f"quote it: '{leaf.value}'")
        holds = _ORDER[leaf.op]
        # Bytes, as TileDB and Arrow order text; Python's str order is the same for valid UTF-8.
        values = tuple(value for value in self.categories[leaf.column] if holds(value, leaf.value))
        return Membership(leaf.column, values, negated=False) if values else _never(leaf.column, "")

    def _boolean(self, leaf: Comparison) -> Node:
        if leaf.op in _ORDER or leaf.value not in (0, 1):
            return self._mismatch(leaf, "True or False", "compare it by == True or == False")
        return Comparison(leaf.column, leaf.op, bool(leaf.value))

    def _integer(self, leaf: Comparison, kind: pa.DataType) -> Node:
        value = self._number(leaf)
        if isinstance(value, float) and not value.is_integer():
            return self._between_integers(leaf, value, kind)
        value = int(value)
        bits, signed = kind.bit_width, not str(kind).startswith("u")
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if low <= value <= high:
            return Comparison(leaf.column, leaf.op, value)
        beyond = leaf.op == "!=" or (leaf.op in ("<", "<=") if value > high else leaf.op in (">", ">="))
        return _always(leaf.column, 0) if beyond else _never(leaf.column, 0)

    def _between_integers(self, leaf: Comparison, value: float, kind: pa.DataType) -> Node:
        if leaf.op == "==":
            return _never(leaf.column, 0)
        if leaf.op == "!=":
            return _always(leaf.column, 0)
        down = leaf.op in ("<", "<=")
        whole = math.floor(value) if down else math.ceil(value)
        return self._integer(Comparison(leaf.column, "<=" if down else ">=", whole), kind)

    def _floating(self, leaf: Comparison, kind: pa.DataType) -> Node:
        with np.errstate(over="ignore"):
            return Comparison(leaf.column, leaf.op, float(np.asarray(self._number(leaf)).astype(_FLOATS[kind])) + 0.0)

    def _number(self, leaf: Comparison) -> int | float:
        if isinstance(leaf.value, bool | str):
            self._mismatch(leaf, "numbers", None)
        return leaf.value  # type: ignore[return-value]  # strings ended in _mismatch, which raises

    def _check_orderable(self, leaf: Comparison, stored: pa.DictionaryType) -> None:
        if stored.ordered:
            raise ConfigError(
                f"filter: {leaf.column!r} of {self.where} has an order of its own, which {leaf.op!r} would not follow",
                kind="filter-type",
                hint=f"list the values: {leaf.column} in [...]",
            )

    def _mismatch(self, leaf: Comparison, holds: str, hint: str | None) -> Node:
        raise ConfigError(
            f"filter: {leaf.column!r} of {self.where} holds {holds}; it cannot be {leaf.op} {spell(leaf.value)}",
            kind="filter-type",
            hint=hint,
        )


def _always(column: str, value: Value) -> Node:
    """Hold for every cell that has a value."""
    return AnyOf((Comparison(column, "==", value), Comparison(column, "!=", value)))


def _never(column: str, value: Value) -> Node:
    return AllOf((Comparison(column, "==", value), Comparison(column, "!=", value)))


def _one_by_one(leaf: Membership, single: tuple[Value, ...], listed: tuple[Value, ...]) -> Node:
    """Return comparisons for `single`, a membership for `listed`: SOMA has no ``in`` for booleans, uint8 and int16."""
    terms: list[Node] = [Comparison(leaf.column, "!=" if leaf.negated else "==", value) for value in single]
    if listed:
        terms.append(Membership(leaf.column, listed, leaf.negated))
    if len(terms) == 1:
        return terms[0]
    return AllOf(tuple(terms)) if leaf.negated else AnyOf(tuple(terms))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
