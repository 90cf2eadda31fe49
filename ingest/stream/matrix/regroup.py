"""Entries dealt out to other lines in bounded memory: transposed matrices, rows in another order.

What fits into a block is dealt out there. Otherwise entries go, block by block, to an unnamed file beside the output,
sorted by bundles of neighbouring lines; then as many bundles as fit are read back from all blocks and their entries put
into their lines. So the source is read once, whatever its size, and memory is that of a block. Lines keep the order in
which their entries come.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ingest.fetch.h5ad_planes import bits_of
from ingest.stream.files import writing
from ingest.stream.matrix.kernels import deal, place_dealt, spread, transpose
from ingest.stream.matrix.lines import Lines, index_type, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from ingest.stream.matrix.work import Work

__all__ = ["Entries", "regrouped", "reordered", "transposed"]

Array = np.ndarray[Any, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

_BUNDLES = 4096
"""At most, and lines in each are numbered in 16 bits where that is enough."""
_NEAR = 16


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Entries with the lines that they go to: ``(n,)`` each."""

    lines: Array
    """int64."""
    places: Array
    """Within the line."""
    values: Array


def transposed(
    blocks: Iterable[Lines], n_lines: int, nnz: int, n_new: int, scratch: Path, work: Work
) -> Iterator[Lines]:
    """Yield the columns of rows, or the rows of columns.

    Parameters
    ----------
    n_lines, nnz
        Of all `blocks` together; of entries there may be fewer.
    n_new
        Lines to come: indices are below it.
    scratch
        Folder for what does not fit into a block.
    """
    kind = index_type(n_lines)
    if nnz <= _most(work):
        for block in _whole(blocks):
            yield from _parted(_turned(block, n_new, kind), work)
        return

    def entries() -> Iterator[Entries]:
        for block in blocks:
            numbers = np.empty(block.nnz, kind)
            spread(block.indptr, np.arange(block.first, block.first + len(block), dtype=kind), numbers)
            yield Entries(block.indices, numbers, block.data)

    yield from regrouped(entries(), n_new, n_lines, scratch, work)


def reordered(blocks: Iterable[Lines], ranks: Array, n_places: int, scratch: Path, work: Work) -> Iterator[Lines]:
    """Yield lines in another order.

    Parameters
    ----------
    ranks
        int64 ``(n_lines,)``: a permutation, where each line of `blocks` goes.
    n_places
        Indices are below it.
    """

    def entries() -> Iterator[Entries]:
        for block in blocks:
            lines = np.empty(block.nnz, np.int64)
            spread(block.indptr, ranks[block.first : block.first + len(block)], lines)
            yield Entries(lines, block.indices, block.data)

    yield from regrouped(entries(), len(ranks), n_places, scratch, work)


def regrouped(entries: Iterable[Entries], n_lines: int, n_places: int, scratch: Path, work: Work) -> Iterator[Lines]:
    """Yield `n_lines` lines of entries that come in any order of lines.

    Raises
    ------
    ConfigError
        ``disk-full``: the scratch folder is.
    """
    with writing(scratch / "scratch"), tempfile.TemporaryFile(dir=scratch, prefix=".cell-ingest-") as file:
        dealt = _Dealt(file.fileno(), n_lines, index_type(n_places), work)
        with closing(_one_ahead(work, dealt.add, entries)) as added:
            for _ in added:
                pass
        with closing(_one_ahead(work, dealt.gathered, dealt.parts())) as gathered:
            for block in gathered:
                yield from _parted(block, work)


