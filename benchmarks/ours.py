"""Ours: plan, Ray pool and driver as `python -m ingest run` has them, timed from the first unit to the last receipt."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from benchmarks.processes import Gauge
from benchmarks.values import Measured
from ingest.cells import read_cells
from ingest.cli.pools import pool_for
from ingest.committing import commit_plan
from ingest.preparing import divide_work, draft_dataset
from ingest.running import run_units
from ingest.settings import DEFAULT_MEMORY_BYTES, DataSettings, WorkSettings
from ingest.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.processes import Usage
    from benchmarks.store import BenchStore
    from ingest.pool import Failure, Pool, Progress, UnitOutcome, UnitTask, UnitWorker, WorkerFactory
    from ingest.running import OpenPool, UnitsRun
    from ingest.worker import ChunkWorkerFactory

__all__ = ["OurRun", "measure_ours"]

_START_S = 120.0
_JOIN_S = 0.5


@dataclass(frozen=True, slots=True)
class OurRun:
    """What to run."""

    index: Path
    dest: str
    cells_per_chunk: int
    workers: int
    cache: Path
    """For surveys."""
    store: BenchStore | None = None
    """Behind `dest`; None for a folder."""
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    codec: str = "deflate"

    @property
    def work(self) -> WorkSettings:
        """What `run` would be told."""
        endpoint = self.store.endpoint_url if self.store else None
        return WorkSettings(workers=self.workers, memory_bytes=self.memory_bytes, endpoint_url=endpoint)


def measure_ours(run: OurRun) -> Measured:
    """Make the dataset in a DEST that is empty.

    Raises
    ------
    RuntimeError
        Not every chunk was made.
    """
    data = DataSettings(cells_per_chunk=run.cells_per_chunk, codec=run.codec)
    draft = draft_dataset(read_cells(run.index), data, run.work, cache=run.cache)
    store = open_store(run.dest, endpoint_url=run.work.endpoint_url)
    try:
        opened = commit_plan(store, draft)
        work = divide_work(draft.profile, opened, opened.ledger.done(), run.work)
        clock = _Clock(run)
        ran = run_units(opened, work, run.work, clock.pool_opener(), clock, stop_requested=lambda: False)
    finally:
        store.close()
    return _measured(run, ran, clock.usage, opened.plan.n_chunks, work.memory.projected)


def _measured(run: OurRun, ran: UnitsRun, usage: Usage, n_chunks: int, projected_bytes: int) -> Measured:
    driven = ran.driven
    if driven is None or len(driven.done) != n_chunks:
        raise RuntimeError(f"{run.dest}: not every chunk was made: {driven}")
    totals = driven.totals
    return Measured(
        "ours",
        totals.n_cells,
        driven.seconds,
        run.workers,
        run.cells_per_chunk,
        n_chunks,
        totals.nnz,
        totals.bytes_written,
        usage.cpu_seconds,
        dict(totals.seconds),
        usage.requests,
        usage.peak_rss_bytes,
        projected_bytes,
    )


class _Clock:
    """The run's observer: measures from the first unit's submission to the last one's end."""

    def __init__(self, run: OurRun) -> None:
        self._run = run
        self._gauge = Gauge(())
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage:
        """What the run used; there is some once the pool has closed."""
        if self._usage is None:
            raise RuntimeError("no run was measured")
        return self._usage

    def pool_opener(self) -> OpenPool:
        """Return how `run` opens its pool, but that all workers are ready before the first unit."""
        open_ray = pool_for(self._run.work)

        @contextmanager
        def opener(factory: ChunkWorkerFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:
            folder = Path(mkdtemp(prefix="bench-ready-"))
            announcing = _Announcing(factory, str(folder))
            # A pool takes any factory; the seam's type names the one that a run hands it.
            with open_ray(announcing, size, memory_bytes=memory_bytes) as pool:  # type: ignore[arg-type]
                self._gauge = Gauge(_wait_for(pool, folder, size), self._run.store)
                yield pool
                self._usage = self._gauge.stop()

        return opener

    def began(self) -> None:
        self._gauge.start()

    def moved(self, n_cells: int, bytes_written: int, retries: int) -> None:
        pass

    def troubled(self, failure: Failure, retried: int) -> None:
        print(f"trouble: {failure.message} ({retried} chunks again)", flush=True)

    def draining(self, n_units: int) -> None:
        pass


def _wait_for(pool: Pool, folder: Path, size: int) -> list[int]:
    """Return the workers' process ids once all are ready."""
    give_up = time.monotonic() + _START_S
    while len(names := list(folder.iterdir())) < size:
        if time.monotonic() > give_up:
            raise RuntimeError(f"{len(names)} of {size} workers started")
        pool.wait(0.1)
    pool.wait(_JOIN_S)  # the last one's answer may still be on its way to the pool
    return [int(path.name) for path in names]


@dataclass(frozen=True, slots=True)
class _Announcing:
    """Makes workers that leave their process id in `folder` when they are ready."""

    factory: WorkerFactory
    folder: str

    def __call__(self) -> _AnnouncingWorker:
        return _AnnouncingWorker(self.factory(), Path(self.folder))


class _AnnouncingWorker:
    def __init__(self, worker: UnitWorker, folder: Path) -> None:
        self._worker, self._folder = worker, folder

    def ready(self) -> None:
        self._worker.ready()
        (self._folder / str(os.getpid())).touch()

    def run(self, task: UnitTask) -> UnitOutcome:
        return self._worker.run(task)

    def progress(self) -> Progress | None:
        return self._worker.progress()

    def stop_soon(self) -> None:
        self._worker.stop_soon()

    def close(self) -> None:
        self._worker.close()
