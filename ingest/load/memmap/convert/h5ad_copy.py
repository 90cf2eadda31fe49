"""Copy the stored entries of some rows of a CSR matrix into an archive: stretch by stretch, on a few threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap.convert.h5ad_cast import Harms, ValueCast, put_columns
from ingest.ordered_map import map_ordered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.fetch.h5ad_stored import Stored, StoredArray, Stretch
    from ingest.load.memmap.convert.h5ad_cast import Harm
    from ingest.load.memmap.convert.h5ad_matrix import Arrays

__all__ = ["copy_entries", "usable_threads"]

Array = np.ndarray[Any, Any]

_COPIES = 3
"""Of what is decoded together: packed, decoded, cast."""


@dataclass(frozen=True, slots=True, eq=False)
class _Copying:
    """One copy under way."""

    values: StoredArray
    columns: StoredArray
    n_columns: int
    cast: ValueCast
    into: Arrays
    shift: int
    """From an entry of the source to one of the archive."""

    def __call__(self, task: tuple[bool, Stretch]) -> tuple[bool, Stretch, Harm | None]:
        of_values, stretch = task
        if of_values:
            return True, stretch, self._put_values(stretch)
        self._put_columns(stretch)
        return False, stretch, None

    def _put_values(self, stretch: Stretch) -> Harm | None:
        out = np.empty(stretch.stop - stretch.start, self.cast.target)
        harms = Harms()
        for stored in self.values.read(stretch):
            harms.add(self.cast.into(stored, _part(out, stretch, stored)))
        self.into.write_values(self.shift + stretch.start, out)
        return harms.total

    def _put_columns(self, stretch: Stretch) -> None:
        out = np.empty(stretch.stop - stretch.start, self.into.spec.columns)
        for stored in self.columns.read(stretch):
            put_columns(stored, self.columns.dtype, _part(out, stretch, stored), self.n_columns)
        self.into.write_columns(self.shift + stretch.start, out)


def copy_entries(
    values: StoredArray,
    columns: StoredArray,
    entries: range,
    *,
    n_columns: int,
    into: Arrays,
    entry_at: int,
    tolerance: float,
    threads: int,
    done: Callable[[int], None],
) -> Harms:
    """Copy `entries` to those from `entry_at` on, cast to the archive's types; return what that does to values.

    Parameters
    ----------
    threads
        That read, inflate, cast and write.
    done
        Is told up to which entry all is written, ascending.

    Raises
    ------
    OutsideError
        A column is none of `n_columns`.
    HostileFileError, TransientError
        The file is damaged, or cannot be read.
    """
    cast = ValueCast(values.dtype, into.spec.data, tolerance)
    copying = _Copying(values, columns, n_columns, cast, into, entry_at - entries.start)
    tasks = _in_turn(values.stretches(entries.start, entries.stop), columns.stretches(entries.start, entries.stop))
    harms, reached = Harms(), {True: entries.start, False: entries.start}
    with ThreadPoolExecutor(threads, "cell-ingest-copy") as pool:
        copied = map_ordered(pool, copying, tasks, ahead=2 * threads) if threads > 1 else map(copying, tasks)
        for of_values, stretch, harm in copied:
            harms.add(harm)
            reached[of_values] = stretch.stop
            done(min(reached.values()))
    return harms


def usable_threads(threads: int, *arrays: StoredArray, memory_bytes: int) -> int:
    """Return how many of `threads` have room for what they decode at once."""
    largest = max(array.block_bytes for array in arrays)
    return max(min(threads, memory_bytes // (largest * _COPIES)), 1)


def _in_turn(values: Iterator[Stretch], columns: Iterator[Stretch]) -> Iterator[tuple[bool, Stretch]]:
    """Yield the stretches of both arrays, the one that is behind first: so both files grow, and one reads ahead."""
    return merge(((True, one) for one in values), ((False, one) for one in columns), key=lambda task: task[1].start)


def _part(out: Array, stretch: Stretch, stored: Stored) -> Array:
    begin = stored.at - stretch.start
    return out[begin : begin + stored.end - stored.begin]
