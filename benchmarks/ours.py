"""Ours: plan, Ray pool and driver as `python -m ingest run` has them, timed from the first unit to the last receipt."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
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
from ingest.worker import ChunkWorker, ChunkWorkerFactory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.processes import Usage
    from benchmarks.store import BenchStore
    from ingest.pool import Failure, Pool, SizedFactory
    from ingest.running import OpenPool, UnitsRun

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
    shuffle_window: int | None = None
    """Cells of a window; None: source order."""

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
    data = DataSettings(
        cells_per_chunk=run.cells_per_chunk,
        codec=run.codec,
        shuffle="none" if run.shuffle_window is None else "window",
        shuffle_window=run.shuffle_window,
    )
    clock = _Clock(run)
    with (
        closing(read_cells(run.index)) as cells,
        closing(draft_dataset(cells, data, run.work, cache=run.cache)) as draft,
        closing(open_store(run.dest, endpoint_url=run.work.endpoint_url)) as store,
    ):
        opened = commit_plan(store, draft)
        work = divide_work(draft.profile, opened, opened.ledger.done(), run.work)
        ran = run_units(opened, work, run.work, clock.pool_opener(), clock, stop_requested=lambda: False)
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
    """The run's observer, and what its workers use from when they are ready to when the last unit has ended."""

    def __init__(self, run: OurRun) -> None:
        self._run = run
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
        def opener(factory: SizedFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:
            if not isinstance(factory, ChunkWorkerFactory):
                raise TypeError("what is measured here is a run")
            folder = Path(mkdtemp(prefix="bench-ready-"))
            with open_ray(_Announcing.of(factory, folder), size, memory_bytes=memory_bytes) as pool:
                gauge = Gauge(_wait_for(pool, folder, size), self._run.store)
                gauge.start()
                yield pool
                self._usage = gauge.stop()
            shutil.rmtree(folder)

        return opener

    def began(self) -> None:
        pass

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
class _Announcing(ChunkWorkerFactory):
    """Makes workers that leave their process id in `folder` when they are ready."""

    folder: str = ""

    @classmethod
    def of(cls, factory: ChunkWorkerFactory, folder: Path) -> _Announcing:
        """Return `factory`, announcing."""
        return cls(**{one.name: getattr(factory, one.name) for one in fields(factory)}, folder=str(folder))

    def __call__(self) -> _AnnouncingWorker:
        return _AnnouncingWorker(self, Path(self.folder))


class _AnnouncingWorker(ChunkWorker):
    def __init__(self, factory: ChunkWorkerFactory, folder: Path) -> None:
        super().__init__(factory)
        self._folder = folder

    def ready(self) -> None:
        super().ready()
        (self._folder / str(os.getpid())).touch()
