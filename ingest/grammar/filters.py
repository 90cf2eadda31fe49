"""Filters: parsed once, bound to a schema, evaluated here or handed to SOMA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from ingest.grammar.bind import Binder
from ingest.grammar.evaluate import matches
from ingest.grammar.parse import parse
from ingest.grammar.suggest import unknown_column
from ingest.grammar.tree import AllOf, Comparison, Membership, Node, implied, is_plain, leaves, rebuild, write

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["Filter", "parse_filter"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows to keep; ``str()`` is a canonical spelling that parses to an equal filter."""

    node: Node

    def __str__(self) -> str:
        return write(self.node, lambda column: column if is_plain(column) else f"`{column}`")

    def __and__(self, other: Filter) -> Filter:
        return Filter(AllOf((self.node, other.node)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it looks at, in order of appearance."""
        return tuple(dict.fromkeys(leaf.column for leaf in leaves(self.node)))

    def implied(self, columns: Collection[str]) -> Filter | None:
        """Return the part that concerns `columns` alone: every row that matches this filter matches that one too."""
        node = implied(self.node, columns)
        return None if node is None else Filter(node)

    def renamed(self, names: Mapping[str, str]) -> Filter:
        """Return the filter over columns of other names."""
        return Filter(rebuild(self.node, lambda leaf: replace(leaf, column=names.get(leaf.column, leaf.column))))

    def bind(
        self, schema: pa.Schema, where: str = "the index", categories: Mapping[str, Sequence[str]] | None = None
    ) -> Filter:
        """Return an equivalent filter whose literals have the types of the columns of `schema`.

        Parameters
        ----------
        schema
            Arrow types of at least the columns of the filter.
        where
            What has these columns, for messages.
        categories
            All values of dictionary columns that the engine cannot order (SOMA); ``<`` becomes ``in`` over them.

        Raises
        ------
        ConfigError
            ``unknown-column``, with what may have been meant; ``filter-type``: a literal does not suit its column.
        """
        for column in self.columns:
            if column not in schema.names:
                raise unknown_column(column, schema.names, where)
        return Filter(rebuild(self.node, Binder(schema, where, categories or {}).fit))

    def mask(self, data: pa.RecordBatch | pa.Table) -> pa.BooleanArray:
        """Return for each row whether it matches: bool ``(n_rows,)``, no nulls.

        Raises
        ------
        ConfigError
            As in `bind`.
        """
        node = self.bind(data.schema).node
        if isinstance(data, pa.RecordBatch):
            return matches(node, data)
        parts = [matches(node, batch) for batch in data.select(self.columns).to_batches()]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.bool_())

    def to_soma(self) -> str:
        """Write a ``value_filter`` for tiledbsoma; bind to the SOMA schema first, or its casts differ from ours."""
        return write(self.node, lambda column: column if is_plain(column) else f"attr({column!r})")

    def absent_values(self, known: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
        """Return ``(column, value)`` of each text that a column of `known` is wanted to equal but never does."""
        wanted: list[tuple[str, str]] = []
        for leaf in leaves(self.node):
            match leaf:
                case Comparison(column, "==", value):
                    values: tuple[object, ...] = (value,)
                case Membership(column, several, negated=False):
                    values = several
                case _:
                    continue
            if column in known:
                wanted += [(column, text) for text in values if isinstance(text, str) and text not in known[column]]
        return list(dict.fromkeys(wanted))


def parse_filter(text: str) -> Filter:
    """Parse a filter such as ``tissue == 'lung' and nnz > 500``.

    Raises
    ------
    ConfigError
        ``filter-syntax``, with the place in the text.
    """
    return Filter(parse(text))
