"""Tables of a file, obs and var before all: checked, copied, or cut to some rows, column by column."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa

from ingest.encode.elements import DICT
from ingest.fetch.h5ad_frame import read_frame
from ingest.fetch.h5ad_table import open_table, table_members
from ingest.fetch.h5ad_texts import read_whole
from ingest.fetch.heap import give_freed_memory_back
from ingest.stream.matrix.put import copy_object

if TYPE_CHECKING:
    import pandas as pd

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["check_table", "put_frame", "put_table", "write_element"]

Array = np.ndarray[Any, Any]

_ROWS = 1 << 14
"""Read or written together: as Python's objects texts take 70 bytes each and more."""


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
    give_freed_memory_back()


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
        return put_frame(file, to, read_frame(source, path).iloc[wanted], drop_unused=drop_unused)
    if rows is None and not drop_unused:
        copy_object(source, path, file, to)
        return {}
    return _cut(source, file, path, wanted, drop_unused=drop_unused)


def put_frame(file: h5py.File, path: str, frame: pd.DataFrame, *, drop_unused: bool) -> dict[str, Array]:
    """Write a table that is in memory; result as of `put_table`."""
    kept: dict[str, Array] = {}
    written = frame.copy()
    for name in frame.columns if drop_unused else ():
        kept |= _without_unused(written, name)
    write_element(file, path, written)
    return kept


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
    group = file.create_group(path)
    kept: dict[str, Array] = {}
    with source.reading(path):
        group.attrs.update(source.file[path].attrs)
    for name in table_members(source, path):
        if "/" in name:  # in names of columns once allowed; HDF5 makes groups of it, which say nothing of themselves
            group.require_group(name.rpartition("/")[0])
        if _is_text(source, f"{path}/{name}"):
            _put_text(source, file, f"{path}/{name}", rows)
            continue
        place = f"{path}/{name}"
        column = {name: read_whole(source, place, partial(_rows_of, source.file, place, rows))}
        try:
            kept |= _without_unused(column, name) if drop_unused else {}
            write_element(file, f"{path}/{name}", column[name])
        except (TypeError, ValueError, AttributeError) as error:  # compound, ragged, references, text with NUL in it
            message = f"holds what no table of an h5ad has ({error})"
            raise source.error(f"{path}/{name}", message, "unreadable") from error
    return kept


def _is_text(source: OpenH5ad, path: str) -> bool:
    """Return whether a column is an array of texts of any length, as anndata has it; the rest is small."""
    node = source.get(path)
    if not isinstance(node, h5py.Dataset) or source.attribute(node, "encoding-type") != "string-array":
        return False
    kind = h5py.check_string_dtype(node.dtype)
    return kind is not None and kind.length is None and node.ndim == 1 and len(node) > 0


def _rows_of(file: h5py.File, path: str, rows: Any) -> Array:
    from anndata.io import read_elem

    found: Array = read_elem(file[path])[rows]
    return found


def _put_text(source: OpenH5ad, file: h5py.File, path: str, rows: Any) -> None:
    """Write the rows asked for; no more than some of them are Python's objects at a time."""
    if isinstance(rows, slice):
        copy_object(source, path, file)
        return
    stored = source.dataset(path)
    whole = _texts(source, stored, path)
    made = file.create_dataset(path, (len(rows),), h5py.string_dtype(), compression="gzip" if len(rows) else None)
    with source.reading(path):
        made.attrs.update(stored.attrs)
    for start in range(0, len(rows), _ROWS):
        some = whole.take(pa.array(rows[start : start + _ROWS]))
        made[start : start + len(some)] = some.to_numpy(zero_copy_only=False)
    del whole
    give_freed_memory_back()


def _texts(source: OpenH5ad, stored: h5py.Dataset, path: str) -> pa.Array:
    pieces = []
    for start in range(0, len(stored), _ROWS):
        with source.reading(path):
            texts = stored.asstr()[start : start + _ROWS]
            pieces.append(pa.array(texts, pa.large_string()))
    return pa.concat_arrays(pieces)


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
