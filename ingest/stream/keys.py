"""One key of obsm, varm, obsp or uns of a file, added or replaced without touching anything else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from ingest.errors import UnfitError
from ingest.fetch.h5ad_table import open_table
from ingest.stream.editing import edited_h5ad, put
from ingest.stream.elements import read_rows
from ingest.stream.frames import fitting_frame
from ingest.stream.storage import open_data, resolve_data_path

if TYPE_CHECKING:
    from ingest.fetch.h5ad_open import OpenH5ad

_KINDS = {**dict.fromkeys("iufc", "numbers"), "b": "flags", "U": "texts", "S": "bytes"}

__all__ = ["write_obsm_to_h5ad", "write_obsp_to_h5ad", "write_uns_dict_to_h5ad", "write_varm_to_h5ad"]


def write_obsm_to_h5ad(path: Any, key: str, data: Any) -> None:
    """Write ``obsm[key]``: an array, sparse matrix or table of ``(n_cells, …)``; one number a cell is one column.

    All else in the file stays as it is; a crash or a full disk leaves it as it was. It is gzipped.

    Raises
    ------
    UnfitError
        A ValueError: another number of rows, a table with other names of cells, values that no h5ad can hold, or a key
        that HDF5 cannot have.
    TypeError
        `path` names no file.
    NoFileError
        A FileNotFoundError: there is no such file.
    HostileFileError, SourceChangedError
        The file is damaged, or was changed by something else meanwhile.
    ConfigError, CredentialsError
        ``disk-full``, ``permission``, ``remote-file``.
    """
    _write_along(path, "obsm", key, data, "obs")


def write_varm_to_h5ad(path: Any, key: str, data: Any) -> None:
    """Write ``varm[key]``: an array, sparse matrix or table of ``(n_genes, …)``; all else is as of obsm.

    Raises
    ------
    UnfitError, TypeError, NoFileError, HostileFileError, SourceChangedError, ConfigError, CredentialsError
        As of `write_obsm_to_h5ad`.
    """
    _write_along(path, "varm", key, data, "var")


def write_obsp_to_h5ad(path: Any, key: str, data: Any) -> None:
    """Write ``obsp[key]``: ``(n_cells, n_cells)``; a sparse matrix as CSR, an array as it is.

    Raises
    ------
    UnfitError, TypeError, NoFileError, HostileFileError, SourceChangedError, ConfigError, CredentialsError
        As of `write_obsm_to_h5ad`.
    """
    target = resolve_data_path(path)
    value = data.tocsr() if hasattr(data, "tocsr") else np.asarray(data)
    with open_data(target) as opened:
        n_obs = open_table(opened, "obs").n_rows
        if value.shape != (n_obs, n_obs):
            raise UnfitError(f"obsp/{key}: shape {value.shape} where {target.name} has {n_obs:,} cells by as many")
        version = opened.source.version
    _edit(target, version, "obsp", key, value)


def write_uns_dict_to_h5ad(path: Any, key: str, data: Any) -> None:
    """Write ``uns[key]``: a dict of numbers, texts, arrays, tables and dicts of such, or one of these.

    Lists and tuples become arrays, whose values are of one kind: numbers, flags, or texts. Paths become texts.

    Raises
    ------
    UnfitError, TypeError, NoFileError, HostileFileError, SourceChangedError, ConfigError, CredentialsError
        As of `write_obsm_to_h5ad`.
    """
    target = resolve_data_path(path)
    value = _plain(data, f"uns/{key}")
    with open_data(target) as opened:
        version = opened.source.version
    _edit(target, version, "uns", key, value)


def _write_along(path: Any, group: str, key: str, data: Any, table: Literal["obs", "var"]) -> None:
    target = resolve_data_path(path)
    value = _aligned(data, f"{group}/{key}")
    with open_data(target) as opened:
        n_rows = open_table(opened, table).n_rows
        if value.shape[0] != n_rows:
            what = f"{value.shape[0]:,} rows where {table} of {target.name} has {n_rows:,}"
            raise UnfitError(f"{group}/{key}: {what}")
        if isinstance(value, pd.DataFrame):
            _check_names(opened, table, value, f"{group}/{key}")
        version = opened.source.version
    _edit(target, version, group, key, value)


def _aligned(data: Any, where: str) -> Any:
    if isinstance(data, pd.DataFrame):
        return fitting_frame(data, where)
    if hasattr(data, "tocsr"):
        return data if data.format in ("csr", "csc") else data.tocsr()
    value = np.asarray(data)
    if value.ndim == 0:
        raise UnfitError(f"{where}: {type(data).__name__} is no array, sparse matrix or table")
    return value[:, np.newaxis] if value.ndim == 1 else value


def _check_names(opened: OpenH5ad, table: Literal["obs", "var"], value: pd.DataFrame, where: str) -> None:
    names = read_rows(opened, table, 0, len(value), columns=()).index.astype(str)
    if not value.index.equals(names):  # anndata refuses the whole file then
        wrong = next(found for found, name in zip(value.index, names, strict=True) if found != name)
        raise UnfitError(f"{where}: a row {wrong!r} where {table} has another", hint=f"its index is that of {table}")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UnfitError(f"{where}: {name!r} cannot be a key", hint="text without '/' can")
            _check_key(name, where)
        return {name: _plain(part, f"{where}/{name}") for name, part in value.items()}
    if isinstance(value, pd.DataFrame):
        return fitting_frame(value, where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return _array(value, where)
    return value


def _array(values: list[Any] | tuple[Any, ...], where: str) -> np.ndarray[Any, Any]:
    kinds = sorted(_kinds(values))
    if len(kinds) > 1:  # numpy would make texts of all, or numbers of flags
        raise UnfitError(
            f"{where}: a list of {' and '.join(kinds)}", hint="an array has one kind; a dict can hold several"
        )
    try:
        return np.array(values)
    except ValueError as error:  # lists of several lengths
        raise UnfitError(f"{where}: a list that is no array ({error})") from error


def _kinds(values: Any) -> set[str]:
    """Return what a list holds, lists within it too, in the plural."""
    if isinstance(values, list | tuple):
        return set().union(*map(_kinds, values))
    kind = np.asarray(values).dtype.kind
    return {_KINDS.get(kind, f"{type(values).__name__} objects")}


def _edit(target: Any, version: str, group: str, key: str, value: Any) -> None:
    _check_key(key, group)
    with edited_h5ad(target, version) as file:
        put(file, f"{group}/{key}", value)


def _check_key(key: Any, group: str) -> None:
    if not isinstance(key, str) or not key.strip(".") or "/" in key or "\0" in key:
        raise UnfitError(f"{group}: {key!r} cannot be a key", hint="text without '/' can")
