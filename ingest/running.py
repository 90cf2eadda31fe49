"""A run from an open plan to a finished dataset: the pool is handed in, the person is told through an observer."""

from __future__ import annotations

import getpass
import os
import random
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from ingest import __version__
from ingest.bandwidth import share_of
from ingest.chunk_check import check_index
from ingest.chunks import commit_chunk
from ingest.cpu import available_cpus
from ingest.driver import Driven, Observer, Totals, drive
from ingest.errors import IngestError
from ingest.finish import Finished, finish
from ingest.json_lines import json_lines_are_on
from ingest.preparing import scratch_of
from ingest.run_events import RunBegan, RunEnded, hearing
from ingest.schedule import Scheduler
from ingest.units import stored_bytes
from ingest.worker import ChunkWorkerFactory

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ingest.chunks import Commit
    from ingest.opened import OpenPlan
    from ingest.pool import Pool, SizedFactory, UnitTask
    from ingest.preparing import Work
    from ingest.settings import WorkSettings

__all__ = ["OpenPool", "RunReport", "UnitsRun", "run_plan", "run_units"]

_LEAST_DEADLINE_S = 600.0
_CELL_S = 0.01
_SLOWEST_BYTES_PER_S = 1e6
"""A source read more slowly than this counts as hanging."""
_HELD_BACK = 3
"""Times that a unit's stored bytes may pass a worker's share of the line: read, written, and some of it again."""


class OpenPool(Protocol):
    """Opens a pool of workers; the composition root knows which kind."""

    def __call__(self, factory: SizedFactory, size: int, *, memory_bytes: int) -> AbstractContextManager[Pool]:
        """Return a context whose exit ends all workers."""
        ...