def _one_ahead(work: Work, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
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


def _most(work: Work) -> int:
    return max(work.block_bytes // 8, 1)


def _whole(blocks: Iterable[Lines]) -> Iterator[Lines]:
    """Yield all blocks as one; where there is none, an empty one: there may be lines to come all the same."""
    held = list(blocks) or [Lines(0, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))]
    if len(held) == 1:
        yield held[0]
        return
    ends = np.cumsum([0, *(block.nnz for block in held)])
    indptr = [block.indptr[:-1] + end for block, end in zip(held, ends.tolist(), strict=False)]
    yield Lines(
        0,
        np.concatenate([*indptr, ends[-1:]]),
        np.concatenate([block.indices for block in held]),
        np.concatenate([block.data for block in held]),
    )


def _turned(block: Lines, n_new: int, kind: np.dtype[Any]) -> Lines:
    ends, to, into = np.zeros(n_new + 1, np.int64), np.empty(block.nnz, kind), np.empty(block.nnz, block.data.dtype)
    bits = bits_of(into.dtype)
    numbers = np.arange(block.first, block.first + len(block), dtype=kind)
    transpose(numbers, block.indptr, block.indices, block.data.view(bits), ends, to, into.view(bits))
    return Lines(0, ends, to, into)


def _parted(lines: Lines, work: Work) -> Iterator[Lines]:
    most = _most(work)
    for begin, end in pieces(np.diff(lines.indptr), most):
        yield lines.part(begin, end)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Where the entries of one block lie in the file, by bundles."""

    at: int
    ends: Array
    """int64 ``(n_bundles + 1,)``: entries."""


class _Dealt:
    """Entries in a file, by bundles of lines."""

    def __init__(self, descriptor: int, n_lines: int, kind: np.dtype[Any], work: Work) -> None:
        self._descriptor, self._n_lines, self._kind, self._work = descriptor, n_lines, kind, work
        self._shift = max((max(n_lines, 1) - 1).bit_length() - _BUNDLES.bit_length() + 1, 0)
        self._near = np.dtype(np.uint16 if self._shift <= _NEAR else np.uint32)
        self._n_bundles = (n_lines + (1 << self._shift) - 1) >> self._shift
        self._totals = np.zeros(self._n_bundles, np.int64)
        self._runs: list[_Run] = []
        self._size = 0
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def add(self, entries: Entries) -> None:
        """Take entries."""
        n, self._dtype = len(entries.values), entries.values.dtype
        if not n:
            return
        bits = bits_of(self._dtype)
        ends = np.zeros(self._n_bundles + 1, np.int64)
        nears, to, into = np.empty(n, self._near), np.empty(n, self._kind), np.empty(n, bits)
        deal(entries.lines, entries.places, entries.values.view(bits), self._shift, ends, nears, to, into)
        self._totals += np.diff(ends)
        self._runs.append(_Run(self._size, ends))
        for part in (nears, to, into):
            self._write(part)

    def _write(self, part: Array) -> None:
        view = part.view(np.uint8).data
        while view:
            done = os.pwrite(self._descriptor, view, self._size)
            self._size, view = self._size + done, view[done:]

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of bundles that fit in memory together."""
        yield from pieces(self._totals, _most(self._work))

    def gathered(self, bundles: tuple[int, int]) -> Lines:
        """Return the lines of a range of bundles."""
        first, last = bundles
        line = first << self._shift
        n_lines = min(last << self._shift, self._n_lines) - line
        n = int(self._totals[first:last].sum())
        bits = bits_of(self._dtype)
        nears, places, values = np.empty(n, self._near), np.empty(n, self._kind), np.empty(n, bits)
        at, lengths = 0, []
        for run in self._runs:
            start, stop = int(run.ends[first]), int(run.ends[last])
            self._read(run, start, nears[at : at + stop - start], places[at : at + stop - start], values[at:])
            at += stop - start
            lengths.append(np.diff(run.ends[first : last + 1]))
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1, np.int64)
        bases = np.tile(np.arange(last - first, dtype=np.int64) << self._shift, len(lengths))
        ends, to, into = np.zeros(n_lines + 1, np.int64), np.empty(n, self._kind), np.empty(n, bits)
        place_dealt(nears, bases, starts, places, values, ends, to, into)
        return Lines(line, ends, to, into.view(self._dtype))

    def _read(self, run: _Run, start: int, nears: Array, places: Array, values: Array) -> None:
        n, total, at = len(nears), int(run.ends[-1]), run.at
        for part in (nears, places, values[:n]):
            view, offset = part.view(np.uint8).data, at + start * part.itemsize
            while view:
                done = os.preadv(self._descriptor, [view], offset)
                if not done:
                    raise OSError("the scratch file is shorter than what was written to it")
                view, offset = view[done:], offset + done
            at += total * part.itemsize
