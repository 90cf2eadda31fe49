"""Columns of obs and var by ranges of rows, in every encoding anndata has had.

Current and 0.7 files have a group with a dataset or a group for each column; 0.6 has one compound dataset whose
categories lie in ``uns/<column>_categories`` (anndata's "on-disk format"). A column that fits no Arrow type (two
dimensions, complex numbers, references) is not offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.fetch.h5ad_texts import MOST_LABEL_BYTES, read_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["Column", "Table", "open_table", "table_members"]

_MOST_LABELS = 1 << 24
_LABEL_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column: its Arrow type and how to read rows ``[start, stop)`` of it."""

    type: pa.DataType
    read: Callable[[int, int], pa.Array]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """obs or var of one file; columns in the file's order, the index apart."""

    path: str
    n_rows: int
    index: Column
    columns: dict[str, Column]


def open_table(opened: OpenH5ad, path: str) -> Table:
    """Return the table at `path` (``obs``, ``var``, ``raw/var``, ``raw.var``); no rows are read yet.

    Raises
    ------
    HostileFileError
        No such table, or its columns differ in length (kind ``shape``).
    """
    if path not in opened.tables:
        node = opened.get(path)
        if node is None:
            raise opened.error(path, "is missing", "not-h5ad")
        with opened.reading(path):
            opened.tables[path] = (_from_group if isinstance(node, h5py.Group) else _from_compound)(opened, path, node)
    table: Table = opened.tables[path]
    return table


def table_members(opened: OpenH5ad, path: str) -> list[str]:
    """Return what the table in the group at `path` consists of: its index, then its columns, of whatever type.

    Raises
    ------
    HostileFileError
        It has no index.
    """
    group = opened.get(path)
    index_name = _index_name(opened, group, path)
    return list(dict.fromkeys([index_name, *_column_order(opened, path, group, index_name)]))


def _from_group(opened: OpenH5ad, path: str, group: h5py.Group) -> Table:
    index_name = _index_name(opened, group, path)
    n_rows = _length(opened, f"{path}/{index_name}")
    index = _column(opened, f"{path}/{index_name}", n_rows)
    if index is None:
        raise opened.error(f"{path}/{index_name}", "is no index of names", "not-h5ad")
    columns = {}
    for name in _column_order(opened, path, group, index_name):
        column = _column(opened, f"{path}/{name}", n_rows, labels=f"{path}/__categories/{name}")
        if column is not None:
            columns[name] = column
    return Table(path, n_rows, index, columns)


def _index_name(opened: OpenH5ad, group: h5py.Group, path: str) -> str:
    declared = opened.attribute(group, "_index")
    for name in (declared, "_index", "index"):
        if isinstance(name, str) and name in group:
            return name
    raise opened.error(path, "has no index", "not-h5ad")


def _column_order(opened: OpenH5ad, path: str, group: h5py.Group, index_name: str) -> list[str]:
    """Return the columns; what is listed may be the index as well, or lie deeper: its name had a ``/`` once."""
    order = opened.attribute(group, "column-order")
    if order is None:
        with opened.reading(group.name):
            return [name for name in group if name not in (index_name, "__categories")]
    # Without columns anndata writes an empty array of floats.
    with opened.reading(f"{group.name.lstrip('/')}@column-order"):
        names = [name.decode() if isinstance(name, bytes) else name for name in np.ravel(order).tolist()]
    listed = [name for name in dict.fromkeys(names) if isinstance(name, str) and name.strip("./")]
    return [name for name in listed if name != "__categories" and opened.get(f"{path}/{name}") is not None]


def _length(opened: OpenH5ad, path: str) -> int:
    node = opened.get(path)
    if isinstance(node, h5py.Group):
        part = next((name for name in ("codes", "values") if name in node), None)
        node = opened.get(f"{path}/{part}") if part else None
    if not isinstance(node, h5py.Dataset) or node.ndim != 1:
        raise opened.error(path, "is no column", "not-h5ad")
    return int(node.shape[0])


def _column(opened: OpenH5ad, path: str, n_rows: int, *, labels: str = "") -> Column | None:
    node = opened.get(path)
    if isinstance(node, h5py.Group):
        if "codes" in node and "categories" in node:
            return _categorical(opened, path, _plain(opened, f"{path}/codes", n_rows), f"{path}/categories")
        if "values" in node and "mask" in node:
            return _nullable(_plain(opened, f"{path}/values", n_rows), _plain(opened, f"{path}/mask", n_rows))
        return None
    if isinstance(node, h5py.Dataset) and "categories" in node.attrs:  # anndata 0.7
        parent, _, name = path.rpartition("/")
        place = labels or f"{parent}/__categories/{name}"
        return _categorical(opened, path, _plain(opened, path, n_rows), place)
    return _plain(opened, path, n_rows)