@dataclass(frozen=True, slots=True)
class UnitsRun:
    """How the units of a run ended; whether the dataset is whole is another question."""

    run_id: str
    driven: Driven | None
    """None when there was nothing to do."""
    seconds: float


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended."""

    run_id: str
    driven: Driven | None
    """None when nothing was missing."""
    finished: Finished | None
    """None when chunks are missing for a reason that another run may mend."""
    seconds: float
    """Wall time from the first unit's submission to the end of the last; the workers' start is not counted."""

    @property
    def exit_code(self) -> int:
        """0 complete, 1 failed, 3 incomplete, 130 interrupted."""
        if self.finished is not None and self.finished.complete:
            return 0
        if self.driven is not None and self.driven.interrupted:
            return 130
        if self.driven is not None and self.driven.fatal is not None:
            return self.driven.fatal.exit_code
        return 3


def run_plan(
    opened: OpenPlan,
    work: Work,
    settings: WorkSettings,
    open_pool: OpenPool,
    observer: Observer,
    *,
    stop_requested: Callable[[], bool],
) -> RunReport:
    """Make all missing chunks and finish the dataset.

    Raises
    ------
    IngestError
        Workers cannot start, or a receipt disagrees with the plan.
    """
    rivals = bool(work.units) and bool(opened.ledger.open_runs())
    ran = run_units(opened, work, settings, open_pool, observer, stop_requested=stop_requested, has_rivals=rivals)
    driven = ran.driven
    stopped = driven is not None and (driven.interrupted or driven.fatal is not None or driven.stopped_early)
    unfinished = stopped and not _all_done(opened)
    finished = None if unfinished else finish(opened, scratch=settings.scratch, cells_json=settings.cells_json)
    if driven is not None and finished is not None and finished.complete:
        driven = _without_mended(driven)
    return RunReport(ran.run_id, driven, finished, ran.seconds)


def _without_mended(driven: Driven) -> Driven:
    """Return how the run ended, but for what failed here and was made by another driver, now that all is there."""
    quarantined = {chunk: failure for chunk, failure in driven.quarantined.items() if failure.handling == "conflict"}
    return replace(driven, quarantined=quarantined, gave_up={})


def run_units(
    opened: OpenPlan,
    work: Work,
    settings: WorkSettings,
    open_pool: OpenPool,
    observer: Observer,
    *,
    stop_requested: Callable[[], bool],
    has_rivals: bool = False,
    commit: Commit = commit_chunk,
    held: frozenset[tuple[int, int]] = frozenset(),
    command: str = "run",
) -> UnitsRun:
    """Make the chunks of `work` and record who did it and how it ended; the dataset is not finished yet.

    Parameters
    ----------
    has_rivals
        Somebody else may be making the same chunks: those with a receipt are then left out as the run goes on. Not
        for a repair, whose chunks may all have one.
    commit
        What workers do with a chunk they have made.
    held
        Chunk and source, where a repair must not leave out the source's rows although amendments permit it.
    command
        Recorded with the run.

    Raises
    ------
    IngestError
        Workers cannot start, or the plan's index is damaged.
    """
    # The name orders runs for people; no decision is taken from it.
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    start = time.perf_counter()
    driven: Driven | None = None
    if work.units:
        check_index(opened)
        hear = hearing(observer)
        opened.ledger.start_run(run_id, {"command": command, **_who(work)})
        hear(_began(run_id, command, opened, work))
        outcome = "failed"
        try:
            driven = _drive(
                opened, work, settings, open_pool, observer, run_id, stop_requested, has_rivals, commit, held
            )
            outcome = "interrupted" if driven.interrupted else "stopped" if driven.fatal else "ended"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            # For `status` only: a store that refuses it must neither hide why the run failed nor fail one that has not.
            with suppress(IngestError):
                opened.ledger.end_run(run_id, _ended(outcome, driven, time.perf_counter() - start))
            hear(RunEnded(run_id, outcome, driven.seconds if driven else 0.0))
    return UnitsRun(run_id, driven, driven.seconds if driven else 0.0)


def _began(run_id: str, command: str, opened: OpenPlan, work: Work) -> RunBegan:
    n_chunks = opened.plan.n_chunks
    return RunBegan(
        run=run_id,
        command=command,
        dest=opened.store.url,
        n_chunks=n_chunks,
        n_kept=n_chunks - len(work.missing),
        n_units=len(work.units),
        workers=work.workers,
        memory_bytes=work.memory.projected,
    )


def _all_done(opened: OpenPlan) -> bool:
    return len(opened.ledger.done()) >= opened.plan.n_chunks


def _drive(
    opened: OpenPlan,
    work: Work,
    settings: WorkSettings,
    open_pool: OpenPool,
    observer: Observer,
    run_id: str,
    stop_requested: Callable[[], bool],
    has_rivals: bool,
    commit: Commit,
    held: frozenset[tuple[int, int]],
) -> Driven:
    factory = ChunkWorkerFactory(
        dest=opened.store.url,
        endpoint_url=settings.endpoint_url,
        run_id=run_id,
        slab_bytes=work.memory.slab,
        upload_bytes=work.memory.upload,
        window_bytes=work.memory.window,
        bytes_per_s=share_of(settings.bytes_per_s, work.workers),
        threads=settings.cpus or max(1, available_cpus() // work.workers),
        scratch=str(scratch_of(settings)),
        commit=commit,
        held=held,
        json_lines=json_lines_are_on(),
    )
    # Two drivers that begin at opposite ends meet once in the middle, instead of racing for every unit.
    units = [unit.chunks for unit in work.units]
    scheduler = Scheduler(units[::-1] if has_rivals else units, run_id=run_id, draw=random.random)
    most_failed = None
    if settings.max_failed_pct is not None:
        most_failed = int(opened.plan.n_chunks * settings.max_failed_pct / 100)
    with open_pool(factory, work.workers, memory_bytes=work.memory.projected) as pool:
        return drive(
            scheduler,
            pool,
            opened.ledger,
            observer,
            stop_requested=stop_requested,
            deadline_s=lambda task: settings.deadline_s or _deadline_s(opened, work, settings, task),
            most_failed=most_failed,
            has_rivals=has_rivals,
        )


def _deadline_s(opened: OpenPlan, work: Work, settings: WorkSettings, task: UnitTask) -> float:
    cells = opened.plan.identity.cells_per_chunk * len(task.chunks)
    (size,) = stored_bytes(work.profile, [task.chunks])
    # Of a CSC file the rows' share is counted, but all of it is read: once at the unit's beginning, once at its end.
    size += 2 * max((survey.stored_bytes for survey in opened.surveys if survey.layout == "csc"), default=0)
    deadline_s = _LEAST_DEADLINE_S + _CELL_S * cells + size / _SLOWEST_BYTES_PER_S
    share = share_of(settings.bytes_per_s, work.workers)
    # What is written is about as much as is read; who is held back is not hanging.
    return deadline_s if share is None else deadline_s + _HELD_BACK * size / share


def _who(work: Work) -> dict[str, object]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no entry for its user
        user = str(os.getuid())
    return {
        "version": __version__,
        "user": user,
        "host": socket.gethostname(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "workers": work.workers,
        "chunks": len(work.missing),
        "units": len(work.units),
    }


def _ended(outcome: str, driven: Driven | None, seconds: float) -> dict[str, object]:
    totals = driven.totals if driven else Totals()
    return {
        "outcome": outcome,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(driven.seconds if driven else 0.0, 3),
        "start_seconds": round(seconds - (driven.seconds if driven else 0.0), 3),
        "cells": totals.n_cells,
        "chunks": totals.n_chunks,
        "bytes_read": totals.bytes_read or None,  # the library of a Census does not tell
        "bytes_written": totals.bytes_written,
        "retries": totals.retries,
        "peak_rss_bytes": totals.peak_rss_bytes,
        "seconds_by_stage": {stage: round(value, 3) for stage, value in totals.seconds.items()},
        "quarantined": sorted(driven.quarantined) if driven else [],
        "gave_up": sorted(driven.gave_up) if driven else [],
    }
