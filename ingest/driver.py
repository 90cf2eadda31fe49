"""The driver's loop: feed the pool, settle what ends, record what failed. Decisions are the scheduler's."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ingest.errors import IngestError, TransientError
from ingest.pool import Ended, Lost
from ingest.run_events import Moved, UnitBegan, UnitSettled, hearing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ingest.ledger.ledger import Ledger
    from ingest.pool import Failure, Pool, PoolEvent, Progress, UnitTask
    from ingest.schedule import Scheduler, Settled

__all__ = ["Driven", "Observer", "Totals", "drive"]

_POLL_S = 0.25
"""How long the loop waits for an event before it looks at progress and signals."""

_UNSURE = frozenset({"internal", "exhausted"})
"""What may have struck between a chunk's commit and the note of it."""

_LOOK_SHARE = 20
"""Looking after what others have finished takes this part of the time at most: listing 100,000 receipts is seconds."""


@dataclass(slots=True)
class Totals:
    """What this run has done so far."""

    n_cells: int = 0
    nnz: int = 0
    n_chunks: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    retries: int = 0
    adopted: int = 0
    peak_rss_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage, summed over workers."""

    def add(self, event: Ended) -> None:
        """Count an ended unit."""
        outcome = event.outcome
        self.n_cells += outcome.n_cells
        self.nnz += outcome.nnz
        self.n_chunks += len(outcome.done)
        self.bytes_read += outcome.bytes_read
        self.bytes_written += outcome.bytes_written
        self.retries += outcome.retries
        self.adopted += len(outcome.adopted)
        self.peak_rss_bytes = max(self.peak_rss_bytes, outcome.peak_rss_bytes)
        for stage, seconds in outcome.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_lost(self, progress: Progress) -> None:
        """Count what a lost worker is known to have committed of its unit: it is there, and nobody makes it again."""
        self.n_cells += progress.n_cells
        self.n_chunks += progress.n_chunks
        self.bytes_read += progress.bytes_read
        self.bytes_written += progress.bytes_written
        self.retries += progress.retries

    def join(self, other: Totals) -> None:
        """Count what another run has done."""
        for name in ("n_cells", "nnz", "n_chunks", "bytes_read", "bytes_written", "retries", "adopted"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.peak_rss_bytes = max(self.peak_rss_bytes, other.peak_rss_bytes)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


class Observer(Protocol):
    """Whoever shows the run to a person; one that is an `ingest.run_events.Listener` hears its events, too."""

    def began(self) -> None:
        """Take that the first unit is with a worker: what came before was their start."""
        ...

    def moved(self, n_cells: int, bytes_written: int, retries: int) -> None:
        """Take the state of the run, units in hand included; called several times a second."""
        ...

    def troubled(self, failure: Failure, retried: int) -> None:
        """Take one failure and how many chunks will be tried again because of trouble in the same unit."""
        ...

    def draining(self, n_units: int) -> None:
        """Take that the run ends after the units in hand."""
        ...


@dataclass(frozen=True, slots=True)
class Driven:
    """How the run ended."""

    totals: Totals
    quarantined: Mapping[int, Failure]
    gave_up: Mapping[int, Failure]
    fatal: Failure | None
    interrupted: bool
    stopped_early: bool
    """More chunks failed than ``--max-failed-pct`` allows."""
    done: frozenset[int] = frozenset()
    """Chunks that are right through this run, or were found to be."""
    seconds: float = 0.0
    """From the first unit's submission to the last one's end: the workers' start is not counted."""


