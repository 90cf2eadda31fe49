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
    wanted: Any = slice(None) if rows is None else rows
    if not _is_todays(source.get(path)):
        frame = read_frame(source, path).iloc[wanted].copy()
        kept: dict[str, Array] = {}
        for name in frame.columns:
            kept |= _without_unused(frame, name) if drop_unused else {}
        write_element(file, to, frame)
        return kept
    if rows is None and not drop_unused:
        copy_object(source, path, file, to)
        return {}
    return _cut(source, file, path, wanted, drop_unused=drop_unused)


def _without_unused(columns: Any, name: str) -> dict[str, Array]:
    """Drop categories of one column that no row has; return which of them are left, where some are not."""
    import pandas as pd

    values = pd.Series(columns[name]).array
    if not isinstance(values, pd.Categorical):
        return {}
    used = np.unique(np.asarray(values.codes))
    used = used[used >= 0]
    if len(used) == len(values.categories):
        return {}
    columns[name] = values.remove_unused_categories()
    return {name: used}


def _is_todays(node: Any) -> bool:
    if not isinstance(node, h5py.Group):
        return False
    return bool(node.attrs.get("encoding-type") == "dataframe" and node.attrs.get("encoding-version") == "0.2.0")


def _cut(source: OpenH5ad, file: h5py.File, path: str, rows: Any, *, drop_unused: bool) -> dict[str, Array]:
    from anndata.io import read_elem

    group = file.create_group(path)
    kept: dict[str, Array] = {}
    with source.reading(path):
        group.attrs.update(source.file[path].attrs)
        names = list(source.file[path])
    for name in names:
        with source.reading(f"{path}/{name}"):
            column = {name: read_elem(source.file[path][name])[rows]}
        kept |= _without_unused(column, name) if drop_unused else {}
        try:
            write_element(file, f"{path}/{name}", column[name])
        except (TypeError, ValueError, AttributeError) as error:  # compound, ragged, references, text with NUL in it
            message = f"holds what no table of an h5ad has ({error})"
            raise source.error(f"{path}/{name}", message, "unreadable") from error
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
