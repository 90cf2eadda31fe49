"""Rows out of entries that come column by column: as many rows at a time as memory holds, each time all columns.

Reading a file once for every gigabyte of it is slower than dealing entries out to files of row ranges, as
`ingest.fetch.h5ad_scratch` does, only when there are many gigabytes; and it needs no disk beside the archive's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.fetch.h5ad_slabs import plan_runs
from ingest.fetch.h5ad_stored import Stored
from ingest.load.memmap.convert.h5ad_cast import Harms, ValueCast
from ingest.load.memmap.convert.h5ad_kernels import place_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.load.memmap.convert.base import Place
    from ingest.load.memmap.convert.h5ad_matrix import Arrays

__all__ = ["Cells", "Columnwise", "frozen", "write_rows"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Some entries: ``(n,)`` each."""

    rows: Array
    """int64, of the source."""
    columns: Array
    """Ascending."""
    values: Array

    @classmethod
    def of(cls, rows: Array, columns: Array, values: Array) -> Cells:
        """Return entries, whatever the arrays."""
        return cls(frozen(rows), frozen(columns), frozen(values))


def frozen(array: Array) -> Array:
    """Return `array`, read-only from now on: numba compiles for those and for writable ones apart."""
    array.flags.writeable = False
    return array


class Columnwise(Protocol):
    """Entries of a matrix in an order in which columns ascend."""

    @property
    def value_dtype(self) -> Any:
        """Of the values."""
        ...

    def cells(self, first_row: int, last_row: int) -> Iterator[Cells]:
        """Yield the entries of rows ``[first_row, last_row)``."""
        ...

    def changed(self) -> Exception:
        """Make the error of a source that gives other entries than it gave when they were counted."""
        ...


def write_rows(
    source: Columnwise,
    ends: Array,
    place: Place,
    into: Arrays,
    *,
    tolerance: float,
    memory_bytes: int,
    reached: Callable[[int], None],
) -> Harms:
    """Write rows, their columns ascending, in passes over the source.

    Parameters
    ----------
    ends
        int64 ``(place.n_rows + 1,)``: where entries of each row begin, and where the last ones end, from 0.
    memory_bytes
        Of the rows of one pass; a single row may exceed it.
    """
    entry_bytes = np.dtype(into.spec.data).itemsize + np.dtype(into.spec.columns).itemsize
    cast, harms = ValueCast(source.value_dtype, into.spec.data, tolerance), Harms()
    most = max(memory_bytes // entry_bytes, 1)
    into.write_row_ends(place.row_at, ends[1:] + place.entry_at)
    for run in plan_runs(ends[:-1], ends[1:], np.arange(place.n_rows), merge=0, most=most):
        part = ends[run.first : run.last + 1]
        columns, values = _placed(source, cast, place.first_row + run.first, part, into.spec.columns, harms)
        into.write_columns(place.entry_at + int(part[0]), columns)
        into.write_values(place.entry_at + int(part[0]), values)
        reached(run.last)
    return harms


def _placed(
    source: Columnwise, cast: ValueCast, first_row: int, ends: Array, column_type: str, harms: Harms
) -> tuple[Array, Array]:
    """Return columns and values of the rows from `first_row` on that end at `ends`."""
    last_row, cursor = first_row + len(ends) - 1, ends[:-1] - ends[0]
    n = int(ends[-1] - ends[0])
    columns, values = np.empty(n, column_type), np.empty(n, cast.target)
    bits = np.dtype(f"u{cast.target.itemsize}")  # one kernel for all types of a width; numba has no half precision
    for cells in source.cells(first_row, last_row):
        out = np.empty(len(cells.values), cast.target)
        harm = cast.into(Stored(cells.values, 0, len(out), 0), out)
        harms.add(harm and harm.of(cells.rows.item))
        room = ends[1:] - ends[0]
        if place_entries(
            cells.rows, cells.columns, out.view(bits), first_row, cursor, room, columns, values.view(bits)
        ):
            raise source.changed()
    if not np.array_equal(cursor, ends[1:] - ends[0]):
        raise source.changed()
    return columns, values
