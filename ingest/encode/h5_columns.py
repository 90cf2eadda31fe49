"""Annotations beside a dense matrix: one array of plain numbers or texts a column, for whoever knows h5py alone.

HDF5 has no missing text. A cell without one has a text that no other cell has, the empty one unless that is taken, and
the array's attribute ``missing`` is that text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa

from ingest.digest import Levels
from ingest.encode.elements import write_numbers, write_texts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ingest.encode.filters import Filter
    from ingest.encode.h5_file import H5File

__all__ = ["COUNTED", "place_columns", "write_columns"]

Array = np.ndarray[Any, Any]

COUNTED = ("gene_count", "umi_count")
"""What is counted in the matrix itself; an index's columns of these names stand beside under others."""


def place_columns(names: Collection[str]) -> dict[str, str]:
    """Return for each column of the index the name it has in the file: its own, or ``index_`` and its own."""
    placed = {}
    for name in names:
        place = name
        if name in COUNTED:
            while place in names or place in COUNTED:
                place = f"index_{place}"
        placed[name] = place
    return placed


def write_columns(
    file: H5File, path: str, columns: Mapping[str, Levels | Array], counted: Mapping[str, Array], how: Filter | None
) -> None:
    """Write the group `path`: its attribute ``column-order`` names those of the index.

    Parameters
    ----------
    columns
        `ingest.digest.canonical_obs` of all cells.
    counted
        The columns `COUNTED`.
    """
    places = place_columns(columns)
    order = np.array(list(places.values()), h5py.string_dtype()) if places else np.empty(0, h5py.string_dtype())
    file.group(path, {"column-order": order})
    for name, values in counted.items():
        write_numbers(file, f"{path}/{name}", values, how, {})
    for name, column in columns.items():
        renamed = {} if places[name] == name else {"column": name}
        if isinstance(column, Levels):
            texts, missing = _texts(column)
            write_texts(file, f"{path}/{places[name]}", texts, how, {**renamed, **missing})
        else:
            write_numbers(file, f"{path}/{places[name]}", column, how, renamed)


def _texts(column: Levels) -> tuple[pa.StringArray, dict[str, str]]:
    """Return each cell's text, and the attribute that says which of them means none."""
    if not (column.codes < 0).any():
        return pa.array(column.values, pa.string()).take(pa.array(column.codes)), {}
    missing = _unused(column.values)
    codes = np.where(column.codes < 0, len(column.values), column.codes)
    return pa.array((*column.values, missing), pa.string()).take(pa.array(codes)), {"missing": missing}


def _unused(texts: Collection[str]) -> str:
    """Return a text that is none of `texts`."""
    text = ""
    while text in texts:
        text = f"{text}_" if text else "missing"
    return text
