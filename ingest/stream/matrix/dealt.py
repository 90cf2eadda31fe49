"""Entries in an unnamed file, by bundles of neighbouring lines, level by level: reading grows with them, not faster.

Every run of entries is sorted by bundles, of which there are a few hundred at most, and written in one go: where each
bundle ends, then, bundle by bundle, lines, places and values. Bundles that fit into a block together are read back from
all runs, one read each, and put into their lines; one that does not fit is dealt out again, into a file of its own. So
a read is of kilobytes at least, whatever the size of it all, there is a level more for some hundred times the entries,
and memory is that of a block.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ingest.fetch.h5ad_planes import bits_of
from ingest.stream.matrix.kernels import deal, place_dealt
from ingest.stream.matrix.lines import Lines, index_type, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from ingest.stream.matrix.work import Work

__all__ = ["Entries", "dealt_lines", "one_ahead"]

Array = np.ndarray[Any, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

_BUNDLES = 512
"""At most, a power of two."""
_LEAST_BUNDLES = 16
_LEAST_READ_BYTES = 16 << 10
"""Of one bundle in one run, about: fewer bundles where blocks are smaller."""
_NEAR = 16
"""Lines in a bundle are numbered in so many bits where that is enough."""
_MOST_VECTORS = 1000
"""Arrays in one system call; Linux takes 1,024."""
_BESIDE = 256
"""Bundles read together, three arrays each, in one such call."""


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Entries with the lines that they go to: ``(n,)`` each."""

    lines: Array
    """int32 or int64."""
    places: Array
    """Within the line."""
    values: Array


