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

__all__ = [
    "MAX_COUNT",
    "CountsSummary",
    "RowsSummary",
    "check_counts",
    "check_indptr",
    "check_rows",
    "row_sums",
    "value_fault",
]

Array = np.ndarray[Any, Any]

MAX_COUNT = 2**31 - 1
"""Largest count believed: more in one gene of one cell is damage, and below it sums of a block fit int64."""


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


@dataclass(frozen=True, slots=True, eq=False)
class RowsSummary:
    """What one pass over checked rows found."""

    total: int | float
    """Sum of all values; an exact int when all are whole."""
    maximum: int | float
    """Largest value; 0 when nothing is stored."""
    n_zeros: int
    """Stored zeros."""
    integer: bool
    """Whether all values are whole; False only with fractions allowed."""
    sums: Array
    """``(n_cells,)``: int64 for integer values, else float64, which is exact for whole values below 2**53."""
    nnz: np.ndarray[Any, np.dtype[np.int32]]
    """int32 ``(n_cells,)``: stored entries of each row."""


@compiled
def _indptr_fault(indptr: Array) -> int:
    for row in range(indptr.size - 1):
        if indptr[row + 1] < indptr[row]:
            return row
    return -1


@compiled
def _check_rows(
    indptr: Array, indices: Array, data: Array, n_genes: int, limit: Any, sums: Array, nnz: Array
) -> tuple[int, Any, Any, int]:
    # Row by row, so that the second and third look at an entry find it in the nearest cache. Branch-free inside a
    # row, so that it vectorises: a value out of range is never converted.
    total, maximum, zeros = np.int64(0), np.int32(0), 0
    for row in range(indptr.size - 1):
        columns, values = indices[indptr[row] : indptr[row + 1]], data[indptr[row] : indptr[row + 1]]
        nnz[row] = columns.size
        bad = columns.size > 0 and (columns[0] < 0 or columns[columns.size - 1] >= n_genes)
        for i in range(columns.size - 1):
            bad |= columns[i + 1] <= columns[i]
        row_total = np.int64(0)
        for i in range(values.size):
            value = values[i]
            believable = value >= 0 and value < limit
            whole = np.int32(value) if believable else np.int32(0)
            bad |= not believable or data.dtype.type(whole) != value
            row_total += whole
            maximum = max(maximum, whole)
            zeros += whole == 0
        if bad:
            return row, 0, 0, 0
        sums[row] = row_total
        total += row_total
    return -1, total, maximum, zeros


@compiled
def _scan_fractions(indptr: Array, data: Array, sums: Array) -> tuple[int, float, float, int, bool]:
    total, maximum, zeros, whole = 0.0, 0.0, 0, True
    for row in range(indptr.size - 1):
        row_total = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            value = data[at]
            if not (value >= 0 and value < np.inf):
                return row, 0.0, 0.0, 0, False
            row_total += value
            maximum = max(maximum, value)
            zeros += value == 0
            whole &= value == np.floor(value)
        sums[row] = row_total
        total += row_total
    return -1, total, maximum, zeros, whole


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
    """Check structure and values of `counts` ``(n_cells, n_genes)``; 0.03 s for 50 million entries.

    Raises
    ------
    HostileFileError, NotCountsError
        As `check_rows`, whose arguments these are.
    """
    found = check_rows(counts, source=source, allow_noninteger=allow_noninteger)
    return CountsSummary(found.total, found.maximum, len(counts.data), found.n_zeros, found.integer)


