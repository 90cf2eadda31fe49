"""Tables of a file, obs and var before all: checked, copied, or cut to some rows, column by column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.encode.elements import DICT
from ingest.fetch.h5ad_frame import read_frame
from ingest.fetch.h5ad_table import open_table
from ingest.stream.matrix.put import copy_object

if TYPE_CHECKING:
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["check_table", "put_table", "write_element"]

Array = np.ndarray[Any, Any]

_ROWS = 1 << 16


def check_table(source: OpenH5ad, path: str) -> None:
    """Read all columns of a table, in pieces: what is copied as it is stored is looked at by nobody else.

    Raises
    ------
    HostileFileError
        A column cannot be read, differs in length, holds text that is not UTF-8 or codes of no category.
    """
    table = open_table(source, path)
    for column in (table.index, *table.columns.values()):
        for start in range(0, table.n_rows, _ROWS):
            column.read(start, min(start + _ROWS, table.n_rows))


def put_table(
    source: OpenH5ad, file: h5py.File, path: str, rows: Array | None, *, drop_unused: bool, to: str | None = None
) -> dict[str, Array]:
    """Write some rows of a table, int64, in their order; None: all.

    Returns
    -------
    dict
        With `drop_unused`, of columns that have fewer categories now: which of the old ones, by column.
    """
    to = to or path
    node = source.get(path)
    if not _is_todays(node):
        frame = read_frame(source, path)
        write_element(file, to, frame if rows is None else frame.iloc[rows])
        return {}
    if rows is None:
        copy_object(source, path, file, to)
        return {}
    return _cut(source, file, path, rows, drop_unused=drop_unused)


def _is_todays(node: Any) -> bool:
    if not isinstance(node, h5py.Group):
        return False
    return node.attrs.get("encoding-type") == "dataframe" and node.attrs.get("encoding-version") == "0.2.0"


def _cut(source: OpenH5ad, file: h5py.File, path: str, rows: Array, *, drop_unused: bool) -> dict[str, Array]:
    from anndata.io import read_elem

    group, kept = file.create_group(path), {}
    with source.reading(path):
        group.attrs.update(source.file[path].attrs)
        names = list(source.file[path])
    for name in names:
        with source.reading(f"{path}/{name}"):
            values = read_elem(source.file[path][name])[rows]
        if drop_unused and hasattr(values, "remove_unused_categories"):
            used = np.unique(values.codes)
            used = used[used >= 0]
            if len(used) < len(values.categories):
                kept[name], values = used, values.remove_unused_categories()
        write_element(file, f"{path}/{name}", values)
    return kept


def write_element(file: h5py.File, path: str, value: Any) -> None:
    """Write or replace one element as anndata writes it, compressed."""
    import anndata
    from anndata.io import write_elem

    parent, _, name = path.rpartition("/")
    if parent and parent not in file:
        file.create_group(parent).attrs.update(DICT)
    # What was read as such may be written as such.
    with anndata.settings.override(allow_write_nullable_strings=True):
        write_elem(file[parent] if parent else file, name, value, dataset_kwargs={"compression": "gzip"})
