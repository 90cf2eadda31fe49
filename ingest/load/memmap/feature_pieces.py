"""Values of one column of features in as few bytes a row as they allow: numbers as they are, texts as codes.

::

    Plain   an array: numbers, dates, and objects that are neither texts nor truth values
    Coded   codes of 1 or 2 bytes into few distinct values: texts, truth values, whatever stands where there is none
    Texts   many distinct texts, in Arrow's layout, with codes of 4 bytes where they repeat

What a piece gives is what the array it was made of gave, missing values (None, nan, pandas' NA) included.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.load.arrow import numbers_of

__all__ = ["Array", "Coded", "Piece", "Plain", "Rows", "Texts", "from_arrow", "from_values", "is_missing", "is_text"]

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Array | slice

_MOST_CODED = 1 << 16
_SAMPLE = 1 << 17
_OBJECT = np.dtype(object)


class Piece(Protocol):
    """Some rows of a column; a value: nobody changes it."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `take` gives."""
        ...

    def __len__(self) -> int: ...

    def at(self, row: int) -> Any:
        """Return the value of a row, of the type that indexing the array gives."""
        ...

    def take(self, rows: Rows) -> Array:
        """Return the values of some rows, in the order asked for."""
        ...

    def arrow(self, rows: slice, kind: pa.DataType) -> pa.Array:
        """Return the values of some rows for a Parquet file; what is missing is null."""
        ...

    def samples(self) -> list[Any]:
        """Return values among which is one of every type that the piece holds."""
        ...

    def coded(self) -> tuple[Array, Array]:
        """Return integer codes ``(n_rows,)``, -1 where there is no value, and the values they stand for."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """Values as they are."""

    values: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def at(self, row: int) -> Any:
        """Return the value of a row."""
        return self.values[row]

    def take(self, rows: Rows) -> Array:
        """Return the values of some rows; a view where `rows` is a slice."""
        return self.values[rows]

    def arrow(self, rows: slice, kind: pa.DataType) -> pa.Array:
        """Return the values of some rows as `kind`."""
        values = self.values[rows]
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False), kind, from_pandas=True)

    def samples(self) -> list[Any]:
        """Return all values: any of them may be of another type."""
        return list(self.values.astype(object))

    def coded(self) -> tuple[Array, Array]:
        """Return codes and distinct values: of numbers ascending, of objects as they come."""
        if self.dtype == _OBJECT:
            return _coded_objects(self.values)
        distinct, codes = np.unique(self.values, return_inverse=True)
        none = np.array([is_missing(value) for value in distinct[-1:]], bool)
        if none.any():
            codes[codes == len(distinct) - 1] = -1
            distinct = distinct[:-1]
        return codes, distinct


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Few distinct values."""

    codes: Array
    """uint8 or uint16 ``(n_rows,)``."""
    distinct: Array
    """What they stand for: objects, or numpy's texts of fixed width."""
    n_present: int
    """The first of `distinct` are values, those after them stand for none."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the distinct values."""
        return self.distinct.dtype

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, row: int) -> Any:
        """Return the value of a row."""
        return self.distinct[self.codes[row]]

    def take(self, rows: Rows) -> Array:
        """Return the values of some rows."""
        found: Array = self.distinct[self.codes[rows]]
        return found

    def arrow(self, rows: slice, kind: pa.DataType) -> pa.Array:
        """Return the values of some rows as `kind`, which need not be a dictionary."""
        return pa.array(self.distinct, kind, from_pandas=True).take(pa.array(self.codes[rows]))

    def samples(self) -> list[Any]:
        """Return one value, if there is any: all are of one type."""
        present = np.flatnonzero(np.bincount(self.codes, minlength=len(self.distinct)))
        return [self.distinct[at] for at in present[:1].tolist() if at < self.n_present]

    def coded(self) -> tuple[Array, Array]:
        """Return the codes, one width wider."""
        codes = self.codes.astype(np.int32)
        codes[codes >= self.n_present] = -1
        return codes, self.distinct[: self.n_present]


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Many distinct texts."""

    texts: pa.LargeStringArray
    """Of each row, or what the codes stand for; null where there is none."""
    codes: Array | None
    """uint32 ``(n_rows,)``, or None: row `i` is text `i`."""
    missing: Any
    """What stands for null."""
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.texts if self.codes is None else self.codes)

    def at(self, row: int) -> Any:
        """Return the text of a row."""
        text = self.texts[row if self.codes is None else int(self.codes[row])].as_py()
        if text is None:
            return self.missing
        return text if self.dtype == _OBJECT else np.str_(text)

    def take(self, rows: Rows) -> Array:
        """Return the texts of some rows."""
        found = _objects(self._some(rows).to_pylist())
        if self.missing is not None:
            found[[text is None for text in found]] = self.missing
        return found if self.dtype == _OBJECT else found.astype(self.dtype)

    def arrow(self, rows: slice, kind: pa.DataType) -> pa.Array:
        """Return the texts of some rows as `kind`."""
        return self._some(rows).cast(kind)

    def samples(self) -> list[Any]:
        """Return a text, if there is any."""
        return [] if self.texts.null_count == len(self.texts) else [""]

    def coded(self) -> tuple[Array, Array]:
        """Return codes and distinct texts."""
        encoded = self._some(slice(None)).dictionary_encode()
        codes = numbers_of(encoded.indices.fill_null(-1))
        return codes, np.array(encoded.dictionary.to_pylist(), object)

    def _some(self, rows: Rows) -> pa.Array:
        if self.codes is not None:
            return self.texts.take(pa.array(self.codes[rows]))
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self.texts))
            if step == 1:
                return self.texts.slice(start, max(0, stop - start))
            rows = np.arange(start, stop, step)
        # numpy counts from the end where Arrow does not.
        return self.texts.take(pa.array(np.where(rows < 0, rows + len(self.texts), rows)))


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


def is_missing(value: Any) -> bool:
    """Return whether `value` is None, pandas' NA, nan or NaT."""
    return value is None or value is _pandas_na() or bool(value != value)


