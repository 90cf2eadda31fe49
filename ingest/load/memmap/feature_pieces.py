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

from ingest.load.arrow import numbers_of

__all__ = ["Array", "Coded", "Piece", "Plain", "Rows", "Texts", "is_missing", "objects_of", "pandas_na"]

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Array | slice

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
        codes = pa.array(self.codes[rows])
        if pa.types.is_null(kind):
            return pa.nulls(len(codes))
        return pa.array(self.distinct.astype(object), kind, from_pandas=True).take(codes)

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
        found = objects_of(self._some(rows).to_pylist())
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


def is_missing(value: Any) -> bool:
    """Return whether `value` is None, pandas' NA, nan or NaT."""
    return value is None or value is pandas_na() or bool(value != value)


def pandas_na() -> Any:
    """Return pandas' NA; None where nobody imported pandas, so that there is none."""
    return getattr(sys.modules.get("pandas"), "NA", None)


def objects_of(values: list[Any]) -> Array:
    """Return an array of objects, whatever they are."""
    return np.fromiter(values, object, len(values))


def _coded_objects(values: Array) -> tuple[Array, Array]:
    numbers: dict[Any, int] = {}
    codes = np.empty(len(values), np.int64)
    for row, value in enumerate(values.tolist()):
        codes[row] = -1 if is_missing(value) else numbers.setdefault(value, len(numbers))
    return codes, objects_of(list(numbers))
