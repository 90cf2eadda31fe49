"""What an index holds: cells by source and by the values of its columns."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from index.dictionaries import is_text
from index.read import IndexFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["ColumnCounts", "IndexDescription", "describe"]

_MOST_COUNTED: Final = 100_000
MISSING: Final = "(missing)"


@dataclass(frozen=True, slots=True)
class ColumnCounts:
    """One column: its commonest values, or its range when it holds numbers."""

    name: str
    type: str
    """Arrow's name."""
    missing: int
    """Cells without a value."""
    distinct: int | None = None
    """Different values; None for numbers, and where there are more than 100,000."""
    top: tuple[tuple[str, int], ...] = ()
    """Commonest values with their cells, most first."""
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """An index at a glance."""

    path: str
    cells: int
    bytes: int
    columns: tuple[ColumnCounts, ...]
    origin: Any = None
    """How its cells were chosen; None where the file does not say."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        described = asdict(self)
        for column in described["columns"]:
            column["top"] = [{"value": value, "cells": cells} for value, cells in column["top"]]
        return described

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield table rows: column, value, cells, share of all cells; the column's name stands once."""
        for column in self.columns:
            yield from self._column_rows(column)

    def _column_rows(self, column: ColumnCounts) -> Iterator[tuple[str, str, str, str]]:
        name = column.name
        if column.minimum is not None:
            text = f"{column.minimum:,.6g} to {column.maximum:,.6g}, mean {column.mean:,.6g}"
            yield name, text, f"{self.cells - column.missing:,}", self._share(self.cells - column.missing)
            name = ""
        for value, cells in column.top:
            yield name, value, f"{cells:,}", self._share(cells)
            name = ""
        others = (column.distinct or 0) - len(column.top)
        if column.distinct is None and column.minimum is None and not column.top:
            yield name, f"more than {_MOST_COUNTED:,} values", f"{self.cells - column.missing:,}", ""
        elif others > 0:
            rest = self.cells - column.missing - sum(cells for _, cells in column.top)
            yield name, f"{others:,} more", f"{rest:,}", self._share(rest)
        if column.missing:
            yield "" if column.top or not name else name, MISSING, f"{column.missing:,}", self._share(column.missing)

    def _share(self, cells: int) -> str:
        return f"{cells / self.cells:.1%}" if self.cells else ""


def describe(path: Path, columns: Sequence[str] | None = None, *, top: int = 10) -> IndexDescription:
    """Count the cells of an index by the values of its columns, in one streamed pass.

    Parameters
    ----------
    path
        The index.
    columns
        Which columns; all but the coordinates by default.
    top
        Values listed for each column.

    Raises
    ------
    ConfigError
        ``no-index``, ``bad-index``, ``unknown-column``.
    """
    file = IndexFile(path)
    names = list(columns) if columns else [name for name in file.schema.names if name not in ("soma_joinid", "row")]
    tallies: dict[str, _Tally] | None = None
    cells = 0
    for batch in file.batches(names):
        tallies = tallies or {name: _tally(batch.schema.field(name)) for name in names}
        cells += batch.num_rows
        for name, tally in tallies.items():
            tally.add(batch.column(name))
    if tallies is None:
        tallies = {name: _tally(file.schema.field(name)) for name in names}
    columns_found = tuple(t.result(top) for t in tallies.values())
    return IndexDescription(str(path), cells, path.stat().st_size, columns_found, file.origin)


def _tally(column: pa.Field) -> _Tally:
    numeric = not is_text(column.type) and not pa.types.is_boolean(column.type)
    return _Range(column) if numeric else _Values(column)


@dataclass(slots=True)
class _Values:
    """Counts the values of a column of text or booleans."""

    column: pa.Field
    counts: Counter[str] | None = field(default_factory=Counter)
    missing: int = 0

    def add(self, values: pa.Array) -> None:
        self.missing += values.null_count
        if self.counts is None:
            return
        for value, count in zip(*values.value_counts().flatten(), strict=True):
            if value.is_valid and value.as_py() is not None:
                self.counts[str(value.as_py())] += count.as_py()
        if len(self.counts) > _MOST_COUNTED:
            self.counts = None

    def result(self, top: int) -> ColumnCounts:
        name, kind = self.column.name, str(self.column.type)
        if self.counts is None:
            return ColumnCounts(name, kind, self.missing)
        commonest = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
        return ColumnCounts(name, kind, self.missing, len(self.counts), tuple(commonest))


@dataclass(slots=True)
class _Range:
    """Follows minimum, maximum and mean of a column of numbers; NaN counts as missing."""

    column: pa.Field
    missing: int = 0
    count: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: pa.Array) -> None:
        numbers = values.drop_null().cast(pa.float64(), safe=False)
        numbers = numbers.filter(pc.invert(pc.is_nan(numbers)))
        self.missing += len(values) - len(numbers)
        if len(numbers):
            self.count += len(numbers)
            self.total += pc.sum(numbers).as_py()
            self.low = min(self.low, pc.min(numbers).as_py())
            self.high = max(self.high, pc.max(numbers).as_py())

    def result(self, top: int) -> ColumnCounts:  # noqa: ARG002  # the same call as that of _Values
        name, kind = self.column.name, str(self.column.type)
        if not self.count:
            return ColumnCounts(name, kind, self.missing)
        return ColumnCounts(name, kind, self.missing, None, (), self.low, self.high, self.total / self.count)


_Tally = _Values | _Range
