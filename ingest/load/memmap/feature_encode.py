"""Make the smallest piece of a column that gives its values back: of numpy arrays and of Arrow's columns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.load.arrow import numbers_of
from ingest.load.memmap.feature_pieces import Coded, Plain, Texts, objects_of, pandas_na

if TYPE_CHECKING:
    from ingest.load.memmap.feature_pieces import Array, Piece

__all__ = ["from_arrow", "from_values", "is_text"]

_OBJECT = np.dtype(object)
_MOST_CODED = 1 << 16
_SAMPLE = 1 << 17
_NEARLY_ALL = 0.98


def from_values(values: Array) -> Piece:
    """Return `values` as the smallest piece that gives them back."""
    if values.ndim == 1 and values.dtype.kind == "U":
        return _from_fixed(values)
    if values.ndim == 1 and values.dtype == _OBJECT:
        return _from_objects(values)
    return Plain(values)


def from_arrow(column: pa.ChunkedArray) -> Piece:
    """Return a column of an Arrow table: as its ``to_numpy()`` would be, text as codes, None for null texts."""
    kind = column.type
    if pa.types.is_dictionary(kind) and not is_text(kind.value_type):
        column, kind = column.cast(kind.value_type), kind.value_type
    if is_text(kind) or pa.types.is_dictionary(kind):
        return _from_texts(column, None, _OBJECT)
    if pa.types.is_null(kind):
        return Coded(np.zeros(len(column), np.uint8), np.array([None], object), 0)
    if pa.types.is_boolean(kind) and column.null_count:
        codes = numbers_of(pc.fill_null(column.cast(pa.uint8()), 2).combine_chunks())
        return Coded(codes, np.array([False, True, None], object), 2)
    if column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return Plain(numbers_of(column.combine_chunks()))
    return Plain(column.to_numpy())


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type of Arrow's is plain text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _from_fixed(values: Array) -> Piece:
    # Arrow would end a text of numpy's at the first zero in it.
    whole = values.astype(object) if _has_inner_zeros(values) else values
    try:
        column = pa.chunked_array([pa.array(whole, pa.large_string())])
    except UnicodeError:  # lone surrogates, which are no UTF-8
        return Plain(values)
    return _from_texts(column, None, values.dtype)


def _has_inner_zeros(values: Array) -> bool:
    if not values.size or values.itemsize < 8:
        return False
    letters = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.uint32).reshape(len(values), -1)
    return bool(((letters[:, :-1] == 0) & (letters[:, 1:] != 0)).any())


def _from_objects(values: Array) -> Piece:
    types = set(map(type, values.tolist()))
    absent = types - {str, bool}
    present = types & {str, bool}
    if len(present) > 1 or not absent <= {type(None), float, type(pandas_na())}:
        return Plain(values)
    kind = pa.bool_() if bool in present else pa.large_string()
    try:
        column = pa.array(values, kind, from_pandas=True)
    except (UnicodeError, pa.ArrowException):  # lone surrogates; a float that is a number
        return Plain(values)
    column = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if len(absent) > 1:
        return _several_missing(values, column)
    missing = values[int(pc.index(column.is_null(), True).as_py())] if absent else None
    if bool in present:
        codes = numbers_of(pc.fill_null(column.cast(pa.uint8()), 2).combine_chunks())
        return Coded(codes, objects_of([False, True, missing]), 2)
    return _from_texts(column, missing, _OBJECT)


def _several_missing(values: Array, column: pa.ChunkedArray) -> Piece:
    """Return a column in which more than one thing stands for nothing."""
    encoded = column.combine_chunks().dictionary_encode()
    n = len(encoded.dictionary)
    if n + 3 > _MOST_CODED:
        return Plain(values)
    codes = numbers_of(encoded.indices.fill_null(n)).astype(_width(n + 3))
    found: dict[type, tuple[int, Any]] = {}
    for row in np.flatnonzero(codes == n).tolist():
        code, _ = found.setdefault(type(values[row]), (n + len(found), values[row]))
        codes[row] = code
    return Coded(codes, objects_of([*encoded.dictionary.to_pylist(), *(value for _, value in found.values())]), n)


def _from_texts(column: pa.ChunkedArray, missing: Any, dtype: np.dtype[Any]) -> Piece:
    if pa.types.is_dictionary(column.type) and _mostly_distinct(column):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        texts = _whole(column.cast(pa.large_string()))
        if _all_distinct(texts):
            return Texts(texts, None, missing, dtype)
        column = pa.chunked_array([texts.dictionary_encode()])
    chunks = _one_dictionary(column)
    dictionary = chunks[0].dictionary.cast(pa.large_string())
    codes, n = _codes(chunks), len(dictionary)
    if n < _MOST_CODED:
        return Coded(codes, _distinct(dictionary, missing, dtype), n)
    texts = pa.concat_arrays([dictionary, pa.nulls(1, pa.large_string())])
    if n > len(codes) // 2:
        return Texts(texts.take(pa.array(codes)), None, missing, dtype)
    return Texts(texts, codes, missing, dtype)


def _one_dictionary(column: pa.ChunkedArray) -> list[pa.DictionaryArray]:
    """Return texts, at least none, with one dictionary for all of them, in which no null is."""
    if any(chunk.dictionary.null_count for chunk in column.chunks):
        column = pa.chunked_array([_whole(column.cast(column.type.value_type)).dictionary_encode()])
    return list(column.unify_dictionaries().chunks) or [pa.array([], column.type)]


def _codes(chunks: list[pa.DictionaryArray]) -> Array:
    """Return codes of all chunks, as narrow as they can be; of null one more than of the last text."""
    n = len(chunks[0].dictionary)
    found = np.empty(sum(map(len, chunks)), _width(n + 1))
    at = 0
    for chunk in chunks:
        found[at : at + len(chunk)] = numbers_of(chunk.indices.fill_null(n))
        at += len(chunk)
    return found


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _mostly_distinct(column: pa.ChunkedArray) -> bool:
    return len(column) > _SAMPLE and sum(len(chunk.dictionary) for chunk in column.chunks) > len(column) // 2


def _all_distinct(texts: pa.Array) -> bool:
    """Return whether looking for what repeats is a waste of time and memory, as with names of cells."""
    if len(texts) <= _SAMPLE:
        return False
    some = texts.take(pa.array(np.random.default_rng(0).integers(0, len(texts), _SAMPLE)))
    # So many of n rows are drawn at least once.
    n_drawn = -len(texts) * math.expm1(-_SAMPLE / len(texts))
    return bool(pc.count_distinct(some).as_py() > _NEARLY_ALL * n_drawn)


def _distinct(dictionary: pa.Array, missing: Any, dtype: np.dtype[Any]) -> Array:
    if dtype == _OBJECT:
        return objects_of([*dictionary.to_pylist(), missing])
    return np.array([*dictionary.to_pylist(), ""], dtype)


def _width(n: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if n <= 1 << 8 else np.uint16 if n <= 1 << 16 else np.uint32
