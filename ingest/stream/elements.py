"""Tables and other elements of an examined h5ad file, in memory.

anndata's public element reader reads whatever it knows; what it would not refuse is looked at before or after: lengths
of columns, the structure of matrices, column numbers of sparse ones (scipy reads foreign memory by those). Tables of
files whose encoding it does not know, and parts of tables, are read here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa

from ingest.errors import AbsentError
from ingest.fetch.h5ad_frame import check_frame
from ingest.fetch.h5ad_matrix import describe_matrix, describe_pairs
from ingest.fetch.h5ad_table import open_table
from ingest.fetch.h5ad_texts import read_whole
from ingest.stream.columns import is_ordered, no_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.fetch.h5ad_table import Column, Table

__all__ = [
    "categories_beside",
    "is_compound",
    "labels_beside",
    "read_element",
    "read_matrix",
    "read_rows",
    "read_table",
    "table_columns",
]

_AXIS_ARRAYS = ("obsm", "varm", "raw.varm")
"""What anndata 0.6 wrote as one compound dataset, and is a dict."""
_BOOLEANS = {"nullable-boolean": "boolean"}


def read_table(opened: OpenH5ad, path: str) -> pd.DataFrame:
    """Return the table at `path` whole, ``(n_rows, n_columns)``, in every encoding anndata has had.

    Raises
    ------
    AbsentError
        A KeyError: there is none.
    HostileFileError
        It is damaged.
    """
    table = _table(opened, path)
    node = opened.get(path)
    if isinstance(node, h5py.Group) and opened.attribute(node, "encoding-type") == "dataframe":
        frame: pd.DataFrame = read_whole(opened, path, lambda: check_frame(anndata.io.read_elem(node)))
        return frame if len(frame.columns) else frame.set_axis(pd.Index([], dtype=object), axis=1)
    return read_rows(opened, path, 0, table.n_rows)


def read_rows(opened: OpenH5ad, path: str, start: int, stop: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows ``[start, stop)`` of a table, all its columns or those named; nothing else is read.

    Raises
    ------
    AbsentError, NoColumnError
        A KeyError: no such table or column.
    HostileFileError
        It is damaged.
    """
    table = _table(opened, path)
    stop = max(start, min(stop, table.n_rows))
    names = list(table.columns) if columns is None else list(columns)
    for name in names:
        if name not in table.columns:
            raise no_column(opened.name, path, name, list(table.columns))
    index = table.index.read(start, stop)
    found = {}
    for name in names:
        with opened.reading(f"{path}/{name}"):  # pandas has rules of its own: categories that repeat, or are none
            found[name] = _values(opened, path, name, table.columns[name], start, stop)
    label = pd.Index(_decoded(index).to_pandas(), name=_index_name(opened, path))
    return pd.DataFrame(found, index=label, columns=pd.Index(names, dtype=object))


def table_columns(opened: OpenH5ad, path: str) -> list[str]:
    """Return the names of a table's columns, in order.

    Raises
    ------
    AbsentError, HostileFileError
        As of `read_table`.
    """
    return list(_table(opened, path).columns)


def is_compound(opened: OpenH5ad, path: str) -> bool:
    """Tell whether an element is one compound dataset, as anndata 0.6 wrote tables and obsm."""
    node = opened.get(path)
    return isinstance(node, h5py.Dataset) and bool(node.dtype.names)


def labels_beside(opened: OpenH5ad, path: str) -> list[str]:
    """Return the entries of uns that hold the categories of a compound table's columns."""
    if not is_compound(opened, path):
        return []
    columns = _table(opened, path).columns.items()
    return [f"{name}_categories" for name, column in columns if pa.types.is_dictionary(column.type)]


def categories_beside(opened: OpenH5ad) -> set[str]:
    """Return the entries of uns that belong to obs or var, as anndata 0.6 had them."""
    return {*labels_beside(opened, "obs"), *labels_beside(opened, "var")}


def read_element(opened: OpenH5ad, path: str) -> Any:
    """Return the element at `path`: an array, a sparse matrix, a table, a scalar, or a dict of such.

    Raises
    ------
    AbsentError
        A KeyError: there is none.
    HostileFileError
        It cannot be decoded, or is a sparse matrix whose numbers point outside of it.
    """
    node = opened.get(path)
    if node is None:
        raise _absent(opened, path)
    value = read_whole(opened, path, lambda: anndata.io.read_elem(node))
    if isinstance(value, np.ndarray) and value.dtype.names and path in _AXIS_ARRAYS:
        value = {name: value[name] for name in value.dtype.names}
    _check_sparse(opened, path, value)
    return value


def read_matrix(opened: OpenH5ad, path: str) -> Any:
    """Return the matrix at `path` (``X``, ``raw/X``, ``layers/…``, ``obsp/…``), its structure examined first.

    Raises
    ------
    HostileFileError, NotCountsError
        Its structure breaks a rule of `ingest.fetch.h5ad_matrix`, or its numbers point outside of it.
    """
    node = opened.get(path)
    if path.startswith("obsp/"):
        describe_pairs(opened, path)
    elif not isinstance(node, h5py.Dataset) or node.dtype.kind in "biuf":
        describe_matrix(opened, path)
    return read_element(opened, path)


def _check_sparse(opened: OpenH5ad, path: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _check_sparse(opened, f"{path}/{name}", part)
    elif hasattr(value, "check_format"):
        try:
            value.check_format(full_check=True)
        except ValueError as error:
            raise opened.error(path, f"is no sound sparse matrix ({error})", "index-range") from error


def _table(opened: OpenH5ad, path: str) -> Table:
    if opened.get(path) is None:
        raise _absent(opened, path)
    return open_table(opened, path)


def _values(opened: OpenH5ad, path: str, name: str, column: Column, start: int, stop: int) -> Any:
    values = column.read(start, stop)
    if pa.types.is_dictionary(column.type):
        found = values.to_pandas()
        return pd.Categorical(found, ordered=is_ordered(opened, path, name))
    node = opened.get(f"{path}/{name}")
    if isinstance(node, h5py.Group):  # nullable: whole numbers stay whole
        kind = "string" if pa.types.is_string(values.type) else _BOOLEANS.get(opened.attribute(node, "encoding-type"))
        return pd.array(values.to_pylist(), dtype=kind or str(column.type).capitalize().replace("Uint", "UInt"))
    return values.to_pandas().to_numpy()


def _index_name(opened: OpenH5ad, path: str) -> str | None:
    node = opened.get(path)
    if isinstance(node, h5py.Dataset):
        names = node.dtype.names
        return next((name for name in ("index", "_index") if name in names), names[0])
    declared = opened.attribute(node, "_index")
    return declared if isinstance(declared, str) and declared != "_index" else None


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _absent(opened: OpenH5ad, path: str) -> AbsentError:
    return AbsentError(f"{opened.name}: it holds no {path}", source=str(opened.source))