def _plain(opened: OpenH5ad, path: str, n_rows: int) -> Column | None:
    dataset = opened.dataset(path)
    kind = _arrow_type(dataset.dtype)
    if kind is None or dataset.ndim != 1:
        return None
    if dataset.shape[0] != n_rows:
        raise opened.error(path, f"has {dataset.shape[0]:,} rows where its table has {n_rows:,}", "shape")

    return Column(kind, _reader(opened, path, dataset, dataset.dtype, kind))


def _reader(opened: OpenH5ad, path: str, view: Any, dtype: np.dtype[Any], kind: pa.DataType) -> Any:
    """Return what reads rows of `view`, a dataset or a field of one, of type `dtype`."""
    if pa.types.is_string(kind):
        width = dtype.itemsize if dtype.kind == "S" else 0
        return lambda start, stop: read_texts(opened, path, view, width, start, stop)

    def read(start: int, stop: int) -> pa.Array:
        with opened.reading(path):
            return pa.array(np.ascontiguousarray(view[start:stop], kind.to_pandas_dtype()))

    return read


def _from_compound(opened: OpenH5ad, path: str, _: h5py.Dataset) -> Table:
    dataset = opened.dataset(path)
    names = dataset.dtype.names
    if not names or dataset.ndim != 1:
        raise opened.error(path, "is no table", "not-h5ad")
    index_name = next((name for name in ("index", "_index") if name in names), names[0])
    fields = {name: _field(opened, path, dataset, name) for name in names}
    index = fields.pop(index_name)
    if index is None:
        raise opened.error(path, f"its index {index_name!r} holds no names", "not-h5ad")
    return Table(path, int(dataset.shape[0]), index, {name: column for name, column in fields.items() if column})


def _field(opened: OpenH5ad, path: str, dataset: h5py.Dataset, name: str) -> Column | None:
    kind = _arrow_type(dataset.dtype[name])
    if kind is None:
        return None
    read = _reader(opened, f"{path}[{name}]", dataset.fields(name), dataset.dtype[name], kind)
    labels = f"uns/{name}_categories"
    plain = Column(kind, read)
    if pa.types.is_integer(kind) and isinstance(opened.get(labels), h5py.Dataset):
        return _categorical(opened, f"{path}[{name}]", plain, labels)
    return plain


def _categorical(opened: OpenH5ad, path: str, codes: Column | None, labels_path: str) -> Column:
    if codes is None or not pa.types.is_integer(codes.type):
        raise opened.error(path, "category codes are no integers", "code-dtype")
    n_labels = _length(opened, labels_path)
    if n_labels > _MOST_LABELS:
        raise opened.error(labels_path, f"{n_labels:,} categories", "decoded-size")
    labels = _column(opened, labels_path, n_labels)
    if labels is None or pa.types.is_dictionary(labels.type):
        raise opened.error(labels_path, "holds no labels", "not-h5ad")
    once: list[pa.Array] = []  # one dictionary for all batches, read when first wanted

    def read(start: int, stop: int) -> pa.Array:
        if not once:
            once.append(_read_all(opened, labels_path, labels, n_labels))
        numbers = codes.read(start, stop).to_numpy()
        if numbers.size and (numbers.min() < -1 or numbers.max() >= n_labels):
            wrong = int(numbers[(numbers < -1) | (numbers >= n_labels)][0])
            raise opened.error(path, f"category code {wrong} of {n_labels} categories", "code-range")
        return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32), mask=numbers < 0), once[0])

    return Column(pa.dictionary(pa.int32(), labels.type), read)


def _read_all(opened: OpenH5ad, path: str, column: Column, n_rows: int) -> pa.Array:
    parts: list[pa.Array] = []
    for at in range(0, n_rows, _LABEL_ROWS):
        parts.append(column.read(at, min(at + _LABEL_ROWS, n_rows)))
        if sum(part.nbytes for part in parts) > MOST_LABEL_BYTES:
            raise opened.error(path, f"categories of more than {MOST_LABEL_BYTES:,} bytes", "decoded-size")
    return pa.concat_arrays(parts) if parts else pa.array([], column.type)


def _nullable(values: Column | None, mask: Column | None) -> Column | None:
    if values is None or mask is None or not pa.types.is_boolean(mask.type):
        return None

    def read(start: int, stop: int) -> pa.Array:
        missing = mask.read(start, stop)
        return pc.if_else(missing, pa.scalar(None, values.type), values.read(start, stop))

    return Column(values.type, read)


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType | None:
    if h5py.check_string_dtype(dtype) is not None or dtype.kind == "S":
        return pa.string()
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.subdtype is not None:
        return None
    return pa.from_numpy_dtype(np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("="))
