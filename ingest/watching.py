"""Watching a run from anywhere, by what it leaves in DEST: listings only, and of those no more than can have changed.

A store tells which receipts, claims and failures are there, and which runs have written their end. It cannot tell a
run at work from one that was killed: neither has an end. So a watch counts signs of life, by its own clock alone, and
says how long there has been none. A run that shows none since a later one began, which has ended, is taken for dead.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError, TransientError
from ingest.layout import FAILURES, RECEIPTS, RUNS, SUCCESS_KEY, receipt_chunks, run_record
from ingest.opened import open_plan
from ingest.store.base import exists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.opened import OpenPlan
    from ingest.store.base import Store

__all__ = ["Look", "Watched", "Watcher", "spans_to_list", "watch"]

_PAGE = 1000
"""Keys of one request, on S3 and GCS."""

_MOST_SPANS = 16

_RATE_S = 60.0
"""Speed is that of the last minute, from the change before it, which may be long ago where chunks are rare."""

_LEAST_RATE_S = 5.0

_SUCCESSOR_S = 20.0
"""How long no run may be at work before the watch ends: `run --without-bad` begins a second one after its first."""


@dataclass(frozen=True, slots=True)
class Look:
    """What DEST holds at one moment."""

    n_chunks: int
    n_done: int
    n_cells: int
    cells_done: int
    open_runs: tuple[str, ...]
    """Begun and without an end: at work, or killed."""
    n_begun: int
    """Units that workers of these have begun."""
    n_failures: int
    """Failures of chunks that these have on record; most are tried again."""
    complete: bool
    """All chunks are there, and the summaries."""
    n_without_end: int = 0
    """Runs that are taken for killed: a later one has come and ended, and they have shown no sign of life since."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A look, and what the looks before it make of it."""

    look: Look | None
    """None: DEST holds no plan yet, or does not answer."""
    trouble: str | None
    """Why DEST could not be looked at this time."""
    cells_per_s: float | None
    """Over the last minute or longer, from the first cell that came; None before."""
    quiet_s: float
    """Since the last sign of life, or since the watch began."""
    verdict: str
    """``complete``; ``idle``: no run is at work; ``quiet``: no sign of life for too long; ``going``; ``waiting``."""

    @property
    def is_last(self) -> bool:
        """Whether watching any longer shows nothing."""
        return self.verdict in {"complete", "idle", "quiet"}

    @property
    def seconds_left(self) -> float | None:
        """At this speed; None where there is none."""
        if self.look is None or not self.cells_per_s:
            return None
        return (self.look.n_cells - self.look.cells_done) / self.cells_per_s


def watch(
    store: Store,
    *,
    every_s: float,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] | None = None,
) -> Iterator[Watched]:
    """Yield how DEST stands, every so many seconds, until that changes no more.

    Parameters
    ----------
    patience_s
        End when nothing has changed for so long: a plan that does not come, a run that is killed or stuck.

    Raises
    ------
    IngestError
        DEST cannot be read, for a reason that does not pass.
    """
    watcher = Watcher(store, patience_s=patience_s, clock=clock)
    while True:
        watched = watcher.look()
        yield watched
        if watched.is_last:
            return
        (sleep or time.sleep)(every_s)


