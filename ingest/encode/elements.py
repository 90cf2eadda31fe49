"""anndata's on-disk elements: texts, numbers, categoricals and tables, each told by its attributes.

The format is `anndata's`_: array, string-array, categorical and dataframe 0.2.0; dict and anndata 0.1.0.

.. _anndata's: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.digest import Levels
from ingest.encode.shuffle import shuffle_texts
from ingest.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.encode.filters import Filter
    from ingest.encode.h5_file import H5File

__all__ = ["DICT", "encoding", "outline_frame", "write_frame", "write_numbers", "write_texts"]

Array = np.ndarray[Any, Any]

_PLAIN_BYTES = 1024
"""Smaller arrays are not worth a filter."""
_BLOCK_BYTES = 1 << 20
_LENGTHENED = 4
"""Texts are stored at one length while that makes them no longer than so many times, and else each at its own."""


def encoding(kind: str, version: str = "0.2.0") -> dict[str, Any]:
    """Return the two attributes that every element has."""
    return {"encoding-type": kind, "encoding-version": version}


DICT = encoding("dict", "0.1.0")
_ARRAY, _STRINGS = encoding("array"), encoding("string-array")
_CATEGORICAL = {**encoding("categorical"), "ordered": np.False_}


def outline_frame(file: H5File, path: str, columns: Mapping[str, Levels | Array]) -> None:
    """Write what tables with such columns have in common, whatever their rows: groups and attributes."""
    order = np.array(list(columns), h5py.string_dtype()) if columns else np.empty(0, h5py.string_dtype())
    file.group(path, {"_index": "_index", "column-order": order, **encoding("dataframe")})
    for name, column in columns.items():
        if isinstance(column, Levels):
            file.group(f"{path}/{name}", _CATEGORICAL)


def write_frame(
    file: H5File, path: str, index: Sequence[str], columns: Mapping[str, Levels | Array], how: Filter | None
) -> None:
    """Write a table that is outlined: its index under "_index", texts as categoricals, other columns as arrays."""
    write_texts(file, f"{path}/_index", index, how)
    for name, column in columns.items():
        if isinstance(column, Levels):
            write_texts(file, f"{path}/{name}/categories", column.values, how)
            most = len(column.values)
            narrow = next(t for t in (np.int8, np.int16, np.int32) if most < np.iinfo(t).max)  # as pandas does
            write_numbers(file, f"{path}/{name}/codes", column.codes.astype(narrow), how)
        else:
            write_numbers(file, f"{path}/{name}", column, how)


def write_numbers(file: H5File, path: str, values: Array, how: Filter | None) -> None:
    """Write numbers ``(n,)``."""
    _write(file, path, np.ascontiguousarray(values), how, _ARRAY)


def write_texts(file: H5File, path: str, texts: Sequence[str], how: Filter | None) -> None:
    """Write texts ``(n,)`` at one length, so that filters apply; at their own where one is far longer than the rest.

    Raises
    ------
    SourceError
        A text holds a NUL character, where HDF5 would end it.
    """
    raw = [text.encode() for text in texts]
    joined = b"".join(raw)
    if b"\0" in joined:
        raise SourceError(f"{path} holds a NUL character, which HDF5 cannot", kind="nul-in-text")
    longest = max(map(len, raw), default=0) or 1  # HDF5 has no texts of length 0
    if longest * len(raw) <= _LENGTHENED * len(joined) + _BLOCK_BYTES:
        _write(file, path, np.array(raw, h5py.string_dtype("utf-8", longest)), how, _STRINGS)
    else:
        file.array(path, np.array(raw, h5py.string_dtype()), _STRINGS)


def _write(file: H5File, path: str, values: Array, how: Filter | None, attributes: Mapping[str, Any]) -> None:
    if how is None or values.nbytes <= _PLAIN_BYTES:
        file.array(path, values, attributes)
        return
    length = min(len(values), max(1, _BLOCK_BYTES // values.itemsize))
    blocks = [how.compress(_shuffled(values, at, length), values.itemsize) for at in range(0, len(values), length)]
    file.blocks(path, values.dtype, (len(values), length), blocks, how, attributes)


def _shuffled(values: Array, start: int, length: int) -> memoryview:
    part = values[start : start + length]
    if len(part) < length:
        part = np.concatenate([part, np.zeros(length - len(part), values.dtype)])
    return shuffle_texts(part).data
