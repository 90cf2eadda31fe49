"""Proof that a matrix is what it says: a sound CSR structure holding counts. Compiled, always on.

Rules, each the ``kind`` of the error that breaks it: ``matrix-lengths``, ``indptr-start``, ``indptr-order``,
``indptr-end``, ``index-range``, ``unsorted-row``, ``duplicate-entry`` (structure), ``nan``, ``infinite``,
``negative``, ``fractional``, ``count-overflow`` (values). Stored zeros are no fault: they change no count. The fetchers
drop them, so that ``nnz`` means non-zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import HostileFileError, NotCountsError
from ingest.fetch.kernels import compiled

if TYPE_CHECKING:
    from ingest.block import Counts

__all__ = ["MAX_COUNT", "CountsSummary", "check_counts", "check_indptr", "row_sums", "value_fault"]

Array = np.ndarray[Any, Any]

MAX_COUNT = 2**31 - 1
"""Largest count believed: more in one gene of one cell is damage, and below it sums of a block fit int64."""

_STEP = 8192


@dataclass(frozen=True, slots=True)
class CountsSummary:
    """What one pass over checked counts found."""

    total: int | float
    """Sum of all values; an exact int when all are whole."""
    maximum: int | float
    """Largest value; 0 when nothing is stored."""
    nnz: int
    """Stored entries."""
    n_zeros: int
    """Of these, zeros."""
    integer: bool
    """Whether all values are whole; False only with fractions allowed."""


@compiled
def _indptr_fault(indptr: Array) -> int:
    for row in range(indptr.size - 1):
        if indptr[row + 1] < indptr[row]:
            return row
    return -1


@compiled
def _index_fault(indptr: Array, indices: Array, n_genes: int) -> int:
    for row in range(indptr.size - 1):
        begin, end = indptr[row], indptr[row + 1]
        if begin == end:
            continue
        bad = indices[begin] < 0 or indices[end - 1] >= n_genes
        for at in range(begin + 1, end):
            bad |= indices[at] <= indices[at - 1]
        if bad:
            return row
    return -1


@compiled
def _scan_whole(data: Array, limit: Any) -> tuple[int, Any, Any, int]:
    # Branch-free inside a step so that it vectorises: a float out of range is never converted.
    total, maximum, zeros = np.int64(0), np.int32(0), 0
    for begin in range(0, data.size, _STEP):
        bad = False
        for at in range(begin, min(begin + _STEP, data.size)):
            value = data[at]
            believable = value >= 0 and value < limit
            whole = np.int32(value) if believable else np.int32(0)
            bad |= not believable or data.dtype.type(whole) != value
            total += whole
            maximum = max(maximum, whole)
            zeros += whole == 0
        if bad:
            return begin, 0, 0, 0
    return -1, total, maximum, zeros


@compiled
def _scan_any(data: Array) -> tuple[int, float, float, int, bool]:
    total, maximum, zeros, whole = 0.0, 0.0, 0, True
    for at in range(data.size):
        value = data[at]
        if not (value >= 0 and value < np.inf):
            return at, 0.0, 0.0, 0, False
        total += value
        maximum = max(maximum, value)
        zeros += value == 0
        whole &= value == np.floor(value)
    return -1, total, maximum, zeros, whole


@compiled
def _sum_rows(indptr: Array, data: Array, sums: Array) -> None:
    for row in range(indptr.size - 1):
        total = sums[row]
        for at in range(indptr[row], indptr[row + 1]):
            total += data[at]
        sums[row] = total


def check_indptr(indptr: Array, nnz: int, *, source: str) -> None:
    """Check row (or column) pointers ``(n + 1,)``, int64, against the number of stored entries.

    Raises
    ------
    HostileFileError
        ``indptr-start``, ``indptr-order`` or ``indptr-end``.
    """
    if len(indptr) == 0 or indptr[0] != 0:
        start = "is empty" if len(indptr) == 0 else f"starts at {indptr[0]}, not 0"
        raise HostileFileError(f"{source}: indptr {start}", kind="indptr-start", source=source)
    if (row := _indptr_fault(indptr)) >= 0:
        message = f"{source}: indptr falls from {indptr[row]} to {indptr[row + 1]} at {row}"
        raise HostileFileError(message, kind="indptr-order", source=source)
    if indptr[-1] != nnz:
        message = f"{source}: indptr ends at {indptr[-1]}, but {nnz} entries are stored"
        raise HostileFileError(message, kind="indptr-end", source=source)


def check_counts(counts: Counts, *, source: str, allow_noninteger: bool = False) -> CountsSummary:
    """Check structure and values of `counts` ``(n_cells, n_genes)``; 0.1 s for 50 million entries.

    Parameters
    ----------
    counts
        Indices int32 or int64, values float32, float64 or integers of up to 64 bits.
    source
        Named in errors.
    allow_noninteger
        Let fractional values pass; NaN, infinite and negative ones never do.

    Raises
    ------
    HostileFileError
        The structure breaks a rule; the message names row and place.
    NotCountsError
        A value is no count; the message names row (cell) and column (gene).
    """
    if len(counts.indices) != len(counts.data):
        message = f"{source}: {len(counts.indices)} indices for {len(counts.data)} values"
        raise HostileFileError(message, kind="matrix-lengths", source=source)
    check_indptr(counts.indptr, len(counts.data), source=source)
    if (row := _index_fault(counts.indptr, counts.indices, counts.n_genes)) >= 0:
        raise _structure_error(counts, row, source)
    if allow_noninteger and counts.data.dtype.kind == "f":
        place, total, maximum, zeros, integer = _scan_any(counts.data)
        if place >= 0:
            raise _value_error(counts, place, source, allow_noninteger=True)
        if integer and maximum <= MAX_COUNT:
            _, total, maximum, _ = _scan_whole(counts.data, _limit(counts.data))
            total, maximum = int(total), int(maximum)
        return CountsSummary(total, maximum, len(counts.data), int(zeros), bool(integer))
    place, total, maximum, zeros = _scan_whole(counts.data, _limit(counts.data))
    if place >= 0:
        raise _value_error(counts, place, source, allow_noninteger=False)
    return CountsSummary(int(total), int(maximum), len(counts.data), int(zeros), integer=True)


def row_sums(counts: Counts) -> tuple[Array, Array]:
    """Return (sums, nnz) of each row of checked counts, both ``(n_cells,)``.

    Sums are int64 for integer values, else float64, which is exact for whole values below 2**53; nnz is int32.
    """
    sums = np.zeros(counts.n_cells, np.float64 if counts.data.dtype.kind == "f" else np.int64)
    _sum_rows(counts.indptr, counts.data, sums)
    return sums, np.diff(counts.indptr).astype(np.int32)


def value_fault(value: float, *, allow_noninteger: bool = False) -> str | None:
    """Return the rule that `value` breaks as a count, or None where it is one."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "infinite"
    if value < 0:
        return "negative"
    if allow_noninteger:
        return None
    if value != math.floor(value):
        return "fractional"
    return "count-overflow" if value > MAX_COUNT else None


