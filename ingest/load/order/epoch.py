"""One epoch of one rank as data: which cells, in which order, cut into batches, without any of them being read.

::

    the cells wanted, in order of place    | | | | | | | | |        blocks of neighbours, read in one piece
    blocks in the epoch's order            |5|1|7|0|2|8|3|…
    dealt to the ranks                     |  rank 0   |  rank 1   | …      equally many cells, or one more
    a rank's windows                       |     |     |            read together, their cells shuffled: the buffer
    batches                                | | | | | | |            a window has a whole number of them

Everything is a pure function of (seed, epoch, rank, world size) and of the cells: any batch can be found without those
before it, which is what resuming does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError
from ingest.load.order.draws import permutation

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Batching", "Blocks", "EpochOrder", "Window", "share_of"]

Rows = np.ndarray[Any, np.dtype[np.int64]]

_OF_BLOCKS, _IN_WINDOW = 1, 2
"""Names of streams: what is drawn for one purpose says nothing of the other."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How many cells a batch, a block and a window have.

    Raises
    ------
    ConfigError
        Fewer than one.
    """

    batch_cells: int
    block_cells: int = 1
    """Neighbours that stay together until the window shuffles them."""
    window_cells: int = 1
    """At least so many cells are shuffled with each other; rounded up to whole batches."""
    drop_last: bool = False
    """Leave out what does not fill a batch on every rank."""

    def __post_init__(self) -> None:
        for name in ("batch_cells", "block_cells", "window_cells"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: at least one cell", kind="bad-batching")

    @property
    def window_batches(self) -> int:
        """Batches of a window."""
        return -(-self.window_cells // self.batch_cells)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Cells that are read together."""

    number: int
    rows: Rows
    """int64 ``(n_cells,)``: global numbers of cells, in the order in which they are delivered."""
    first_batch: int
    """Of the rank's epoch."""
    ends: tuple[int, ...]
    """Where each batch ends in `rows`."""

    def batches(self, skip: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the ranges of `rows` that are batches, without the first `skip`."""
        for at in range(skip, len(self.ends)):
            yield (self.ends[at - 1] if at else 0), self.ends[at]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The cells of an epoch before they are dealt: runs of neighbours, perhaps in another order."""

    n_cells: int
    block_cells: int
    order: Rows | None = None
    """int64 ``(n_blocks,)``; None: as they stand."""

    @classmethod
    def shuffled(cls, n_cells: int, block_cells: int, seed: int, epoch: int) -> Blocks:
        """Draw the order of an epoch."""
        return cls(n_cells, block_cells, permutation(-(-n_cells // block_cells), _OF_BLOCKS, seed, epoch))

    @cached_property
    def _short(self) -> int:
        """Where in the order the block stands that may be short."""
        return 0 if self.order is None else int(np.flatnonzero(self.order == len(self.order) - 1)[0])

    def places(self, start: int, stop: int) -> Rows:
        """Return which cells stand at ``[start, stop)`` of the new order, int64 ``(stop - start,)``."""
        if self.order is None or start >= stop:
            return np.arange(start, stop)
        size = self.block_cells
        # Only one block may be short, the last in place: all behind it begin earlier by what it lacks.
        lacking = len(self.order) * size - self.n_cells
        at = np.arange(start, stop)
        at += np.where(at >= self._short * size + size - lacking, lacking, 0)
        found: Rows = self.order[at // size] * size + at % size
        return found


def share_of(n_cells: int, batching: Batching, rank: int, world_size: int) -> tuple[int, int, int]:
    """Return a rank's range of the epoch's cells, and how many batches every rank makes of its own.

    Raises
    ------
    ConfigError
        Ranks cannot have equally many batches of these cells (kind ``uneven-ranks``), or there is no such rank.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size}: ranks are numbered from 0", kind="bad-rank")
    size = batching.batch_cells
    if batching.drop_last:
        n_batches = n_cells // (size * world_size)
        return rank * n_batches * size, (rank + 1) * n_batches * size, n_batches
    largest = -(-n_cells // world_size)
    n_batches = -(-largest // size)
    if n_cells // world_size < n_batches:
        raise ConfigError(
            f"{n_cells:,} cells in batches of {size:,} cannot be shared by {world_size:,} ranks so that each has "
            f"{n_batches:,} batches",
            kind="uneven-ranks",
            hint="drop_last=True leaves out what is over; a larger batch size shares it",
        )
    return n_cells * rank // world_size, n_cells * (rank + 1) // world_size, n_batches


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """What one rank delivers in one epoch.

    Raises
    ------
    ConfigError
        As `share_of`.
    """

    blocks: Blocks
    batching: Batching
    seed: int
    epoch: int
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    """Within windows, too."""
    cells: Rows | None = None
    """int64 ``(blocks.n_cells,)``: global number of each cell; None: the place is the number."""

    def __post_init__(self) -> None:
        _ = self._share

    @cached_property
    def _share(self) -> tuple[int, int, int]:
        return share_of(self.blocks.n_cells, self.batching, self.rank, self.world_size)

    @property
    def n_cells(self) -> int:
        """Cells that this rank delivers."""
        start, stop, _ = self._share
        return stop - start

    @property
    def n_batches(self) -> int:
        """Batches, the same on every rank."""
        return self._share[2]

    @property
    def n_windows(self) -> int:
        """Windows."""
        return -(-self.n_batches // self.batching.window_batches)

    def window_of(self, batch: int) -> int:
        """Return the window that a batch is in."""
        return batch // self.batching.window_batches

    def window(self, number: int) -> Window:
        """Return one window, found without those before it."""
        first = number * self.batching.window_batches
        ends = [self._end(batch) for batch in range(first, min(first + self.batching.window_batches, self.n_batches))]
        start = self._end(first - 1) if first else 0
        offset = self._share[0]
        places = self.blocks.places(offset + start, offset + ends[-1])
        if self.shuffle:
            stream = (_IN_WINDOW, self.seed, self.epoch, self.rank, number)
            places = places[permutation(len(places), *stream)]
        rows = places if self.cells is None else self.cells[places]
        return Window(number, rows, first, tuple(end - start for end in ends))

    def windows(self, first: int = 0) -> Iterator[Window]:
        """Yield windows from number `first` on."""
        for number in range(first, self.n_windows):
            yield self.window(number)

    def _end(self, batch: int) -> int:
        """Return where a batch ends among this rank's cells.

        A rank with one cell fewer than others, which would make one batch fewer of them, halves its last.
        """
        size, left = self.batching.batch_cells, self.n_batches - 1 - batch
        if left == 0:
            return self.n_cells
        short = self.n_cells <= (self.n_batches - 1) * size
        return self.n_cells - size // 2 if left == 1 and short else (batch + 1) * size
