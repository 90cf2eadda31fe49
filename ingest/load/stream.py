"""Windows of one epoch, read ahead in the background: what stands between a sampler's order and batches."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.block import Counts
    from ingest.load.cells import Cells
    from ingest.load.order.epoch import EpochOrder
    from ingest.load.read.reader import GeneColumns

__all__ = ["CellBatch", "Transform", "WindowCells", "read_window", "stream_batches", "stream_windows"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


class Transform(Protocol):
    """What is done with counts before they become a batch; picklable, and each cell by itself."""

    def __call__(self, counts: Counts, totals: np.ndarray[Any, np.dtype[np.float64]] | None = None) -> Counts:
        """Return what is delivered instead of `counts`, whose arrays it may work in.

        Parameters
        ----------
        counts
            ``(n_cells, n_genes)``, thousands of cells.
        totals
            float64 ``(n_cells,)``: sum of each cell over all genes of its dataset, where only some are read.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class WindowCells:
    """A window with its cells."""

    number: int
    rows: Int64
    """int64 ``(n_cells,)``: global numbers."""
    ends: tuple[int, ...]
    """Where batches end in `rows`."""
    counts: Counts
    """``(n_cells, n_genes)``, transformed."""


@dataclass(frozen=True, slots=True, eq=False)
class CellBatch:
    """Cells of one step."""

    rows: Int64
    """int64 ``(n_cells,)``: global numbers."""
    counts: Counts
    """``(n_cells, n_genes)``; views of its window's arrays."""


def read_window(
    cells: Cells, order: EpochOrder, number: int, columns: GeneColumns, transform: Transform | None
) -> WindowCells:
    """Read one window and transform it.

    Raises
    ------
    CorruptError
        A chunk is missing or damaged; it is named.
    """
    window = order.window(number)
    read = cells.read(window.rows, columns)
    counts = read.counts if transform is None else transform(read.counts, read.totals)
    return WindowCells(number, window.rows, window.ends, counts)


def stream_windows(
    cells: Cells,
    order: EpochOrder,
    columns: GeneColumns,
    transform: Transform | None = None,
    *,
    numbers: range,
    ahead: int,
) -> Iterator[WindowCells]:
    """Yield windows in order; the next `ahead` are read meanwhile, by a thread of their own.

    Raises
    ------
    CorruptError
        As `read_window`, where its window would have come.
    """
    if not ahead:
        for number in numbers:
            yield read_window(cells, order, number, columns, transform)
        return
    left = iter(numbers)
    waiting: deque[Future[WindowCells]] = deque()
    pool = ThreadPoolExecutor(1, "cell-ingest-window")
    try:
        while True:
            while len(waiting) < ahead and (following := next(left, None)) is not None:
                waiting.append(pool.submit(read_window, cells, order, following, columns, transform))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def stream_batches(windows: Iterator[WindowCells], *, first_batch: int = 0) -> Iterator[CellBatch]:
    """Cut windows into batches, which are views.

    Parameters
    ----------
    first_batch
        Of the first window: those before it have been delivered already.
    """
    for window in windows:
        for at in range(first_batch, len(window.ends)):
            low, high = (window.ends[at - 1] if at else 0), window.ends[at]
            yield CellBatch(window.rows[low:high], window.counts.rows(low, high))
        first_batch = 0
