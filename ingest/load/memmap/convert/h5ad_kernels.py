"""Compiled passes that bring stored entries to an archive's types, and notice what does not survive it.

Bytes that HDF5 has shuffled (first bytes of all numbers, then second bytes, …) are put together a step at a time, so
that a number is in the CPU's cache when it is cast. Kernels notice; `ingest.load.memmap.convert.h5ad_cast` says what.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.encode.inner import inner
from ingest.fetch.h5ad_planes import join
from ingest.fetch.kernels import compiled

__all__ = [
    "STEP",
    "cast_column_planes",
    "cast_columns",
    "cast_planes",
    "cast_values",
    "count_rows",
    "place_entries",
    "take_filled",
]

Array = np.ndarray[Any, Any]

STEP = 4096
"""Numbers cast together."""


@inner
def _cast(values: Array, out: Array, low: Any, high: Any) -> bool:
    # Free of branches, so that it vectorises. Converting what the type cannot hold is undefined: it is zero instead.
    lost = False
    for at in range(values.size):
        value = values[at]
        fits = (value >= low) & (value <= high)
        out[at] = value if fits else values.dtype.type(0)
        # Not `!=`: the difference of two infinities, like that of two NaN, is no number, and to be looked at.
        lost |= values.dtype.type(out[at]) - value != 0
    return lost


@inner
def _check(columns: Array, out: Array, last: Any) -> bool:
    wrong = False
    for at in range(columns.size):
        column = columns[at]
        out[at] = column
        wrong |= (column < 0) | (column > last)
    return wrong


@compiled
def cast_values(values: Array, out: Array, low: Any, high: Any) -> bool:
    """Cast `values` into `out`, of as many; tell whether any is not the same number, infinite or none.

    Parameters
    ----------
    low, high
        Of the values' type: what lies outside is not worth converting. See `h5ad_cast.exact_range`.
    """
    for begin in range(0, values.size, STEP):
        if _cast(values[begin : begin + STEP], out[begin : begin + STEP], low, high):
            return True
    return False


@compiled
def cast_planes(planes: Array, begin: int, bits: Array, values: Array, out: Array, low: Any, high: Any) -> bool:
    """Cast as many shuffled numbers as `out` takes, from number `begin` of ``(width, n)`` on, as `cast_values` does.

    `bits` and `values` are one piece of memory, ``(STEP,)``, seen as unsigned and as the numbers' type.
    """
    for at in range(0, out.size, STEP):
        n = min(STEP, out.size - at)
        join(planes, begin + at, bits[:n])
        if _cast(values[:n], out[at : at + n], low, high):
            return True
    return False


@compiled
def cast_columns(columns: Array, out: Array, last: Any) -> bool:
    """Cast column numbers into `out`, of as many; tell whether any is not within ``[0, last]``."""
    for begin in range(0, columns.size, STEP):
        if _check(columns[begin : begin + STEP], out[begin : begin + STEP], last):
            return True
    return False


@compiled
def cast_column_planes(planes: Array, begin: int, bits: Array, columns: Array, out: Array, last: Any) -> bool:
    """Cast shuffled column numbers as `cast_columns` does; parameters as of `cast_planes`."""
    for at in range(0, out.size, STEP):
        n = min(STEP, out.size - at)
        join(planes, begin + at, bits[:n])
        if _check(columns[:n], out[at : at + n], last):
            return True
    return False


@compiled
def take_filled(block: Array, ends: Array, columns: Array, values: Array) -> int:
    """Take what is not zero out of dense rows ``(m, n_columns)``; return how much that is.

    Parameters
    ----------
    ends
        int64 ``(m,)``, filled: where each row ends.
    columns, values
        int64 and the block's type, with room for all of it; or empty, to count only.
    """
    at = 0
    for row in range(block.shape[0]):
        numbers = block[row]
        if values.size == 0:
            for column in range(numbers.size):
                at += numbers[column] != 0
        else:
            for column in range(numbers.size):
                # Written always and kept where it counts: cheaper than a branch that is guessed wrong.
                values[at], columns[at] = numbers[column], column
                at += numbers[column] != 0
        ends[row] = at
    return at


@compiled
def count_rows(rows: Array, counts: Array) -> bool:
    """Add to ``counts[row]``, int64 ``(n_rows,)``, for each of `rows`; tell whether any is not within."""
    for at in range(rows.size):
        row = rows[at]
        if row < 0 or row >= counts.size:
            return True
        counts[row] += 1
    return False


@compiled
def place_entries(
    rows: Array, columns: Array, values: Array, first_row: int, cursor: Array, ends: Array, to: Array, into: Array
) -> bool:
    """Put the entries of some rows where each row goes on; tell whether a row has more than were counted.

    Parameters
    ----------
    rows, columns, values
        ``(n,)``: entries in any order of rows; rows other than those from `first_row` on are skipped.
    cursor, ends
        int64 ``(n_rows,)``: where the next entry of each row goes, advanced; and where there is no more room.
    to, into
        Columns and values of the result.
    """
    for at in range(rows.size):
        row = np.int64(rows[at]) - first_row
        if row < 0 or row >= cursor.size:
            continue
        place = cursor[row]
        if place >= ends[row]:
            return True
        to[place], into[place] = columns[at], values[at]
        cursor[row] = place + 1
    return False
