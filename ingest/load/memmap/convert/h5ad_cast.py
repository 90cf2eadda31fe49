"""Cast stored numbers to an archive's types, and say what that changes: numpy's own cast, and its own comparison.

A compiled pass casts what comes through unchanged, which is nearly everything. Where a number does not, numpy casts
the piece again, as it casts for bionemo-scdl: with the same result for what no rule defines, such as a negative number
as an unsigned one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_planes import bits_of, plain_numbers
from ingest.load.memmap.convert.base import LossyCast
from ingest.load.memmap.convert.h5ad_kernels import (
    STEP,
    cast_column_planes,
    cast_columns,
    cast_planes,
    cast_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.fetch.h5ad_stored import Stored

__all__ = ["Harm", "Harms", "OutsideError", "ValueCast", "put_columns"]

Array = np.ndarray[Any, Any]

_COMPILED = ("float32", "float64", "int32", "int64")
"""Types that matrices have nearly always: each with each target is compiled once a machine."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What casting has done to some numbers of which not all came through unchanged."""

    difference: Any
    """numpy's ``max(abs(cast - number))``, of the type that numpy gives it; NaN if it is of any."""
    at: int
    """The entry, or its row, that is changed most, by more than is tolerated; -1 where none is."""
    value: Any
    """What the source has there."""
    size: float
    """How far that is off; NaN where it is no number."""

    def of(self, row_of: Callable[[int], int]) -> Harm:
        """Return it with the number that `row_of` gives instead of the entry's."""
        return replace(self, at=row_of(self.at)) if self.at >= 0 else self


class ValueCast:
    """Casts of values from one type to another.

    Parameters
    ----------
    source, target
        Numpy types.
    tolerance
        As `ingest.load.memmap.convert.base.RowSource.write` has it.
    """

    def __init__(self, source: Any, target: Any, tolerance: float) -> None:
        self._source, self.target, self._tolerance = np.dtype(source), np.dtype(target), tolerance
        compiled = self._source.name in _COMPILED and self.target != np.float16  # which numba does not have
        self._range = exact_range(self._source, self.target) if compiled else None

    def into(self, stored: Stored, out: Array) -> Harm | None:
        """Cast the wanted part of a block into `out`, of as many; return the harm, None where there is none."""
        if self._range is not None and not self._compiled(stored, out, *self._range):
            return None
        numbers = plain_numbers(stored, self._source)
        with np.errstate(all="ignore"):
            out[:] = numbers.astype(self.target)
            return None if self._is_same(numbers, out) else self._harm(numbers, out, stored.at)

    def _compiled(self, stored: Stored, out: Array, low: Any, high: Any) -> bool:
        if stored.numbers.ndim == 1:
            return bool(cast_values(stored.numbers[stored.begin : stored.end], out, low, high))
        bits = np.empty(STEP, bits_of(self._source))
        return bool(cast_planes(stored.numbers, stored.begin, bits, bits.view(self._source), out, low, high))

    def _is_same(self, numbers: Array, out: Array) -> bool:
        if numbers.dtype.kind == "f":
            return bool((out - numbers == 0).all())  # not so of infinities and of what is no number
        if np.can_cast(numbers.dtype, self.target) or not len(numbers):
            return True
        if self.target.kind == "f":  # of the largest, the way back would be undefined
            return bool((out.astype(np.float64) == numbers.astype(np.float64)).all())
        return bool(numbers.min() >= 0 and (out.astype(numbers.dtype) == numbers).all())

    def _harm(self, numbers: Array, out: Array, at: int) -> Harm:
        near = np.isclose(out, numbers, rtol=0, atol=self._tolerance)
        off = np.abs(out - numbers)
        far = np.flatnonzero(~near)
        if not len(far):
            return Harm(off.max(), -1, None, 0.0)
        worst = far[np.argmax(off[far].astype(np.float64))]  # of NaN the first
        return Harm(off.max(), at + int(worst), numbers[worst], float(off[worst]))


class Harms:
    """What has been done to the values of several pieces, added up."""

    def __init__(self) -> None:
        self.total: Harm | None = None
        """The largest difference of all, and the entry that is changed most."""

    def add(self, harm: Harm | None) -> None:
        """Add what `ValueCast.into` returned, or the total of others."""
        if self.total is None or harm is None:
            self.total = self.total or harm
            return
        difference = max((self.total.difference, harm.difference), key=_Size)
        worst = max((self.total, harm), key=lambda one: _Size(one.size if one.at >= 0 else -1.0))
        self.total = Harm(difference, worst.at, worst.value, worst.size)

    def worst(self, row_of: Callable[[int], int]) -> LossyCast | None:
        """Return the worst, None if all is tolerated; `row_of` tells the row of an entry."""
        if self.total is None or self.total.at < 0:
            return None
        number = self.total.difference
        return LossyCast(row_of(self.total.at), str(self.total.value), f"{number}", float(number))


@dataclass(frozen=True, slots=True)
class _Size:
    """A number to compare; NaN is more than any."""

    number: Any

    def __lt__(self, other: _Size) -> bool:
        return bool(self.number < other.number or (np.isnan(other.number) and not np.isnan(self.number)))


def exact_range(source: np.dtype[Any], target: np.dtype[Any]) -> tuple[Any, Any]:
    """Return the least and the largest number of type `source` that are worth casting to `target`.

    Of what lies between, a number that is the same after the cast and back has come through; converting one from
    outside may be undefined.
    """
    if source.kind == "f":
        if target.kind == "f":
            return source.type(-np.inf), source.type(np.inf)
        # float32 rounds 2**32 - 1 up to 2**32, which uint32 does not hold: step down to the float below.
        most = int(np.iinfo(target).max)
        top = source.type(most)
        return source.type(0), np.nextafter(top, source.type(0)) if int(top) > most else top
    least, most = int(np.iinfo(source).min), int(np.iinfo(source).max)
    whole = 2 ** (np.finfo(target).nmant + 1) if target.kind == "f" else int(np.iinfo(target).max)
    return source.type(max(least, -whole if target.kind == "f" else 0)), source.type(min(most, whole))


class OutsideError(Exception):
    """An entry that lies in no column there is; whoever knows its row makes an error for people of it."""

    def __init__(self, entry: int, column: int) -> None:
        super().__init__(entry, column)
        self.entry, self.column = entry, column


def put_columns(stored: Stored, dtype: np.dtype[Any], out: Array, n_columns: int) -> None:
    """Cast the column numbers of a block into `out`, of as many.

    Parameters
    ----------
    dtype
        Of what is stored: whole numbers.
    n_columns
        Which there are; `out` holds all of them.

    Raises
    ------
    OutsideError
        Of the first number that is none of theirs.
    """
    last = dtype.type(min(n_columns - 1, int(np.iinfo(dtype).max)))
    if stored.numbers.ndim == 1:
        wrong = cast_columns(stored.numbers[stored.begin : stored.end], out, last)
    else:
        bits = np.empty(STEP, bits_of(dtype))
        wrong = cast_column_planes(stored.numbers, stored.begin, bits, bits.view(dtype), out, last)
    if wrong:
        numbers = plain_numbers(stored, dtype)
        at = int(np.flatnonzero((numbers < 0) | (numbers > last))[0])
        raise OutsideError(stored.at + at, int(numbers[at]))
