"""Evaluate a bound filter over Arrow data."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from ingest.grammar.tree import AllOf, AnyOf, Comparison, Leaf, Membership, Node

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["matches"]

_COMPUTE: Final[dict[str, Callable[[pa.Array, pa.Scalar], pa.Array]]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def matches(node: Node, batch: pa.RecordBatch) -> pa.BooleanArray:
    """Return for each row whether it matches: bool ``(n_rows,)``, no nulls."""
    if isinstance(node, AllOf):
        return reduce(pc.and_, (matches(term, batch) for term in node.terms))
    if isinstance(node, AnyOf):
        return reduce(pc.or_, (matches(term, batch) for term in node.terms))
    return _leaf(node, batch.column(node.column))


def _leaf(leaf: Leaf, column: pa.Array) -> pa.BooleanArray:
    if pa.types.is_null(column.type):
        return pa.repeat(pa.scalar(False), len(column))
    if isinstance(column, pa.DictionaryArray):
        # Compare each category once and look the answers up.
        answers = _leaf(leaf, column.dictionary) if len(column.dictionary) else pa.array([], pa.bool_())
        return pc.fill_null(pc.take(answers, column.indices), False)
    return pc.fill_null(_compare(leaf, _comparable(column)), False)


def _comparable(column: pa.Array) -> pa.Array:
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _compare(leaf: Leaf, column: pa.Array) -> pa.Array:
    if isinstance(leaf, Comparison):
        return _COMPUTE[leaf.op](column, pa.scalar(leaf.value, column.type))
    return _contained(leaf, column)


def _contained(leaf: Membership, column: pa.Array) -> pa.Array:
    found = pc.is_in(column, value_set=pa.array(leaf.values, column.type))
    # is_in answers False for a null; its inverse would let nulls match `not in`.
    return pc.and_(pc.invert(found), pc.is_valid(column)) if leaf.negated else found
