"""Tables as an h5ad can hold them. Pure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ingest.errors import UnfitError

__all__ = ["fitting_frame"]

_PLAIN = "biufc"
"""Kinds of numbers that HDF5 has."""
_TEXT = ("string", "empty")
_HINT = "make it text, numbers or categories of such, as with .astype(str)"


def fitting_frame(df: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return `df` with columns of types that anndata writes, values as they were.

    Names of rows become text. Objects become what all of them are: text, numbers, flags. Text with missing values
    becomes categories, as ``AnnData.write_h5ad`` makes it; pandas' own text type becomes plain text.

    Parameters
    ----------
    where
        What errors call the table.

    Raises
    ------
    TypeError
        It is no DataFrame.
    UnfitError
        A ValueError, naming the column: mixed values, dates, intervals, names that HDF5 cannot have or that are double.
    """
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"{where}: a {type(df).__name__} where a DataFrame belongs")
    _check_names(df, where)
    index = pd.Index(df.index.astype(str), dtype=object, name=df.index.name)
    columns = {name: _fitting(df[name], f"{where}: column {name!r}") for name in df.columns}
    fitted = pd.DataFrame({name: series.array for name, series in columns.items()}, index=index)
    if index.name in columns and not index.equals(pd.Index(df[index.name].astype(str), dtype=object)):
        fitted.index.name = None  # an h5ad has one place for both, and the column says more
    return fitted if len(fitted.columns) else fitted.set_axis(pd.Index([], dtype=object), axis=1)


def _check_names(df: pd.DataFrame, where: str) -> None:
    if isinstance(df.index, pd.MultiIndex):
        raise UnfitError(f"{where}: rows named at {df.index.nlevels} levels; an h5ad has one", hint=".reset_index()")
    for name in (*df.columns, *([] if df.index.name is None else [df.index.name])):
        if not isinstance(name, str) or not name.strip(".") or "/" in name:
            raise UnfitError(f"{where}: {name!r} cannot be the name of a column", hint="text without '/' can")
    if "_index" in df.columns:
        raise UnfitError(f"{where}: a column '_index'; an h5ad keeps the names of the rows there")
    if not df.columns.is_unique:
        double = df.columns[df.columns.duplicated()][0]
        raise UnfitError(f"{where}: two columns are called {double!r}")


def _fitting(values: pd.Series[Any], where: str) -> pd.Series[Any]:
    if isinstance(values.dtype, pd.CategoricalDtype):
        categories = _fitting(pd.Series(values.cat.categories), f"{where}: its categories")
        return values.cat.rename_categories(categories.tolist()) if len(categories) else values
    if pd.api.types.is_string_dtype(values.dtype) and values.dtype != object:
        values = values.astype(object)
    if values.dtype == object:
        return _of_objects(values, where)
    if values.dtype.kind not in _PLAIN:
        raise UnfitError(f"{where} is of type {values.dtype}, which an h5ad cannot hold", hint=_HINT)
    return values


def _of_objects(values: pd.Series[Any], where: str) -> pd.Series[Any]:
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "empty" and len(values):
        return values.astype(float)  # nothing but missing values
    if kind in _TEXT:
        return values.astype("category") if values.isna().any() else values
    if kind == "boolean":
        return values.astype("boolean" if values.isna().any() else bool)
    if kind in ("integer", "floating", "mixed-integer-float"):
        return pd.to_numeric(values)
    raise UnfitError(f"{where} holds {kind.replace('-', ' and ')} values, which an h5ad cannot hold", hint=_HINT)
