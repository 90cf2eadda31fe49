"""obs and var of a file: read without its matrices, replaced without touching them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pandas as pd

from ingest.errors import AbsentError, HostileFileError, UnfitError
from ingest.fetch.h5ad_table import open_table
from ingest.stream.editing import edited_h5ad, put
from ingest.stream.elements import (
    categories_beside,
    is_compound,
    labels_beside,
    read_element,
    read_rows,
    read_table,
    table_columns,
)
from ingest.stream.frames import fitting_frame
from ingest.stream.perturbation import SORTING, label_codes
from ingest.stream.storage import open_data, resolve_data_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["load_obs", "load_var", "write_obs", "write_var"]

TableName = Literal["obs", "var"]

_ALONG: dict[TableName, str] = {"obs": "obsm", "var": "varm"}


def load_obs(path: Any) -> pd.DataFrame:
    """Return obs, ``(n_cells, n_columns)``, of a local or remote file; of its matrices nothing is read.

    Categories stay categories with missing values among them; the encodings of anndata 0.6, 0.7 and later are known,
    and names that other programs wrote as bytes.

    Raises
    ------
    AbsentError
        A KeyError: it holds no such table.
    NoFileError
        A FileNotFoundError: there is no such file.
    HostileFileError
        It is damaged.
    ConfigError, CredentialsError, TransientError
        It cannot be reached.
    """
    return _load(path, "obs")


def load_var(path: Any) -> pd.DataFrame:
    """Return var, ``(n_genes, n_columns)``; all else is as of `load_obs`.

    Raises
    ------
    AbsentError, NoFileError, HostileFileError, ConfigError, CredentialsError, TransientError
        As of `load_obs`.
    """
    return _load(path, "var")


def write_obs(path: Any, df: pd.DataFrame) -> None:
    """Replace obs by `df`, ``(n_cells, n_columns)``, whose rows are the file's cells in its order.

    All else stays as it is, byte for byte; tables in obsm take the new names of the cells. Text in which values are
    missing becomes categories, as anndata writes it. What `sort_by_perturbation` noted of the cells' order is dropped
    when the labels change. A crash or a full disk leaves the file as it was.

    Raises
    ------
    UnfitError
        A ValueError: another number of rows, the names of the file in another order, or a column that no h5ad can hold.
    TypeError
        `df` is no DataFrame, or `path` names no file.
    NoFileError
        A FileNotFoundError: there is no such file.
    HostileFileError, SourceChangedError
        The file is damaged, or was changed by something else meanwhile.
    ConfigError, CredentialsError
        ``disk-full``, ``permission``, ``remote-file``.
    """
    _write(path, "obs", df)


def write_var(path: Any, df: pd.DataFrame) -> None:
    """Replace var by `df`, ``(n_genes, n_columns)``; all else is as of `write_obs`.

    Raises
    ------
    UnfitError, TypeError, NoFileError, HostileFileError, SourceChangedError, ConfigError, CredentialsError
        As of `write_obs`.
    """
    _write(path, "var", df)


def _load(path: Any, name: TableName) -> pd.DataFrame:
    try:
        opened = open_data(path)
    except HostileFileError as error:
        if error.kind == "not-h5ad":  # opening found obs or var missing
            raise AbsentError(str(error), source=error.source) from error
        raise
    with opened:
        return read_table(opened, name)


def _write(path: Any, name: TableName, df: pd.DataFrame) -> None:
    target = resolve_data_path(path)
    with open_data(target) as opened:
        n_rows = open_table(opened, name).n_rows
        if isinstance(df, pd.DataFrame) and len(df) != n_rows:
            what = f"{len(df):,} rows for {name} of {n_rows:,}"
            raise UnfitError(f"{target.name}: {what}", hint="the rows are those of the file, in its order")
        tables: dict[str, pd.DataFrame] = {name: fitting_frame(df, name)}
        _check_order(opened, name, tables[name].index)
        stale = [*_modernised(opened, name, tables), *_outdated(opened, name, tables[name])]
        tables.update(_renamed(opened, _ALONG[name], tables[name].index))
        version = opened.source.version
    with edited_h5ad(target, version) as file:
        for where, frame in tables.items():
            put(file, where, frame)
        for label in stale:
            del file[f"uns/{label}"]


def _check_order(opened: OpenH5ad, name: TableName, names: pd.Index[Any]) -> None:
    """Raise UnfitError where `names` are those of the file in another order: each row would be given to another."""
    old = read_rows(opened, name, 0, len(names), columns=()).index.astype(str)
    if names.equals(old) or not names.sort_values().equals(old.sort_values()):
        return
    row = int(np.argmax(names.to_numpy() != old.to_numpy()))
    raise UnfitError(
        f"{opened.name}: the rows are those of {name} in another order (row {row:,} is {names[row]!r}, not"
        f" {old[row]!r})",
        hint=f"put them in the file's with df.loc[load_{name}(path).index]",
    )


def _modernised(opened: OpenH5ad, name: TableName, tables: dict[str, pd.DataFrame]) -> Iterable[str]:
    """Add the other table where both are anndata 0.6's, and name the entries of uns that then mean nothing.

    anndata goes by obs when it decides how to read both; half of one age and half of another it reads wrongly.
    """
    other: TableName = "var" if name == "obs" else "obs"
    if is_compound(opened, other):
        tables[other] = fitting_frame(read_table(opened, other), other)
    return sorted(categories_beside(opened) - set(labels_beside(opened, "raw.var")))


def _outdated(opened: OpenH5ad, name: TableName, df: pd.DataFrame) -> list[str]:
    """Name what sorting noted of the order of cells, unless their labels are those of before."""
    if name != "obs" or opened.get(f"uns/{SORTING}") is None:
        return []
    sorted_by = f"uns/{SORTING}/sorted_by"
    column = read_element(opened, sorted_by) if opened.get(sorted_by) is not None else None
    if not isinstance(column, str) or column not in df or column not in table_columns(opened, name):
        return [SORTING]
    (old, old_names), (new, new_names) = (
        label_codes(table[column]) for table in (read_rows(opened, name, 0, len(df), columns=[column]), df)
    )
    return [] if old_names == new_names and np.array_equal(old, new) else [SORTING]


def _renamed(opened: OpenH5ad, along: str, names: pd.Index[Any]) -> dict[str, pd.DataFrame]:
    """Return the tables of obsm or varm under new names: anndata refuses a file in which they differ."""
    group = opened.get(along)
    found = {}
    for key in group if isinstance(group, h5py.Group) else ():
        node = opened.get(f"{along}/{key}")
        if isinstance(node, h5py.Group) and opened.attribute(node, "encoding-type") == "dataframe":
            frame = read_table(opened, f"{along}/{key}")
            if not frame.index.equals(names) and len(frame) == len(names):
                found[f"{along}/{key}"] = fitting_frame(frame.set_axis(names, axis=0), f"{along}/{key}")
    return found
