"""The seam to work that reads all chunks and writes none: a fold, run by whatever pool there is.

A fold says what is added up over one chunk and how two sums become one. Every chunk is added exactly once, to the sums
of its unit; units end in any order, and those whose worker died are done again, cut in other ways. So merging must not
care for order or grouping, to the last bit: exact sums, counts, sets. Results are as small as the sums, whatever the
dataset; they alone travel.
"""

from __future__ import annotations

import random
import secrets
import time
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import psutil

from ingest.cpu import available_cpus
from ingest.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DiskFullError,
    ExhaustedError,
    IngestError,
    SourceError,
    TransientError,
)
from ingest.fold_worker import PIECE_ENTRIES, ChunkFacts, FoldFactory
from ingest.memory import MIB
from ingest.pool import Ended
from ingest.schedule import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ingest.fold_worker import ReadChunk
    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.pool import Failure, Pool, UnitTask
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["ChunkFold", "FoldObserver", "cut_even_units", "error_of", "fold_chunks", "planned_workers"]

S = TypeVar("S")

_POLL_S = 0.25
_UNITS_A_WORKER = 8
"""So many units each, that the last to end is not waited for long; each brings home one result."""
_ON_CLUSTER = 64
"""Workers at most where a cluster decides how many there are."""
_MOST_UNIT_CELLS = 1 << 19
"""What a dead worker costs at most is done again."""
_BASE_BYTES = 320 * MIB
"""A worker that has read nothing: Python, Ray, HDF5, numba and its compiled kernels."""
_ENTRY_BYTES = 24
"""Of what is decoded at once: values, indices, and what HDF5 holds beside them."""
_LEAST_DEADLINE_S = 600.0
_SLOWEST_BYTES_PER_S = 1e6
_HOPELESS = frozenset({"config", "source", "corrupt", "conflict"})
"""What another try meets again: the worker has read twice what it calls damaged."""


class ChunkFold(Protocol[S]):
    """What is done with each chunk; picklable, small, of an installed module."""

    def begin(self, opened: OpenPlan) -> S:
        """Return sums of nothing; a worker also asks before its first unit, to have everything compiled."""
        ...

    def add(self, state: S, chunk: ReadChunk) -> None:
        """Add one chunk to `state`, in place. One that raises half-way leaves a state that nobody uses."""
        ...

    def merge(self, state: S, other: S) -> None:
        """Add `other` to `state`, in place; in whatever order and grouping, the result is the same to the last bit.

        The arrays of `other` may be read-only.
        """
        ...


class FoldObserver(Protocol):
    """Whoever shows the work to a person."""

    def reached(self, n_cells: int) -> None:
        """Take how many cells have been added, those of units in hand included; several times a second."""
        ...

    def troubled(self, failure: Failure, retried: int) -> None:
        """Take one failure and how many chunks are tried again."""
        ...


