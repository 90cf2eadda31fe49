"""anndata's on-disk elements: texts, numbers, categoricals and tables, each told by its attributes.

The format is `anndata's`_: array, string-array, categorical and dataframe 0.2.0; dict and anndata 0.1.0.

.. _anndata's: https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa

from ingest.digest import Levels, text_bytes
from ingest.encode.h5_file import COMPACT_BYTES
from ingest.encode.shuffle import shuffle_texts
from ingest.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.encode.filters import Filter
    from ingest.encode.h5_file import H5File

__all__ = [
    "DICT",
    "encoding",
    "frame_numbers",
    "is_short",
    "outline_frame",
    "outline_numbers",
    "write_frame",
    "write_numbers",
    "write_texts",
]

Array = np.ndarray[Any, Any]

_INT8, _INT16, _INT32 = np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.int32)
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


def _number_type(column: Levels | Array) -> np.dtype[Any]:
    """Return the type in which a column's numbers, or codes, are stored: codes as narrow as pandas has them."""
    if not isinstance(column, Levels):
        kind: np.dtype[Any] = column.dtype
        return kind
    n = len(column.values)
    return _INT8 if n < 127 else _INT16 if n < 32_767 else _INT32


def frame_numbers(columns: Mapping[str, Levels | Array]) -> dict[str, Array]:
    """Return what a table with such columns holds in numbers, by its place in the table: columns and codes."""
    numbers = {}
    for name, column in columns.items():
        place, values = (f"{name}/codes", column.codes) if isinstance(column, Levels) else (name, column)
        numbers[place] = np.ascontiguousarray(values, _number_type(column))
    return numbers


def is_short(values: Array) -> bool:
    """Say whether numbers are so few that the outline has room for them: files differ in their bytes alone."""
    return 0 < values.nbytes <= COMPACT_BYTES


def outline_numbers(file: H5File, path: str, numbers: Mapping[str, Array]) -> dict[str, int]:
    """Make room for the short ones of `numbers`; return where in the file each lies."""
    short = {place: values for place, values in numbers.items() if is_short(values)}
    return {place: file.room(f"{path}/{place}", len(v), v.dtype, _ARRAY) for place, v in short.items()}


def write_frame(
    file: H5File,
    path: str,
    index: pa.StringArray,
    columns: Mapping[str, Levels | Array],
    numbers: Mapping[str, Array],
    how: Filter | None,
) -> None:
    """Write what the outline of a table lacks: its index under "_index", categories, and numbers that are not short."""
    write_texts(file, f"{path}/_index", index, how)
    for name, column in columns.items():
        if isinstance(column, Levels):
            write_texts(file, f"{path}/{name}/categories", column.values, how)
    for place, values in numbers.items():
        if not is_short(values):
            write_numbers(file, f"{path}/{place}", values, how)


def write_numbers(
    file: H5File, path: str, values: Array, how: Filter | None, attributes: Mapping[str, Any] = _ARRAY
) -> None:
    """Write numbers ``(n,)``."""
    _write(file, path, np.ascontiguousarray(values), how, attributes)


def write_texts(
    file: H5File,
    path: str,
    texts: Sequence[str] | pa.StringArray,
    how: Filter | None,
    attributes: Mapping[str, Any] = _STRINGS,
) -> None:
    """Write texts ``(n,)`` at one length, so that filters apply; at their own where one is far longer than the rest.

    Raises
    ------
    SourceError
        A text holds a NUL character, where HDF5 would end it.
    """
    lengths, joined = text_bytes(texts)
    if b"\0" in joined:
        raise SourceError(f"{path} holds a NUL character, which HDF5 cannot", kind="nul-in-text")
    longest = max(int(lengths.max(initial=0)), 1)  # HDF5 has no texts of length 0
    if longest * len(lengths) <= _LENGTHENED * len(joined) + _BLOCK_BYTES:
        _write(file, path, _padded(lengths, joined, longest), how, attributes)
    else:
        file.array(path, np.array([text.encode() for text in _plain(texts)], h5py.string_dtype()), attributes)


def _plain(texts: Sequence[str] | pa.StringArray) -> Sequence[str]:
    return texts.to_pylist() if isinstance(texts, pa.Array) else texts


def _padded(lengths: Array, joined: bytes, longest: int) -> Array:
    """Return texts of `lengths` bytes ``(n,)``, `joined`, each filled up with NUL."""
    padded = np.zeros((len(lengths), longest), np.uint8)
    padded[np.arange(longest) < lengths[:, None]] = np.frombuffer(joined, np.uint8)
    return padded.reshape(-1).view(_fixed(longest))


@lru_cache(maxsize=256)
def _fixed(length: int) -> np.dtype[Any]:
    kind: np.dtype[Any] = h5py.string_dtype("utf-8", length)
    return kind


def _write(file: H5File, path: str, values: Array, how: Filter | None, attributes: Mapping[str, Any]) -> None:
    if how is None or values.nbytes <= COMPACT_BYTES:
        file.array(path, values, attributes)
        return
    length = min(len(values), max(1, _BLOCK_BYTES // values.itemsize))
    blocks = [how.compress(_shuffled(values, at, length), values.itemsize) for at in range(0, len(values), length)]
    file.blocks(path, values.dtype, (len(values),), length, blocks, how, attributes)


def _shuffled(values: Array, start: int, length: int) -> memoryview:
    part = values[start : start + length]
    if len(part) < length:
        part = np.concatenate([part, np.zeros(length - len(part), values.dtype)])
    return shuffle_texts(part).data
