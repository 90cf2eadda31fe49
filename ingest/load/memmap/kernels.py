"""Compiled passes over mapped arrays: rows from anywhere, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = ["is_ascending", "take_columns", "take_values"]

Array = np.ndarray[Any, Any]


@compiled
def take_values(source: Array, begins: Array, indptr: Array, out: Array) -> None:
    """Copy spans of `source` into `out`, one after the other.

    Parameters
    ----------
    source
        ``(n,)``, unsigned, read-only.
    begins
        int64 ``(n_spans,)``: where each begins.
    indptr
        int64 ``(n_spans + 1,)``: where each goes.
    out
        ``(indptr[-1],)``, of the type of `source`.
    """
    for span in range(begins.size):
        at, begin = indptr[span], begins[span]
        n = indptr[span + 1] - at
        to, of = out[at : at + n], source[begin : begin + n]
        for entry in range(n):
            to[entry] = of[entry]


@compiled
def take_columns(source: Array, begins: Array, indptr: Array, out: Array) -> Any:
    """Do the same with columns, into int32; return the largest, -1 of none."""
    largest = np.int64(-1)
    for span in range(begins.size):
        at, begin = indptr[span], begins[span]
        n = indptr[span + 1] - at
        to, of = out[at : at + n], source[begin : begin + n]
        most = np.uint32(0)
        for entry in range(n):
            column = np.uint32(of[entry])
            to[entry] = column
            most = max(most, column)
        if n:
            largest = max(largest, np.int64(most))
    return largest


@compiled
def is_ascending(indptr: Array, columns: Array) -> bool:
    """Return whether columns ascend within every row."""
    for row in range(indptr.size - 1):
        mine = columns[indptr[row] : indptr[row + 1]]
        wrong = False
        for at in range(1, mine.size):
            wrong |= mine[at] <= mine[at - 1]
        if wrong:
            return False
    return True