def _limit(data: Array) -> Any:
    return data.dtype.type(2.0**31) if data.dtype.kind == "f" else np.int64(2**31)


def _structure_error(counts: Counts, row: int, source: str) -> HostileFileError:
    columns = counts.indices[counts.indptr[row] : counts.indptr[row + 1]].astype(np.int64)
    outside = np.flatnonzero((columns < 0) | (columns >= counts.n_genes))
    if len(outside):
        what, kind = f"column {columns[outside[0]]} of {counts.n_genes}", "index-range"
    elif len(np.unique(columns)) < len(columns):
        values, times = np.unique(columns, return_counts=True)
        what, kind = f"column {values[times > 1][0]} stands twice", "duplicate-entry"
    else:
        what, kind = f"columns do not ascend at {columns[np.flatnonzero(np.diff(columns) < 0)[0]]}", "unsorted-row"
    return HostileFileError(f"{source}: row {row}: {what}", kind=kind, source=source)


def _value_error(counts: Counts, place: int, source: str, *, allow_noninteger: bool) -> NotCountsError:
    faults = (
        (at, value_fault(counts.data[at].item(), allow_noninteger=allow_noninteger))
        for at in range(place, len(counts.data))
    )
    at, kind = next((at, kind) for at, kind in faults if kind)
    row = int(np.searchsorted(counts.indptr, at, side="right")) - 1
    message = (
        f"{source}: row {row}, column {counts.indices[at]} holds {counts.data[at].item()!r} ({kind}), which is no count"
    )
    hint = (
        "allow fractions with --allow-noninteger, or name the layer of counts with --layer"
        if kind == "fractional"
        else None
    )
    return NotCountsError(message, kind=kind, hint=hint, source=source)