def cut_even_units(cells: Sequence[tuple[int, int]], *, workers: int) -> list[tuple[int, ...]]:
    """Cut chunks into units of consecutive ones with about equally many cells.

    Parameters
    ----------
    cells
        (number, cells) of each chunk, in order.
    """
    total = sum(n for _, n in cells)
    wanted = min(_MOST_UNIT_CELLS, max(1, -(-total // (_UNITS_A_WORKER * workers))))
    units: list[list[int]] = []
    room = 0
    for chunk, n in cells:
        if room <= 0:
            units.append([])
            room = wanted
        units[-1].append(chunk)
        room -= n
    return [tuple(unit) for unit in units]


def planned_workers(entries: Sequence[ChunkReceipt], settings: WorkSettings, state_bytes: int = 0) -> int:
    """Return how many workers: those asked for, else one a CPU, fewer where memory or chunks are few.

    Of a cluster's machines nothing is known here: there may be so many that adding up what they return takes no longer
    than reading.

    Raises
    ------
    ConfigError
        Fewer than one was asked for (kind ``bad-workers``).
    """
    if settings.pool == "serial":
        return 1
    if settings.workers is not None and settings.workers < 1:
        raise ConfigError(f"-d {settings.workers}: at least one worker is needed", kind="bad-workers")
    fits = max(1, psutil.virtual_memory().available // _projected_bytes(entries, state_bytes))
    usual = _ON_CLUSTER if settings.on_cluster else min(available_cpus(), fits)
    return max(1, min(settings.workers or usual, len(entries)))


def _projected_bytes(entries: Sequence[ChunkReceipt], state_bytes: int) -> int:
    """Return the peak memory of a worker: two files, one more while it is hashed, a piece, the sums and a copy."""
    largest = max((entry.size for entry in entries), default=0)
    return _BASE_BYTES + 3 * largest + PIECE_ENTRIES * _ENTRY_BYTES + 2 * state_bytes


def fold_chunks(
    opened: OpenPlan,
    fold: ChunkFold[S],
    entries: Sequence[ChunkReceipt],
    settings: WorkSettings,
    open_pool: OpenPool,
    observer: FoldObserver,
    *,
    state: S | None = None,
    state_bytes: int = 0,
    stop_requested: Callable[[], bool] = lambda: False,
) -> S:
    """Add every chunk to the fold, each once, on the pool's workers; return the sums of all.

    Parameters
    ----------
    entries
        What receipts say of the chunks, in order; only bytes with these digests are read.
    state
        Sums of nothing that all others are merged into, in this process; those of `ChunkFold.begin` unless given.
    state_bytes
        Size of the fold's sums: for the scheduler of a cluster.

    Raises
    ------
    CorruptError
        A chunk is missing, damaged, or not what the plan says; it is named.
    IngestError
        Whatever else stood in the way of a chunk until the end, or of the workers.
    KeyboardInterrupt
        `stop_requested` said so.
    """
    projected = _projected_bytes(entries, state_bytes)
    workers = planned_workers(entries, settings, state_bytes)
    factory = FoldFactory(opened.store.url, settings.endpoint_url, fold, ChunkFacts.of(entries), settings.cpus or 1)
    units = cut_even_units([(entry.chunk, entry.n_cells) for entry in entries], workers=workers)
    scheduler = Scheduler(units, run_id=f"fold-{secrets.token_hex(4)}", draw=random.random)
    sizes = {entry.chunk: entry.size for entry in entries}
    with open_pool(factory, workers, memory_bytes=projected) as pool:
        loop = _Loop(scheduler, pool, fold, fold.begin(opened) if state is None else state, observer, sizes)
        while not scheduler.finished:
            if stop_requested():
                raise KeyboardInterrupt
            loop.turn()
    if missing := sizes.keys() - set(scheduler.done):
        raise IngestError(f"{len(missing):,} chunks were not added, chunk {min(missing)} the first", kind="unfolded")
    return loop.state


class _Loop(Generic[S]):
    def __init__(
        self,
        scheduler: Scheduler,
        pool: Pool,
        fold: ChunkFold[S],
        state: S,
        observer: FoldObserver,
        sizes: dict[int, int],
    ) -> None:
        self._scheduler, self._pool, self._fold, self._observer = scheduler, pool, fold, observer
        self._sizes = sizes
        self._n_cells = 0
        self.state = state

    def turn(self) -> None:
        """Hand out what may start, wait a little, take what has ended."""
        while self._pool.has_free() and (task := self._scheduler.next(time.monotonic())) is not None:
            self._pool.submit(task, deadline_s=self._deadline_s(task))
        for event in self._pool.wait(_POLL_S):
            settled = self._scheduler.settle(event, time.monotonic())
            if isinstance(event, Ended) and settled.done:
                if settled.done != event.outcome.done:
                    raise IngestError("a worker reports chunks that it was not given", kind="unfolded")
                self._fold.merge(self.state, event.outcome.result)
                self._n_cells += event.outcome.n_cells
            for failure in settled.failures:
                self._observer.troubled(failure, settled.retried)
                if failure.handling in _HOPELESS:
                    raise error_of(failure)
        final = [*self._scheduler.quarantined.values(), *self._scheduler.gave_up.values()]
        if fatal := self._scheduler.fatal or next(iter(final), None):
            raise error_of(fatal)
        self._observer.reached(self._n_cells + sum(progress.n_cells for progress in self._pool.progress()))

    def _deadline_s(self, task: UnitTask) -> float:
        return _LEAST_DEADLINE_S + sum(self._sizes[chunk] for chunk in task.chunks) / _SLOWEST_BYTES_PER_S


_CLASSES: dict[str, type[IngestError]] = {
    "config": ConfigError,
    "source": SourceError,
    "transient": TransientError,
    "corrupt": CorruptError,
    "exhausted": ExhaustedError,
    "conflict": ConflictError,
}


def error_of(failure: Failure) -> IngestError:
    """Return what a worker met, as an error of this process."""
    kind = DiskFullError if failure.kind == DiskFullError.default_kind else _CLASSES.get(failure.handling, IngestError)
    chunk = failure.chunks[0] if failure.chunks else None
    return kind(failure.message, kind=failure.kind, hint=failure.hint, source=failure.source, chunk=chunk)
