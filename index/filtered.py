"""Keep the cells of a stream that match a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from index.dictionaries import is_text
from ingest.errors import EmptySelectionError
from ingest.grammar import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from index.stream import CellStream
    from ingest.grammar import Filter

__all__ = ["Filtered", "nothing_matched"]

_MOST_KNOWN = 10_000


class Filtered:
    """The cells of `stream` that match `kept`.

    Parameters
    ----------
    stream
        What to filter.
    kept
        The filter.
    where
        What is filtered, for messages: ``the index lung.feather``.

    Raises
    ------
    ConfigError
        ``unknown-column``, ``filter-type``.
    """

    def __init__(self, stream: CellStream, kept: Filter, where: str) -> None:
        self._stream = stream
        self._kept = kept.bind(stream.schema, where)
        self._where = where
        # Values met, to say what was probably meant by one that never appears.
        self._known = {name: set[str]() for name in kept.columns if is_text(stream.schema.field(name).type)}

    @property
    def schema(self) -> pa.Schema:
        """That of the stream filtered."""
        return self._stream.schema

    @property
    def notes(self) -> Sequence[str]:
        """Those of the stream filtered."""
        return self._stream.notes

    @property
    def total(self) -> int:
        """Cells there are before filter and sample."""
        return self._stream.total

    def nothing(self) -> EmptySelectionError:
        """Name the values that the filter wants and no cell has."""
        return nothing_matched(self._kept, self._known, self._where)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells that match."""
        needed = None if columns is None else list(dict.fromkeys([*columns, *self._kept.columns]))
        for batch in self._stream.batches(needed):
            self._learn(batch)
            matching = batch.filter(self._kept.mask(batch))
            if len(matching):
                yield matching if columns is None else matching.select(list(columns))

    def _learn(self, batch: pa.RecordBatch) -> None:
        for name, values in self._known.items():
            if len(values) < _MOST_KNOWN:
                values.update(text for text in pc.unique(batch.column(name)).to_pylist() if text is not None)


def nothing_matched(kept: Filter, known: Mapping[str, Collection[str]], where: str) -> EmptySelectionError:
    """Return the error for a filter that no cell of `where` matches, naming the first value that does not exist."""
    for column, value in kept.absent_values(known):
        return EmptySelectionError(
            f"no cell in {where} has {column} == {value!r}{did_you_mean(value, sorted(known[column]))}",
            hint=_some_of(column, known[column]),
        )
    return EmptySelectionError(f"no cell in {where} matches {kept}"[:500])


def _some_of(column: str, values: Collection[str]) -> str | None:
    first = sorted(values)[:8]
    return f"{column} is one of {', '.join(map(repr, first))}{', …' if len(values) > 8 else ''}" if first else None