def dealt_lines(
    entries: Iterable[Entries], n_lines: int, kind: np.dtype[Any], scratch: Path, work: Work
) -> Iterator[Lines]:
    """Yield `n_lines` lines of entries that come in any order of lines; those of one line keep theirs.

    Parameters
    ----------
    kind
        Of places.
    scratch
        Folder for the file.

    Raises
    ------
    OSError
        It is full, or cannot be read.
    """
    with tempfile.TemporaryFile(dir=scratch, prefix=".cell-ingest-") as file:
        dealt = _Dealt(file.fileno(), n_lines, kind, scratch, work)
        with closing(one_ahead(work, dealt.add, _gathered(entries, work.block_entries // 2))) as added:
            for _ in added:
                pass
        yield from dealt.lines()


def one_ahead(work: Work, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in order; one call runs in a thread meanwhile, none any more when this is closed."""
    under_way: Future[Result] | None = None
    try:
        for item in items:
            before, under_way = under_way, None
            found = [] if before is None else [before.result()]
            under_way = work.pool.submit(function, item)
            yield from found
        if under_way is not None:
            yield under_way.result()
    finally:
        if under_way is not None:
            wait([under_way])  # a file that is closed under it may be another one's by then


def _gathered(entries: Iterable[Entries], least: int) -> Iterator[Entries]:
    """Yield `least` entries together or more, the last perhaps fewer: short runs would be many."""
    held: list[Entries] = []
    n_held = 0
    for some in entries:
        held.append(some)
        n_held += len(some.values)
        if n_held >= least:
            yield _joined(held)
            held, n_held = [], 0
    if n_held:
        yield _joined(held)


def _joined(held: list[Entries]) -> Entries:
    if len(held) == 1:
        return held[0]
    return Entries(*(np.concatenate([getattr(some, name) for some in held]) for name in Entries.__slots__))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring bundles, and the lines in them."""

    first: int
    last: int
    """Excluded."""
    line: int
    n_lines: int


class _Dealt:
    """One file of runs."""

    def __init__(self, descriptor: int, n_lines: int, kind: np.dtype[Any], scratch: Path, work: Work) -> None:
        self._descriptor, self._n_lines, self._kind = descriptor, n_lines, kind
        self._scratch, self._work = scratch, work
        most = min(max(work.block_bytes // _LEAST_READ_BYTES, _LEAST_BUNDLES), _BUNDLES)
        self._shift = max((max(n_lines, 1) - 1).bit_length() - most.bit_length() + 1, 0)
        self._near = np.dtype(np.uint16 if self._shift <= _NEAR else np.uint32)
        self._n_bundles = (n_lines + (1 << self._shift) - 1) >> self._shift
        self._totals = np.zeros(self._n_bundles, np.int64)
        self._runs = array("q")  # where each begins
        self._size = 0
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def add(self, entries: Entries) -> None:
        """Take entries, as a run."""
        n, self._dtype = len(entries.values), entries.values.dtype
        bits = bits_of(self._dtype)
        ends = np.zeros(self._n_bundles + 1, np.int64)
        nears, to, into = np.empty(n, self._near), np.empty(n, self._kind), np.empty(n, bits)
        deal(entries.lines, entries.places, entries.values.view(bits), self._shift, ends, nears, to, into)
        self._totals += np.diff(ends)
        self._runs.append(self._size)
        self._size += _write(self._descriptor, [_bytes(ends), *_cut((nears, to, into), ends)], self._size)

    def lines(self) -> Iterator[Lines]:
        """Yield all lines."""
        with closing(one_ahead(self._work, self._placed, self._stretches())) as placed:
            for stretch, lines in placed:
                if lines is None:
                    yield from self._again(stretch)
                else:
                    yield lines

    def _stretches(self) -> Iterator[_Stretch]:
        """Yield bundles that are read together: those that fit into a block, or one that does not."""
        most = self._work.block_entries
        # A stretch of every bundle in every run is noted while they are gathered: of few runs many, of many few.
        beside = max(min(_BESIDE, most // max(len(self._runs), 1)), 1)
        for start, stop in pieces(self._totals, most):
            for first in range(start, stop, beside):
                last = min(first + beside, stop)
                line = first << self._shift
                yield _Stretch(first, last, line, min(last << self._shift, self._n_lines) - line)

    def _again(self, one: _Stretch) -> Iterator[Lines]:
        """Yield the lines of a bundle that does not fit into a block."""
        for lines in dealt_lines(self._entries(one.first), one.n_lines, self._kind, self._scratch, self._work):
            yield Lines(one.line + lines.first, lines.indptr, lines.indices, lines.data)

    def _entries(self, bundle: int) -> Iterator[Entries]:
        for at in self._runs:
            ends = self._ends(at, bundle, bundle + 1)
            arrays = self._arrays(int(ends[1] - ends[0]))
            self._read(at, ends, arrays)
            nears, places, values = arrays
            yield Entries(nears.astype(index_type(1 << self._shift)), places, values.view(self._dtype))

    def _placed(self, stretch: _Stretch) -> tuple[_Stretch, Lines | None]:
        """Read bundles of all runs and put their entries into their lines; None where one has to be dealt out again."""
        first, last = stretch.first, stretch.last
        n_entries = int(self._totals[first:last].sum())
        if self._shift and n_entries > self._work.block_entries:
            return stretch, None
        arrays = nears, places, values = self._arrays(n_entries)
        at, lengths = 0, []
        for run in self._runs:
            ends = self._ends(run, first, last)
            n = int(ends[-1] - ends[0])
            self._read(run, ends, tuple(part[at : at + n] for part in arrays))
            at += n
            lengths.append(np.diff(ends))
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1, np.int64)
        bases = np.tile(np.arange(last - first, dtype=np.int64) << self._shift, len(lengths))
        ends, to, into = np.zeros(stretch.n_lines + 1, np.int64), np.empty_like(places), np.empty_like(values)
        place_dealt(nears, bases, starts, places, values, ends, to, into)
        return stretch, Lines(stretch.line, ends, to, into.view(self._dtype))

    def _arrays(self, n: int) -> tuple[Array, Array, Array]:
        return np.empty(n, self._near), np.empty(n, self._kind), np.empty(n, bits_of(self._dtype))

    def _ends(self, run: int, first: int, last: int) -> Array:
        ends = np.empty(last - first + 1, np.int64)
        _read(self._descriptor, [_bytes(ends)], run + first * ends.itemsize)
        return ends

    def _read(self, run: int, ends: Array, arrays: tuple[Array, ...]) -> None:
        """Read neighbouring bundles of one run."""
        entry_bytes = sum(part.itemsize for part in arrays)
        at = run + (self._n_bundles + 1) * ends.itemsize + int(ends[0]) * entry_bytes
        _read(self._descriptor, _cut(arrays, ends - ends[0]), at)


def _cut(arrays: tuple[Array, ...], ends: Array) -> list[memoryview]:
    """Return bundle after bundle of arrays side by side, as they lie in the file."""
    bounds = ends.tolist()
    wholes = [(_bytes(part), part.itemsize) for part in arrays]
    return [
        whole[start * size : stop * size] for start, stop in pairwise(bounds) if start < stop for whole, size in wholes
    ]


def _bytes(part: Array) -> memoryview:
    return part.view(np.uint8).data


def _write(descriptor: int, views: list[memoryview], at: int) -> int:
    """Write all of `views`, one after the other; return how many bytes."""
    begin = at
    while views:
        at += (done := os.pwritev(descriptor, views[:_MOST_VECTORS], at))
        views = _rest(views, done)
    return at - begin


def _read(descriptor: int, views: list[memoryview], at: int) -> None:
    """Fill all of `views`."""
    while views:
        at += (done := os.preadv(descriptor, views[:_MOST_VECTORS], at))
        if not done:
            raise OSError("the scratch file is shorter than what was written to it")
        views = _rest(views, done)


def _rest(views: list[memoryview], done: int) -> list[memoryview]:
    """Return what is left of `views` after so many bytes."""
    for number, view in enumerate(views):
        if done < len(view):
            return [view[done:], *views[number + 1 :]]
        done -= len(view)
    return []