def drive(
    scheduler: Scheduler,
    pool: Pool,
    ledger: Ledger,
    observer: Observer,
    *,
    stop_requested: Callable[[], bool],
    deadline_s: Callable[[UnitTask], float],
    most_failed: int | None = None,
    has_rivals: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Driven:
    """Run until every chunk has ended, or the run must.

    Parameters
    ----------
    most_failed
        Stop when more chunks than this are quarantined or given up.
    has_rivals
        Another driver may be at work on this plan: look now and then what it has finished.
    """
    loop = _Loop(scheduler, pool, ledger, observer, clock, has_rivals=has_rivals)
    draining = interrupted = stopped_early = False
    while not scheduler.finished:
        interrupted = interrupted or stop_requested()
        failed = len(scheduler.quarantined) + len(scheduler.gave_up)
        stopped_early = stopped_early or (most_failed is not None and failed > most_failed)
        if not draining and (interrupted or stopped_early or scheduler.fatal):
            draining = True
            observer.draining(scheduler.n_in_flight)
            pool.stop_soon()
        if draining and not scheduler.n_in_flight:
            break
        if not draining:
            loop.feed(deadline_s)
        loop.take(pool.wait(_POLL_S), clock())
    return Driven(
        loop.totals,
        scheduler.quarantined,
        scheduler.gave_up,
        scheduler.fatal,
        interrupted,
        stopped_early,
        frozenset(scheduler.done),
        loop.seconds,
    )


class _Loop:
    def __init__(
        self,
        scheduler: Scheduler,
        pool: Pool,
        ledger: Ledger,
        observer: Observer,
        clock: Callable[[], float],
        *,
        has_rivals: bool,
    ) -> None:
        self._scheduler, self._pool, self._ledger, self._observer = scheduler, pool, ledger, observer
        self._hear = hearing(observer)
        self._clock, self._has_rivals = clock, has_rivals
        self._next_look = -math.inf
        self._first: float | None = None
        self._last = 0.0
        # A repair makes chunks that have receipts: those say nothing of what a lost worker had done.
        self._before = ledger.done()
        self._latest: dict[int, Progress] = {}
        self._unit_retries = 0
        self.totals = Totals()

    @property
    def seconds(self) -> float:
        return 0.0 if self._first is None else self._last - self._first

    def feed(self, deadline_s: Callable[[UnitTask], float]) -> None:
        while self._pool.has_free():
            task = self._scheduler.next(self._clock())
            if task is None:
                return
            if self._first is None:
                self._first = self._last = self._clock()
                self._observer.began()
            self._pool.submit(task, deadline_s=deadline_s(task))
            self._hear(UnitBegan(task))

    def take(self, events: Sequence[PoolEvent], now: float) -> None:
        if events:
            self._last = now
        for event in events:
            settled = self._scheduler.settle(event, now)
            if isinstance(event, Ended):
                self.totals.add(event)
            self._report(event.task, settled)
            self._hear(UnitSettled(event, settled))
            self._has_rivals = self._has_rivals or bool(settled.adopted)
            # The listing spares work and decides nothing: without it, chunks that exist are made again and adopted.
            with suppress(TransientError):
                if _may_have_made_more(event):
                    self._scheduler.forget(self._ledger.done_among(event.task.chunks) - self._before)
                if isinstance(event, Lost) and (said := self._latest.get(event.task.unit_id)):
                    self.totals.add_lost(said)
        self._look(now)
        self._latest = {progress.unit_id: progress for progress in self._pool.progress()}
        self._tell(list(self._latest.values()))

    def _tell(self, in_hand: Sequence[Progress]) -> None:
        """Say where the run stands."""
        totals, scheduler = self.totals, self._scheduler
        n_cells = totals.n_cells + sum(progress.n_cells for progress in in_hand)
        bytes_written = totals.bytes_written + sum(progress.bytes_written for progress in in_hand)
        retries = totals.retries + sum(progress.retries for progress in in_hand)
        self._observer.moved(n_cells, bytes_written, retries)
        self._hear(
            Moved(
                n_cells=n_cells,
                bytes_read=totals.bytes_read + sum(progress.bytes_read for progress in in_hand),
                bytes_written=bytes_written,
                request_retries=retries - self._unit_retries,
                units_waiting=scheduler.n_waiting,
                units_in_flight=scheduler.n_in_flight,
                chunks_done=len(scheduler.done) + sum(progress.n_chunks for progress in in_hand),
                chunks_quarantined=len(scheduler.quarantined),
                chunks_gave_up=len(scheduler.gave_up),
                rss_bytes=tuple(progress.rss_bytes for progress in in_hand if progress.rss_bytes),
            )
        )

    def _look(self, now: float) -> None:
        """Leave out what others have finished, when it is time to look."""
        if not self._has_rivals or now < self._next_look:
            return
        start = self._clock()
        with suppress(TransientError):
            self._scheduler.forget(self._ledger.done())
        self._next_look = now + _LOOK_SHARE * (self._clock() - start)

    def _report(self, task: UnitTask, settled: Settled) -> None:
        if settled.failures:
            # Records decide nothing: a store that is down or full must not take the units in hand with it.
            with suppress(IngestError):
                self._ledger.record_failures(task.attempt, settled.failures)
        again = 1 if settled.retried else 0
        self.totals.retries += again
        self._unit_retries += again
        for failure in settled.failures:
            self._observer.troubled(failure, settled.retried)


def _may_have_made_more(event: PoolEvent) -> bool:
    """Say whether chunks may exist of which the event does not tell."""
    return isinstance(event, Lost) or any(failure.handling in _UNSURE for failure in event.outcome.failures)
