"""obs of all cells without a look at X: ``metadata/cells.feather``, mapped into memory and never copied whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import ConfigError, CorruptError
from ingest.grammar import parse_filter, unknown_column
from ingest.layout import CELLS_KEY
from ingest.load.arrow import map_table, numbers_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Column", "Obs"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_MISSING = -1


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One obs column of some cells."""

    values: np.ndarray[Any, Any]
    """``(n_cells,)``: int32 codes into `categories`, -1 where there is none; else the numbers themselves."""
    categories: tuple[str, ...] | None
    """None: a column of numbers."""


class Obs:
    """The cells of one or several datasets, one after the other, with the columns that all of them have.

    Parameters
    ----------
    paths
        Local copies of each dataset's ``metadata/cells.feather``.
    names
        URLs of the datasets, for messages.

    Raises
    ------
    CorruptError
        A table is damaged.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str]) -> None:
        self._names = tuple(names)
        tables = [_mapped(path, name) for path, name in zip(paths, names, strict=True)]
        for table, name in zip(tables, names, strict=True):
            _check_types(table.schema, name)
        self.columns: tuple[str, ...] = tuple(column for column in tables[0].column_names if _is_alike(column, tables))
        self._tables = tables
        self._batches = [batch for table in tables for batch in table.select(self.columns).to_batches()]
        self._starts = np.concatenate([[0], np.cumsum([len(batch) for batch in self._batches], dtype=np.int64)])
        self._texts: dict[str, tuple[tuple[str, ...], list[np.ndarray[Any, Any]]]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    @cached_property
    def n_cells(self) -> tuple[int, ...]:
        """Cells of each dataset."""
        return tuple(len(table) for table in self._tables)

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Return the distinct texts of a column, sorted; None of a column of numbers.

        Raises
        ------
        ConfigError
            There is no such column.
        """
        self._check(column)
        return self._recoded(column)[0] if self._is_text(column) else None

    def take(self, column: str, rows: Int64) -> Column:
        """Return a column of some cells, in the order asked for.

        Parameters
        ----------
        rows
            int64 ``(n_cells,)``: global cell numbers.

        Raises
        ------
        ConfigError
            There is no such column.
        """
        self._check(column)
        place = self.columns.index(column)
        text = self._is_text(column)
        categories, recode = self._recoded(column) if text else (None, [])
        found: np.ndarray[Any, Any] | None = None
        for number, mine in self._by_batch(rows):
            local = rows[mine] - self._starts[number]
            values = self._numbers(self._batches[number].column(place), local)
            if text:
                values = self._renumbered(recode[number], values)
            if found is None:
                found = np.empty(len(rows), values.dtype)
            elif found.dtype != values.dtype:
                found = found.astype(np.result_type(found.dtype, values.dtype))
            found[mine] = values
        if found is None:
            found = np.empty(0, np.int32 if text else np.float64)
        return Column(found, categories)

    def having(self, column: str, texts: Sequence[str]) -> Int64:
        """Return the cells whose `column` is one of `texts`, int64, ascending.

        Raises
        ------
        ConfigError
            There is no such column of texts.
        """
        categories = self.categories(column)
        if categories is None:
            raise ConfigError(f"{column} is a column of numbers", kind="bad-column")
        wanted = np.array([category in set(texts) for category in (*categories, None)])
        place = self.columns.index(column)
        found = [np.empty(0, np.int64)]
        for number, start in enumerate(self._starts[:-1].tolist()):
            local = np.arange(len(self._batches[number]))
            codes = self._numbers(self._batches[number].column(place), local)
            codes = self._renumbered(self._recoded(column)[1][number], codes)
            found.append(start + np.flatnonzero(wanted[codes]))
        return np.concatenate(found)

    def where(self, text: str) -> Int64:
        """Return the cells that match a filter of the index grammar, int64, ascending.

        Raises
        ------
        ConfigError
            The filter is none, or names a column that is not there.
        """
        wanted = parse_filter(text)
        for column in wanted.columns:
            self._check(column)
        found = [np.empty(0, np.int64)]
        for start, batch in zip(self._starts.tolist(), self._batches, strict=False):
            mask = wanted.mask(batch.select(list(wanted.columns)))
            found.append(start + np.flatnonzero(mask.to_numpy(zero_copy_only=False)))
        return np.concatenate(found)

    def table(self, rows: Int64 | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Return obs of some cells, or of all, in the order asked for."""
        names = list(self.columns if columns is None else columns)
        for name in names:
            self._check(name)
        if rows is None:
            return pa.Table.from_batches([batch.select(names) for batch in self._batches])
        return pa.table({name: _arrow(self.take(name, rows)) for name in names}) if names else _no_columns(len(rows))

    def _by_batch(self, rows: Int64) -> Iterator[tuple[int, Any]]:
        """Yield each batch that has some of `rows`, with where among them these are."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        order = None if (np.diff(owner) >= 0).all() else np.argsort(owner, kind="stable")
        if order is not None:
            owner = owner[order]
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        for low, high in itertools.pairwise(cuts):
            if high > low:
                yield int(owner[low]), slice(low, high) if order is None else order[low:high]

    def _check(self, column: str) -> None:
        if column not in self.columns:
            raise unknown_column(column, self.columns, self._names[0] + (" and others" if self._names[1:] else ""))

    def _is_text(self, column: str) -> bool:
        return _is_text(self._tables[0].schema.field(column).type)

    def _recoded(self, column: str) -> tuple[tuple[str, ...], list[np.ndarray[Any, Any]]]:
        """Return the categories of all, and for each batch the place there of each of its own, the last -1 a null's."""
        found = self._texts.get(column)
        if found is None:
            place = self.columns.index(column)
            own = [_dictionary(batch.column(place)) for batch in self._batches]
            distinct = {id(values): values for values in own}
            texts = {key: values.to_pylist() for key, values in distinct.items()}
            categories = tuple(sorted({text for values in texts.values() for text in values if text is not None}))
            number = {text: at for at, text in enumerate(categories)}
            maps = {
                key: np.array([*(number.get(text, _MISSING) for text in values), _MISSING], np.int32)
                for key, values in texts.items()
            }
            found = self._texts[column] = categories, [maps[id(values)] for values in own]
        return found

    def _renumbered(self, recode: np.ndarray[Any, Any], codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the codes of all for those of one batch, which has one more place for what has none."""
        if len(codes) and not (codes.min() >= _MISSING and codes.max() < len(recode) - 1):
            raise CorruptError(
                f"{CELLS_KEY} of {', '.join(self._names)} is damaged: a code beyond its texts",
                kind="bad-summary",
                hint=f"`python -m ingest run {self._names[0]}` writes it again",
                key=CELLS_KEY,
            )
        found: np.ndarray[Any, Any] = recode[codes]
        return found

    @staticmethod
    def _numbers(array: pa.Array, local: Int64) -> np.ndarray[Any, Any]:
        if pa.types.is_dictionary(array.type):
            indices = array.indices
        elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            indices = array.dictionary_encode().indices
        elif array.null_count:
            return numbers_of(array.take(pa.array(local)))
        else:
            indices = array
        if indices.null_count:
            return numbers_of(indices.take(pa.array(local)).fill_null(_MISSING))
        found: np.ndarray[Any, Any] = numbers_of(indices)[local]
        return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_alike(column: str, tables: Sequence[pa.Table]) -> bool:
    """Return whether all tables have the column, as texts or as numbers."""
    kinds = {_is_text(table.schema.field(column).type) if column in table.column_names else None for table in tables}
    return len(kinds) == 1 and None not in kinds


def _dictionary(array: pa.Array) -> pa.Array:
    return array.dictionary if pa.types.is_dictionary(array.type) else array.dictionary_encode().dictionary


def _arrow(column: Column) -> pa.Array:
    if column.categories is None:
        return pa.array(column.values)
    codes = pa.array(column.values, pa.int32(), mask=column.values < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(column.categories, pa.string()))


def _no_columns(n: int) -> pa.Table:
    return pa.table({"": pa.nulls(n)}).select([])


def _check_types(schema: pa.Schema, name: str) -> None:
    """Refuse columns that no dataset has: neither texts nor numbers, or of one name."""
    for field in schema:
        kind = field.type
        texts = kind.value_type if pa.types.is_dictionary(kind) else kind
        plain = pa.types.is_string(texts) or pa.types.is_large_string(texts)
        if not (plain or (texts is kind and pa.types.is_primitive(kind))) or schema.names.count(field.name) > 1:
            raise CorruptError(
                f"{name}/{CELLS_KEY} is damaged (column {field.name!r} of type {kind})",
                kind="bad-summary",
                hint=f"`python -m ingest run {name}` writes it again",
                key=CELLS_KEY,
            )


def _mapped(path: Path, name: str) -> pa.Table:
    try:
        return map_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(
            f"{name}/{CELLS_KEY} is damaged ({error})",
            kind="bad-summary",
            hint=f"`python -m ingest run {name}` writes it again",
            key=CELLS_KEY,
        ) from error
