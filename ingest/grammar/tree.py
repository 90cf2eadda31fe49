"""The syntax tree of a filter: comparisons joined by and / or. There is no ``not``: it lives in the comparisons."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = [
    "MIRRORED",
    "AllOf",
    "AnyOf",
    "Comparison",
    "Leaf",
    "Membership",
    "Node",
    "Op",
    "Value",
    "implied",
    "is_plain",
    "leaves",
    "negate",
    "rebuild",
    "spell",
    "write",
]

Op = Literal["==", "!=", "<", "<=", ">", ">="]
Value = str | int | float | bool

_NEGATED: Final[dict[Op, Op]] = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
MIRRORED: Final[dict[Op, Op]] = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
"""``1 < a`` is ``a > 1``."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """``column op value``."""

    column: str
    op: Op
    value: Value


@dataclass(frozen=True, slots=True)
class Membership:
    """``column in [values]``, or ``not in`` when `negated`; there is at least one value."""

    column: str
    values: tuple[Value, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class AllOf:
    """All terms hold."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one term holds."""

    terms: tuple[Node, ...]


Leaf = Comparison | Membership
Node = Leaf | AllOf | AnyOf


def negate(node: Node) -> Node:
    """Return the tree that holds where `node` fails, nulls apart: they match neither."""
    match node:
        case Comparison(column, op, value):
            return Comparison(column, _NEGATED[op], value)
        case Membership(column, values, negated):
            return Membership(column, values, not negated)
        case AllOf(terms):
            return AnyOf(tuple(negate(term) for term in terms))
        case AnyOf(terms):
            return AllOf(tuple(negate(term) for term in terms))


def leaves(node: Node) -> Iterator[Leaf]:
    """Yield the comparisons from left to right."""
    if isinstance(node, AllOf | AnyOf):
        for term in node.terms:
            yield from leaves(term)
    else:
        yield node


def implied(node: Node, columns: Collection[str]) -> Node | None:
    """Return what `node` demands of `columns` alone: it holds wherever `node` does. None: nothing.

    Sound because comparisons alone negate: a tree of `AllOf` and `AnyOf` can only gain rows when a leaf is let go.
    """
    match node:
        case AllOf(terms):
            kept = tuple(term for term in (implied(term, columns) for term in terms) if term is not None)
            return (kept[0] if len(kept) == 1 else AllOf(kept)) if kept else None
        case AnyOf(terms):
            demands = [implied(term, columns) for term in terms]
            found = tuple(term for term in demands if term is not None)
            return AnyOf(found) if len(found) == len(demands) else None
        case _:
            return node if node.column in columns else None


def rebuild(node: Node, change: Callable[[Leaf], Node]) -> Node:
    """Return the tree with every comparison replaced by what `change` makes of it."""
    match node:
        case AllOf(terms):
            return AllOf(tuple(rebuild(term, change) for term in terms))
        case AnyOf(terms):
            return AnyOf(tuple(rebuild(term, change) for term in terms))
        case _:
            return change(node)


def spell(value: Value) -> str:
    """Write a literal so that Python's parser, and therefore SOMA's, reads the same value back."""
    # An infinity comes from narrowing to float32; its repr would be a name.
    return {"inf": "1e999", "-inf": "-1e999"}.get(repr(value), repr(value))


def write(node: Node, name: Callable[[str], str]) -> str:
    """Write the tree with every column spelled by `name`."""
    match node:
        case Comparison(column, op, value):
            return f"{name(column)} {op} {spell(value)}"
        case Membership(column, values, negated):
            return f"{name(column)} {'not in' if negated else 'in'} [{', '.join(map(spell, values))}]"
        case AllOf(terms):
            return " and ".join(_grouped(term, name, AnyOf) for term in terms)
        case AnyOf(terms):
            return " or ".join(_grouped(term, name, AllOf) for term in terms)


def _grouped(term: Node, name: Callable[[str], str], other: type[AllOf | AnyOf]) -> str:
    return f"({write(term, name)})" if isinstance(term, other) else write(term, name)


def is_plain(column: str) -> bool:
    """Whether `column` can stand without quotes; ASCII only, since Python's parser normalises other letters."""
    return column.isascii() and column.isidentifier() and not keyword.iskeyword(column)