class Watcher:
    """Looks at one DEST again and again."""

    def __init__(self, store: Store, *, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._patience_s, self._clock = store, patience_s, clock
        self._listings: _Listings | None = None
        self._last: Look | None = None
        self._last_sign = self._last_at_work = clock()
        self._last_time = clock()
        self._past: deque[tuple[float, int]] = deque()
        """When how many cells were there: at each change, and before the first."""

    def look(self) -> Watched:
        """Look once."""
        trouble = None
        try:
            look = self._look()
        except TransientError as error:
            look, trouble = None, str(error)
        now = self._clock()
        if look is not None:
            self._compare(look, now)
        quiet_s = now - self._last_sign
        return Watched(look, trouble, self._cells_per_s(now), quiet_s, self._verdict(look, now))

    def _look(self) -> Look | None:
        if self._listings is None:
            try:
                self._listings = _Listings(open_plan(self._store))
            except ConfigError as error:
                if error.kind != "no-plan":
                    raise
                return None
        return self._listings.look()

    def _compare(self, look: Look, now: float) -> None:
        if look != self._last:
            self._last_sign = now
        if look.open_runs:
            self._last_at_work = now
        if self._last is not None and look.cells_done != self._last.cells_done:
            if not self._past:  # workers took their time to start: that says nothing of their speed
                self._past.append((self._last_time, self._last.cells_done))
            self._past.append((now, look.cells_done))
            while self._past[1][0] <= now - _RATE_S:
                self._past.popleft()
        self._last, self._last_time = look, now

    def _cells_per_s(self, now: float) -> float | None:
        if not self._past or now - self._past[0][0] < _LEAST_RATE_S:
            return None
        return (self._past[-1][1] - self._past[0][1]) / (now - self._past[0][0])

    def _verdict(self, look: Look | None, now: float) -> str:
        if look is not None and look.complete:
            return "complete"
        left = look is not None and look.n_done < look.n_chunks and not look.open_runs
        if left and now - self._last_at_work >= min(_SUCCESSOR_S, self._patience_s):
            return "idle"
        if now - self._last_sign >= self._patience_s:
            return "quiet"
        # For a plan, for an answer, for the summaries, for another run.
        return "going" if look is not None and look.open_runs else "waiting"


class _Listings:
    """What is known of a DEST, and what of it to ask for again."""

    def __init__(self, opened: OpenPlan) -> None:
        self._store, self._plan = opened.store, opened.plan
        self._done = np.zeros(opened.plan.n_chunks, np.bool_)
        self._lacking: dict[int, int] = {}
        for entry in opened.amendments.left_out:
            for chunk, cells in entry.chunks:
                self._lacking[chunk] = self._lacking.get(chunk, 0) + cells
        self._cells_done = 0
        self._runs: dict[str, _Run] = {}
        self._last_run = ""
        self._n_looks = self._n_idle = 0
        """Looks so far, and those of them in a row, up to the last, that have found no run at work."""

    def look(self) -> Look:
        n_before = int(self._done.sum())
        self._list_receipts()
        self._list_runs()
        n_done = int(self._done.sum())
        # Receipts are listed before runs: the last of a run that has ended may come a look later.
        if n_done > n_before and self._n_idle > 1:
            self._doubt_no_more()
        without_end = [run for run in self._runs.values() if not run.ended]
        at_work = [run for run in without_end if not self._is_dead(run)]
        self._n_looks, self._n_idle = self._n_looks + 1, 0 if at_work else self._n_idle + 1
        return Look(
            n_chunks=self._plan.n_chunks,
            n_done=n_done,
            n_cells=self._plan.n_cells - sum(self._lacking.values()),
            cells_done=self._cells_done,
            open_runs=tuple(run.name for run in at_work),
            n_begun=sum(run.n_begun for run in at_work),
            n_failures=sum(run.n_failures for run in at_work),
            complete=n_done == self._plan.n_chunks and exists(self._store, SUCCESS_KEY),
            n_without_end=len(without_end) - len(at_work),
        )

    def _is_dead(self, run: _Run) -> bool:
        """Say whether `run` is taken for dead; a sign of life in whatever it does next makes it live again."""
        later = (other for other in self._runs.values() if other.ended and other.name > run.name)
        return not run.ended and any(other.seen_at > run.signed_at for other in later)

    def _doubt_no_more(self) -> None:
        """Take all runs without an end for living: somebody makes chunks."""
        for run in self._runs.values():
            run.signed_at = self._n_looks

    def _list_receipts(self) -> None:
        for first, last in spans_to_list(self._done):
            for stat in self._store.list(RECEIPTS, after=f"{RECEIPTS}{first:09d}"):
                chunks = receipt_chunks(stat.key) or range(0)
                if chunks and chunks[0] > last:
                    break
                for chunk in chunks:
                    self._count(chunk)

    def _count(self, chunk: int) -> None:
        if chunk < len(self._done) and not self._done[chunk]:
            self._done[chunk] = True
            start, stop = self._plan.rows(chunk)
            self._cells_done += stop - start - self._lacking.get(chunk, 0)

    def _list_runs(self) -> None:
        # Names begin with the time by somebody's clock. If all known runs have ended, one may have an earlier name.
        all_ended = all(run.ended or self._is_dead(run) for run in self._runs.values())
        # What is there at the first look is no sign: it may be of any age.
        sign = self._n_looks or -1
        after = "" if all_ended else f"{RUNS}{self._last_run}/unit-z"
        for stat in self._store.list(RUNS, after=after):
            found = run_record(stat.key)
            if found is None:
                continue  # nothing of ours
            name, record = found
            self._runs.setdefault(name, _Run(name, seen_at=self._n_looks, signed_at=sign)).take(record, sign)
            self._last_run = max(self._last_run, name)
        for run in self._runs.values():
            if not run.ended and not self._is_dead(run):
                self._follow(run, sign)

    def _follow(self, run: _Run, sign: int) -> None:
        folder = f"{RUNS}{run.name}/"
        for prefix, after in ((f"{folder}end", ""), (f"{folder}unit-", f"{folder}{run.last_claim}")):
            for stat in self._store.list(prefix, after=after):
                run.take(stat.key.removeprefix(folder), sign)
        n_failures = sum(1 for _ in self._store.list(f"{FAILURES}{run.name}-"))
        if n_failures != run.n_failures:
            run.n_failures, run.signed_at = n_failures, sign


@dataclass(slots=True)
class _Run:
    name: str
    seen_at: int
    """In which look it was seen first, from 0 on."""
    signed_at: int
    """In which look it last showed a sign of life; -1: before the first."""
    ended: bool = False
    last_claim: str = ""
    n_begun: int = 0
    n_failures: int = 0

    def take(self, record: str, sign: int) -> None:
        """Count one of its keys; a claim that is new is a sign of life."""
        if record == "end.json":
            self.ended = True
        elif record.startswith("unit-") and record > self.last_claim:
            self.n_begun += 1
            self.last_claim, self.signed_at = record, sign


def spans_to_list(done: np.ndarray[Any, np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Return ranges of chunks, first and last, that hold all those not done; few, and with few of those done between.

    A range costs a request, and so does every thousand receipts in it.

    Parameters
    ----------
    done
        bool ``(n_chunks,)``.
    """
    missing = np.flatnonzero(~done)
    if not len(missing):
        return []
    gaps = np.diff(missing) - 1
    cuts = np.flatnonzero(gaps >= _PAGE)
    if len(cuts) >= _MOST_SPANS:
        cuts = np.sort(cuts[np.argsort(gaps[cuts], kind="stable")[-(_MOST_SPANS - 1) :]])
    firsts, lasts = missing[np.r_[0, cuts + 1]], missing[np.r_[cuts, len(missing) - 1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
