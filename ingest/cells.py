"""The cells of one run: an index read from anywhere, checked, and put into the order of the sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from ingest.errors import ConfigError, EmptySelectionError, IngestError
from ingest.profile import known_nnz
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["COORDINATES", "Cells", "cells_of_table", "read_cells"]

COORDINATES = ("source", "soma_joinid", "row")
"""The columns that say where a cell lies; all others annotate it."""

_NO_NAMES = ("", ".", "..", "_index")  # HDF5 and anndata keep them for themselves

_Int64 = np.ndarray[Any, np.dtype[np.int64]]
_Int32 = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells in plan order: by source, in the order in which sources first appear, then by coordinate."""

    table: pa.Table
    """``source`` (dictionary), ``soma_joinid``, ``row`` (int64, -1 where it does not apply), then obs columns."""
    sources: tuple[Source, ...]
    """Distinct sources, in plan order."""
    codes: _Int32
    """int32 ``(n_cells,)``: which of `sources`."""
    coordinates: _Int64
    """int64 ``(n_cells,)``: joinid or row within the source."""

    def __len__(self) -> int:
        return len(self.codes)

    def with_sources(self, sources: tuple[Source, ...]) -> Cells:
        """Return the same cells with their sources pinned to surveyed versions (same number and order)."""
        names = pa.array([str(source) for source in sources], pa.string())
        column = pa.DictionaryArray.from_arrays(pa.array(self.codes), names)
        return Cells(self.table.set_column(0, "source", column), sources, self.codes, self.coordinates)

    def with_column(self, name: str, values: np.ndarray[Any, Any]) -> Cells:
        """Return the same cells with one more obs column, or with other values in the one of that name."""
        at = self.table.schema.get_field_index(name)
        column = pa.array(values)
        table = self.table.append_column(name, column) if at < 0 else self.table.set_column(at, name, column)
        return Cells(table, self.sources, self.codes, self.coordinates)

    def nnz(self) -> _Int64 | None:
        """Return the non-zeros of every cell, where the index knows them for all."""
        known = known_nnz(self.table)
        return None if known is None or (known < 0).any() else known


def read_cells(path: Path, *, limit: int | None = None, default_source: Source | None = None) -> Cells:
    """Read an index made by ``index`` or by hand.

    Parameters
    ----------
    path
        Feather (Arrow IPC) file.
    limit
        Take the first so many rows of the file.
    default_source
        The source of all cells where the file has no ``source`` column.

    Raises
    ------
    ConfigError
        Not an index, coordinates missing or not whole, cells that stand twice.
    EmptySelectionError
        No rows.
    """
    table = _open(path)
    if limit is not None:
        table = table.slice(0, limit)
    if len(table) == 0:
        why = f"-n {limit} takes none of its cells" if limit is not None and limit <= 0 else "the index has no cells"
        raise EmptySelectionError(f"{path}: {why}", hint="`index show` counts the cells of an index")
    try:
        return _in_source_order(_normalise(table, path, default_source), path)
    except pa.ArrowException as error:  # a time zone of Mars, more than 2 GiB of different texts in one column
        message = f"{path}: a column cannot be turned into one of obs ({error})"
        hint = "drop the column, or turn it into numbers or fewer different texts"
        raise ConfigError(message, kind="bad-index", hint=hint) from error


def _open(path: Path) -> pa.Table:
    try:
        table = feather.read_table(path, memory_map=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such index", kind="no-index", hint="make one with `index census` or `index h5ad`"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a feather file ({error})", kind="bad-index") from error
    _check_columns(table, path)
    leftovers = [name for name in table.column_names if name.startswith("__index_level_")]
    return table.drop_columns(leftovers)


def _check_columns(table: pa.Table, path: Path) -> None:
    """Refuse what could not be written as obs later, and codes that point outside their dictionary."""
    for at, name in enumerate(table.column_names):
        if name in table.column_names[:at]:
            raise ConfigError(f"{path}: column {name!r} stands twice", kind="bad-index", hint="rename one of them")
        if name in _NO_NAMES or "/" in name or "\0" in name:
            raise ConfigError(
                f"{path}: a column cannot be called {name!r} in an h5ad file", kind="bad-index", hint="rename it"
            )
    try:
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged ({error})", kind="bad-index") from error


def _normalise(table: pa.Table, path: Path, default_source: Source | None) -> pa.Table:
    columns: dict[str, pa.ChunkedArray] = {"source": _source_column(table, path, default_source)}
    for name in ("soma_joinid", "row"):
        columns[name] = _coordinate_column(table, name, path)
    for name in table.column_names:
        if name not in columns:
            columns[name] = _obs_column(table[name], name, path)
    return pa.table(columns)


def _source_column(table: pa.Table, path: Path, default_source: Source | None) -> pa.ChunkedArray:
    if "source" in table.column_names:
        column = _as_dictionary(table["source"], "source", path)
        if column.null_count:
            raise ConfigError(f"{path}: {column.null_count:,} cells have no source", kind="bad-index")
        return column
    if default_source is None:
        raise ConfigError(
            f"{path}: no column 'source' says where the cells lie",
            kind="bad-index",
            hint="say it with --census-version DATE or --uri URI",
        )
    codes = pa.array(np.zeros(len(table), np.int32))
    return pa.chunked_array([pa.DictionaryArray.from_arrays(codes, pa.array([str(default_source)]))])


def _coordinate_column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.array(np.full(len(table), -1, np.int64))])
    column = table[name]
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        # pandas turns integers with gaps into floats: whole ones are taken, a fraction is refused by the safe cast.
        return pc.fill_null(column.cast(pa.int64(), safe=True), -1)
    except pa.ArrowException as error:
        message = f"{path}: column {name!r} ({column.type}) holds no whole numbers"
        raise ConfigError(message, kind="bad-index") from error