def _pandas_na() -> Any:
    """Return pandas' NA; None where nobody imported pandas, so that there is none."""
    return getattr(sys.modules.get("pandas"), "NA", None)


def _from_fixed(values: Array) -> Piece:
    try:
        column = pa.chunked_array([pa.array(values, pa.large_string())])
    except UnicodeError:  # lone surrogates, which are no UTF-8
        return Plain(values)
    # Arrow keeps none of the zeros that pad a text, as numpy shows none.
    return _from_texts(column, None, values.dtype)


def _from_objects(values: Array) -> Piece:
    types = set(map(type, values.tolist()))
    absent = types - {str, bool}
    present = types & {str, bool}
    if len(present) > 1 or not absent <= {type(None), float, type(_pandas_na())}:
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
        return Coded(codes, _objects([False, True, missing]), 2)
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
    return Coded(codes, _objects([*encoded.dictionary.to_pylist(), *(value for _, value in found.values())]), n)


def _from_texts(column: pa.ChunkedArray, missing: Any, dtype: np.dtype[Any]) -> Piece:
    if is_text(column.type):
        texts = _whole(column.cast(pa.large_string()))
        if _all_distinct(texts):
            return Texts(texts, None, missing, dtype)
        encoded = texts.dictionary_encode()
    else:
        encoded = _one_dictionary(column)
    n = len(encoded.dictionary)
    codes = numbers_of(encoded.indices.fill_null(n))
    if n < _MOST_CODED:
        return Coded(codes.astype(_width(n + 1)), _distinct(encoded.dictionary, missing, dtype), n)
    if n > len(codes) // 2:
        return Texts(encoded.cast(pa.large_string()), None, missing, dtype)
    texts = pa.concat_arrays([encoded.dictionary.cast(pa.large_string()), pa.nulls(1, pa.large_string())])
    return Texts(texts, codes.astype(np.uint32), missing, dtype)


def _one_dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return texts with one dictionary for all of them, in which no null is."""
    if any(chunk.dictionary.null_count for chunk in column.chunks):
        return _whole(column.cast(column.type.value_type)).dictionary_encode()
    return _whole(column.unify_dictionaries())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _all_distinct(texts: pa.Array) -> bool:
    """Return whether looking for what repeats is a waste of time and memory, as with names of cells."""
    if len(texts) <= _SAMPLE:
        return False
    some = texts.take(pa.array(np.random.default_rng(0).integers(0, len(texts), _SAMPLE)))
    n_drawn_twice = _SAMPLE * _SAMPLE // (2 * len(texts))
    return bool(pc.count_distinct(some).as_py() > 0.99 * (_SAMPLE - n_drawn_twice))


def _distinct(dictionary: pa.Array, missing: Any, dtype: np.dtype[Any]) -> Array:
    if dtype == _OBJECT:
        return _objects([*dictionary.to_pylist(), missing])
    return np.array([*dictionary.to_pylist(), ""], dtype)


def _objects(values: list[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _width(n: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if n <= 1 << 8 else np.uint16 if n <= 1 << 16 else np.uint32


def _coded_objects(values: Array) -> tuple[Array, Array]:
    numbers: dict[Any, int] = {}
    codes = np.empty(len(values), np.int64)
    for row, value in enumerate(values.tolist()):
        codes[row] = -1 if is_missing(value) else numbers.setdefault(value, len(numbers))
    return codes, _objects(list(numbers))