def check_rows(counts: Counts, *, source: str, allow_noninteger: bool = False, first_row: int = 0) -> RowsSummary:
    """Check structure and values of `counts` ``(n_cells, n_genes)`` and add them up, in one pass.

    Parameters
    ----------
    counts
        Indices int32 or int64, values float32, float64 or integers of up to 64 bits.
    source
        Named in errors.
    allow_noninteger
        Let fractional values pass; NaN, infinite and negative ones never do.
    first_row
        Number of the first row, for errors: `counts` may be a piece of something longer.

    Raises
    ------
    HostileFileError
        The structure breaks a rule; the message names row and place.
    NotCountsError
        A value is no count; the message names row (cell) and column (gene).
    """
    indptr, data = counts.indptr, counts.data
    if len(counts.indices) != len(data):
        message = f"{source}: {len(counts.indices)} indices for {len(data)} values"
        raise HostileFileError(message, kind="matrix-lengths", source=source)
    check_indptr(indptr, len(data), source=source)
    sums = np.empty(counts.n_cells, np.float64 if data.dtype.kind == "f" else np.int64)
    nnz = np.empty(counts.n_cells, np.int32)
    bad, total, maximum, zeros = _check_rows(indptr, counts.indices, data, counts.n_genes, _limit(data), sums, nnz)
    if bad < 0:
        return RowsSummary(int(total), int(maximum), int(zeros), True, sums, nnz)
    if (row := _structure_fault(counts, bad)) >= 0:
        raise _structure_error(counts, row, source, first_row)
    if not allow_noninteger or data.dtype.kind != "f":
        raise _value_error(counts, bad, source, first_row, allow_noninteger=False)
    bad, total, maximum, zeros, integer = _scan_fractions(indptr, data, sums)
    if bad >= 0:
        raise _value_error(counts, bad, source, first_row, allow_noninteger=True)
    return RowsSummary(total, maximum, int(zeros), bool(integer), sums, np.diff(indptr).astype(np.int32))


def row_sums(counts: Counts) -> tuple[Array, Array]:
    """Return (sums, nnz) of each row of checked counts, both ``(n_cells,)``: those of `check_rows`, fractions allowed.

    Sums are int64 for integer values, else float64, which is exact for whole values below 2**53; nnz is int32.
    """
    found = check_rows(counts, source="checked counts", allow_noninteger=True)
    return found.sums, found.nnz


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


def _structure_fault(counts: Counts, row: int) -> int:
    """Return the first row from `row` on whose columns break a rule, or -1."""
    for at in range(row, counts.n_cells):
        columns = counts.indices[counts.indptr[at] : counts.indptr[at + 1]]
        if len(columns) and (columns[0] < 0 or columns[-1] >= counts.n_genes or (columns[1:] <= columns[:-1]).any()):
            return at
    return -1


def _structure_error(counts: Counts, row: int, source: str, first_row: int) -> HostileFileError:
    columns = counts.indices[counts.indptr[row] : counts.indptr[row + 1]].astype(np.int64)
    outside = np.flatnonzero((columns < 0) | (columns >= counts.n_genes))
    if len(outside):
        what, kind = f"column {columns[outside[0]]} of {counts.n_genes}", "index-range"
    elif len(np.unique(columns)) < len(columns):
        values, times = np.unique(columns, return_counts=True)
        what, kind = f"column {values[times > 1][0]} stands twice", "duplicate-entry"
    else:
        what, kind = f"columns do not ascend at {columns[np.flatnonzero(np.diff(columns) < 0)[0]]}", "unsorted-row"
    return HostileFileError(f"{source}: row {first_row + row}: {what}", kind=kind, source=source)


def _value_error(counts: Counts, row: int, source: str, first_row: int, *, allow_noninteger: bool) -> NotCountsError:
    at, kind = next(
        (at, kind)
        for at in range(counts.indptr[row], len(counts.data))
        if (kind := value_fault(counts.data[at].item(), allow_noninteger=allow_noninteger))
    )
    row = int(np.searchsorted(counts.indptr, at, side="right")) - 1
    value = counts.data[at].item()
    message = (
        f"{source}: row {first_row + row}, column {counts.indices[at]} holds {value!r} ({kind}), which is no count"
    )
    hint = (
        "allow fractions with --allow-noninteger, or name the layer of counts with --layer"
        if kind == "fractional"
        else None
    )
    return NotCountsError(message, kind=kind, hint=hint, source=source)