def _as_dictionary(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    column = column.cast(pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    values = column.chunk(0).dictionary
    if values.null_count or len(values.unique()) < len(values):
        # Arrow allows missing and repeated values in a dictionary, categoricals do not.
        column = column.cast(pa.string()).dictionary_encode()
    if pc.any(pc.match_substring(column.chunk(0).dictionary, "\0")).as_py():
        raise ConfigError(f"{path}: column {name!r} holds a NUL character, which HDF5 cannot", kind="bad-index")
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _obs_column(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        if _is_text(kind.value_type):
            return _as_dictionary(column, name, path)
        return _obs_column(column.cast(kind.value_type), name, path)
    if _is_text(kind) or pa.types.is_null(kind) or (pa.types.is_boolean(kind) and column.null_count):
        return _as_dictionary(column.cast(pa.string()), name, path)
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and not column.null_count):
        return column
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _with_nan(column, name, path)
    if pa.types.is_temporal(kind):
        return _as_dictionary(column.cast(pa.string()), name, path)
    raise ConfigError(
        f"{path}: column {name!r} of type {kind} cannot stand in obs",
        kind="bad-index",
        hint="drop it, or turn it into numbers or strings",
    )


def _with_nan(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """Put NaN for what is missing: HDF5 has no missing integer, and pandas and anndata make the same of one."""
    try:
        floats = column if pa.types.is_floating(column.type) else column.cast(pa.float64(), safe=True)
    except pa.ArrowException as error:
        raise ConfigError(
            f"{path}: column {name!r} has missing values beside whole numbers beyond 2**53, which no float holds",
            kind="bad-index",
            hint="drop it, or turn it into strings",
        ) from error
    return pc.fill_null(floats, float("nan"))


def _in_source_order(table: pa.Table, path: Path) -> Cells:
    table = table.combine_chunks()
    source = table["source"].chunk(0) if table["source"].num_chunks else table["source"].combine_chunks()
    raw_codes = source.indices.to_numpy()
    _, first_rows = np.unique(raw_codes, return_index=True)
    present = raw_codes[np.sort(first_rows)]
    parsed = [_parse_source(source.dictionary[int(code)].as_py(), path) for code in present]
    # One source may be spelled in two ways; cells that stand twice would pass unseen as cells of two.
    number: dict[Source, int] = {}
    recode = np.full(len(source.dictionary), -1, np.int32)
    recode[present] = [number.setdefault(one, len(number)) for one in parsed]
    sources = tuple(number)
    codes = recode[raw_codes]
    coordinates = _coordinates(table, sources, codes, path)
    order = _source_order(codes, coordinates)
    if order is not None:
        table, codes, coordinates = table.take(pa.array(order)), codes[order], coordinates[order]
    _refuse_doubles(sources, codes, coordinates, path)
    return Cells(table, sources, codes, coordinates).with_sources(sources)


def _parse_source(text: str, path: Path) -> Source:
    try:
        return Source.parse(text)
    except IngestError as error:
        raise ConfigError(f"{path}: {error}", kind=error.kind, hint=error.hint) from error


def _coordinates(table: pa.Table, sources: tuple[Source, ...], codes: _Int32, path: Path) -> _Int64:
    is_h5ad = np.array([source.kind == "h5ad" for source in sources])[codes]
    values: _Int64 = np.where(is_h5ad, table["row"].to_numpy(), table["soma_joinid"].to_numpy())
    if (values < 0).any():
        at = int(np.flatnonzero(values < 0)[0])
        name = "row" if is_h5ad[at] else "soma_joinid"
        has = f"no {name}" if values[at] == -1 else f"{name} {values[at]}"
        raise ConfigError(f"{path}: row {at:,} of the index has {has} in {sources[codes[at]]}", kind="bad-index")
    return values


def _source_order(codes: _Int32, coordinates: _Int64) -> _Int64 | None:
    """Return the permutation into source order, or None when the cells are in it already."""
    same = codes[1:] == codes[:-1]
    if bool(np.all(np.where(same, coordinates[1:] >= coordinates[:-1], codes[1:] > codes[:-1]))):
        return None
    return np.lexsort((coordinates, codes))


def _refuse_doubles(sources: tuple[Source, ...], codes: _Int32, coordinates: _Int64, path: Path) -> None:
    double = (codes[1:] == codes[:-1]) & (coordinates[1:] == coordinates[:-1])
    if not double.any():
        return
    at = int(np.flatnonzero(double)[0])
    raise ConfigError(
        f"{path}: {int(double.sum()):,} cells stand twice, the first is {coordinates[at]} of {sources[codes[at]]}",
        kind="duplicate-cells",
        hint="df.drop_duplicates(['source', 'soma_joinid', 'row']) in pandas leaves each cell once",
    )


def cells_of_table(table: pa.Table, sources: Sequence[str]) -> Cells:
    """Return cells that are in plan order already, as `Cells.table` of a committed plan has them."""
    parsed = tuple(Source.parse(text) for text in sources)
    number = {text: at for at, text in enumerate(sources)}
    column = table["source"].combine_chunks()
    recode = np.array([number[text] for text in column.dictionary.to_pylist()], np.int32)
    codes = recode[column.indices.to_numpy()]
    is_h5ad = np.array([source.kind == "h5ad" for source in parsed])[codes]
    coordinates = np.where(is_h5ad, table["row"].to_numpy(), table["soma_joinid"].to_numpy())
    return Cells(table, parsed, codes, coordinates)
