"""Write the h5ad encodings of anndata 0.6 and 0.7 with h5py alone, as files in the wild have them.

Sources: the anndata "on-disk format" page for 0.7 and later, and files written by 0.6 itself. The two differ in
nearly everything:

- **0.6**: ``obs`` and ``var`` are compound datasets of fixed-length strings and codes; the labels behind the codes are
  ``uns/<column>_categories``; a sparse matrix is a group with ``h5sparse_format`` and ``h5sparse_shape``; the raw
  matrix is ``raw.X`` with ``raw.var`` beside it.
- **0.7**: ``obs`` and ``var`` are groups; a categorical column is a dataset of codes whose attribute ``categories``
  refers to ``__categories/<column>``; a sparse matrix is a group with ``encoding-type`` and ``shape``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["LegacyVersion", "write_legacy"]

LegacyVersion = Literal["0.6", "0.7"]

_UTF8 = h5py.string_dtype("utf-8")


def write_legacy(
    path: Path,
    version: LegacyVersion,
    *,
    matrices: Mapping[str, Any],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    compression: str | None,
) -> None:
    """Write `matrices` (``X``, ``raw``, ``layer:<name>``) with `obs` and `var` as anndata `version` did.

    Parameters
    ----------
    path
        File to create.
    version
        ``0.6`` or ``0.7``.
    matrices
        Of shape ``(n_cells, n_genes)``: CSR, CSC or dense.
    obs, var
        Indexed by name; columns are categorical, numeric, boolean or text.
    compression
        h5py's name of the filter, or ``None``.
    """
    with h5py.File(path, "w") as file:
        for place, matrix in matrices.items():
            _write_matrix(file, _place(place, version), matrix, version, compression)
        frames = {"obs": obs, "var": var}
        if "raw" in matrices:
            frames["raw.var" if version == "0.6" else "raw/var"] = var
        if version == "0.6":
            file.create_group("uns")
        for name, frame in frames.items():
            (_write_compound if version == "0.6" else _write_table)(file, name, frame)


def _place(place: str, version: LegacyVersion) -> str:
    if place == "raw":
        return "raw.X" if version == "0.6" else "raw/X"
    return f"layers/{place.removeprefix('layer:')}" if place.startswith("layer:") else place


def _write_matrix(file: h5py.File, name: str, matrix: Any, version: LegacyVersion, compression: str | None) -> None:
    if isinstance(matrix, np.ndarray):
        file.create_dataset(name, data=matrix, compression=compression)
        return
    group = file.create_group(name)
    if version == "0.6":
        group.attrs["h5sparse_format"] = matrix.format
        group.attrs["h5sparse_shape"] = np.array(matrix.shape)
    else:
        group.attrs["encoding-type"] = f"{matrix.format}_matrix"
        group.attrs["encoding-version"] = "0.1.0"
        group.attrs["shape"] = np.array(matrix.shape)
    for part in ("data", "indices", "indptr"):
        group.create_dataset(part, data=getattr(matrix, part), compression=compression)


def _write_compound(file: h5py.File, name: str, frame: pd.DataFrame) -> None:
    fields: list[tuple[str, Any]] = [("index", _fixed(frame.index))]
    for column in frame.columns:
        values = frame[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            file[f"uns/{column}_categories"] = _fixed(values.cat.categories)
            fields.append((column, values.cat.codes.to_numpy()))
        else:
            fields.append((column, _fixed(values) if values.dtype == object else values.to_numpy()))
    table = np.empty(len(frame), np.dtype([(column, values.dtype) for column, values in fields]))
    for column, values in fields:
        table[column] = values
    file.create_dataset(name, data=table)


def _fixed(values: Any) -> np.ndarray[Any, Any]:
    return np.array([str(value).encode() for value in values], dtype=np.bytes_)


def _write_table(file: h5py.File, name: str, frame: pd.DataFrame) -> None:
    group = file.create_group(name)
    group.attrs["encoding-type"] = "dataframe"
    group.attrs["encoding-version"] = "0.1.0"
    group.attrs["_index"] = "index"
    group.attrs["column-order"] = np.array(list(frame.columns), dtype=object)
    group.create_dataset("index", data=frame.index.to_numpy(object), dtype=_UTF8)
    for column in frame.columns:
        _write_column(group, column, frame[column])


def _write_column(group: h5py.Group, column: str, values: pd.Series[Any]) -> None:
    if isinstance(values.dtype, pd.CategoricalDtype):
        labels = group.require_group("__categories").create_dataset(
            column, data=values.cat.categories.to_numpy(object), dtype=_UTF8
        )
        labels.attrs["ordered"] = np.bool_(values.cat.ordered)
        group.create_dataset(column, data=values.cat.codes.to_numpy()).attrs["categories"] = labels.ref
    elif values.dtype == object:
        group.create_dataset(column, data=values.to_numpy(object), dtype=_UTF8)
    else:
        group.create_dataset(column, data=values.to_numpy())
