"""A conversion from its plan to the archive: the pool is handed in, the person is told through an observer."""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil

from ingest.cpu import available_cpus
from ingest.errors import ConfigError, IngestError
from ingest.folding import cut_even_units, error_of
from ingest.load.memmap.convert.base import worse_of
from ingest.load.memmap.convert.finish import describe_archive
from ingest.load.memmap.convert.worker import ConvertFactory, lossy_error
from ingest.load.memmap.convert.workplace import Workplace, has_arrays, read_plan
from ingest.load.memmap.header import SCDLHeader
from ingest.load.memmap.names import FileNames
from ingest.memory import MIB
from ingest.pool import Ended, Lost
from ingest.schedule import Scheduler

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from ingest.load.memmap.convert.base import LossyCast
    from ingest.load.memmap.convert.opening import ReadOptions
    from ingest.load.memmap.convert.plan import ConversionPlan
    from ingest.load.memmap.convert.workplace import PartReceipt
    from ingest.pool import Failure, Pool, UnitTask
    from ingest.running import OpenPool

__all__ = ["ConvertObserver", "Converted", "check_path", "find_finished", "planned_workers", "run_conversion"]

_POLL_S = 0.25
_LEAST_DEADLINE_S = 600.0
_SLOWEST_BYTES_PER_S = 1e6
_WORKER_BYTES = 1024 * MIB
"""Python, Ray, HDF5, compiled kernels; two chunks, and one more while it is hashed; what is decoded at a time."""
_HOPELESS = frozenset({"config", "source", "corrupt", "conflict"})
"""What another try meets again."""


class ConvertObserver(Protocol):
    """Whoever shows the work to a person."""

    def began(self, plan: ConversionPlan, n_done: int, n_workers: int) -> None:
        """Take what is followed, and how many of its parts are there already."""
        ...

    def reached(self, n_rows: int) -> None:
        """Take how many rows are there, those of parts in hand included; several times a second."""
        ...

    def troubled(self, failure: Failure, retried: int) -> None:
        """Take one failure and how many parts are tried again."""
        ...

    def draining(self, n_units: int) -> None:
        """Take that it ends after the units in hand."""
        ...

    def finishing(self) -> None:
        """Take that all parts are there."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """How a conversion ended."""

    path: Path
    plan: ConversionPlan
    n_done: int
    """Parts that are there."""
    finished: bool
    """Whether there is an archive."""
    was_there: bool = False
    """Whether it was there before."""
    rows: int = 0
    """Written by this run."""
    seconds: float = 0.0
    """Wall time from the first unit to the archive; the workers' start is not counted."""
    lossy: Mapping[int, LossyCast] = field(default_factory=dict)
    """Source -> the value that its cast has changed most, where that was allowed."""

    @property
    def exit_code(self) -> int:
        """0 finished, 130 interrupted."""
        return 0 if self.finished else 130


def planned_workers(n_missing: int, workers: int | None) -> int:
    """Return how many workers: those asked for, else one a CPU, fewer where memory is short or parts are few.

    Raises
    ------
    ConfigError
        Fewer than one was asked for (kind ``bad-workers``).
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"-d {workers}: at least one worker is needed", kind="bad-workers")
    fits = psutil.virtual_memory().available // _WORKER_BYTES
    return max(1, min(workers or min(available_cpus(), fits), n_missing))


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of an archive to be.

    Raises
    ------
    ConfigError
        It is the URL of a bucket (kind ``not-local``).
    """
    if "://" in str(path):
        said = f"{path}: an archive is mapped into memory, from a folder of this machine"
        raise ConfigError(said, kind="not-local", hint="name a local path, and copy the archive afterwards")
    return Path(path).expanduser().absolute()


def find_finished(path: str | os.PathLike[str], plan: ConversionPlan) -> Converted | None:
    """Return the finished archive of `plan` if that is what is at `path`, None where nothing is.

    Raises
    ------
    ConfigError
        Something else is there (kind ``exists``); what differs is said.
    """
    place = check_path(path)
    if not place.exists() and not place.is_symlink():
        return None
    hint = f"name another place by -o, or remove {place}"
    try:
        there = read_plan(place)
    except IngestError:
        there = None
    if there is None:
        raise ConfigError(f"{place} is there already, and no archive of this conversion", kind="exists", hint=hint)
    if there.digest != plan.digest:
        said = f"{place} is there already, of another conversion: {plan.differences(there)}"
        raise ConfigError(said, kind="exists", hint=hint)
    if not _is_whole(place, plan):
        said = f"{place} is there already, and has been changed since it was made"
        raise ConfigError(said, kind="exists", hint=hint)
    return Converted(place, there, len(there.parts), finished=True, was_there=True)


def _is_whole(place: Path, plan: ConversionPlan) -> bool:
    """Whether the archive holds the arrays that the plan says; nobody has cast or extended it since."""
    try:
        arrays = {array.name: (array.dtype.numpy_dtype_string, array.length) for array in _header(place).arrays}
    except IngestError:
        return False
    named = {name.name: facts for name, facts in plan.spec.arrays.items()}
    return arrays == named and has_arrays(place, plan)


def _header(place: Path) -> SCDLHeader:
    return SCDLHeader.load(place / FileNames.HEADER.value)


def run_conversion(
    plan: ConversionPlan,
    path: str | os.PathLike[str],
    options: ReadOptions,
    open_pool: OpenPool,
    observer: ConvertObserver,
    *,
    workers: int | None = None,
    allow_lossy: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Converted:
    """Make the archive at `path`, or go on where an earlier run of the same plan was stopped.

    Nothing is at `path` until all of the archive is on the disk.

    Parameters
    ----------
    options
        How sources are read, by every worker.
    workers
        How many; one a CPU unless said.
    allow_lossy
        Store what the archive's type makes of values that it does not hold.
    stop_requested
        Asked several times a second: parts in hand are finished then, and no others begun.

    Raises
    ------
    ConfigError
        Something else is at `path` (kind ``exists``), the disk is full (``disk-full``), workers cannot start.
    ConflictError
        Somebody else is making it (kind ``at-work``), or another plan was begun there (``ForeignPlanError``).
    SourceError
        A value does not survive its cast (kind ``lossy-cast``), or a source is at fault.
    CorruptError
        A chunk or file is damaged; it is named.
    IngestError
        Whatever else stood in the way of a part until the end.
    """
    workplace = Workplace(check_path(path))
    if found := find_finished(workplace.path, plan):
        return found
    with workplace.locked():
        if found := find_finished(workplace.path, plan):  # whoever held the lock has finished it
            workplace.forsake()
            return found
        plan = workplace.enter(plan)
        run = _Run(plan, workplace, options, observer, allow_lossy=allow_lossy)
        return run.to_the_end(open_pool, workers, stop_requested)


class _Run:
    def __init__(
        self,
        plan: ConversionPlan,
        workplace: Workplace,
        options: ReadOptions,
        observer: ConvertObserver,
        *,
        allow_lossy: bool,
    ) -> None:
        self._plan, self._workplace, self._options, self._observer = plan, workplace, options, observer
        self._allow_lossy = allow_lossy
        self._done: dict[int, PartReceipt] = {}
        self._rows_before = 0
        self._draining = False

    def to_the_end(self, open_pool: OpenPool, workers: int | None, stop_requested: Callable[[], bool]) -> Converted:
        """Make what is missing, then all else."""
        self._look()
        self._rows_before = self._rows
        missing = [part for part in self._plan.parts if part.number not in self._done]
        n_workers = planned_workers(len(missing), workers)
        self._observer.began(self._plan, len(self._done), n_workers if missing else 0)
        start = time.perf_counter()
        if missing:
            units = cut_even_units([(part.number, part.place.n_rows) for part in missing], workers=n_workers)
            scheduler = Scheduler(units, run_id=f"convert-{secrets.token_hex(4)}", draw=random.random)
            factory = ConvertFactory(str(self._workplace.path), self._plan.digest, self._options, self._allow_lossy)
            with open_pool(factory, n_workers, memory_bytes=_WORKER_BYTES) as pool:
                start = self._drive(scheduler, pool, stop_requested)
        self._look()
        finished = len(self._done) == len(self._plan.parts)
        if not finished and not self._draining:
            absent = next(part.number for part in self._plan.parts if part.number not in self._done)
            raise IngestError(f"part {absent} was not written", kind="unwritten")
        if finished:
            self._finish()
        return Converted(
            self._workplace.path,
            self._plan,
            len(self._done),
            finished,
            rows=self._rows - self._rows_before,
            seconds=time.perf_counter() - start,
            lossy=self._worst(),
        )

    @property
    def _rows(self) -> int:
        return sum(receipt.n_rows for receipt in self._done.values())

    def _look(self) -> None:
        """Take what is there from the receipts alone; no report of a worker counts."""
        self._done = self._workplace.done(self._plan)
        for receipt in self._done.values():
            if receipt.lossy is not None and not self._allow_lossy:
                source = self._plan.sources[self._plan.parts[receipt.part].source]
                raise lossy_error(source.facts.label, receipt.lossy, self._plan.spec.data)

    def _worst(self) -> dict[int, LossyCast]:
        found: dict[int, LossyCast] = {}
        for receipt in self._done.values():
            source = self._plan.parts[receipt.part].source
            if (worst := worse_of(found.get(source), receipt.lossy)) is not None:
                found[source] = worst
        return found

    def _drive(self, scheduler: Scheduler, pool: Pool, stop_requested: Callable[[], bool]) -> float:
        """Run units until all are settled; return when the first was handed out."""
        start: float | None = None
        n_rows = self._rows
        while not (scheduler.finished or (self._draining and not scheduler.n_in_flight)):
            if stop_requested() and not self._draining:
                self._draining = True
                pool.stop_soon()
                self._observer.draining(scheduler.n_in_flight)
            while not self._draining and pool.has_free() and (task := scheduler.next(time.monotonic())) is not None:
                start = time.perf_counter() if start is None else start
                pool.submit(task, deadline_s=self._deadline_s(task))
            for event in pool.wait(_POLL_S):
                settled = scheduler.settle(event, time.monotonic())
                if isinstance(event, Ended) and settled.done:
                    n_rows += event.outcome.n_cells
                if isinstance(event, Lost):  # it may have finished parts before it died
                    self._look()
                    scheduler.forget(self._done.keys() & set(event.task.chunks))
                    n_rows = max(n_rows, self._rows)
                self._judge(scheduler, settled.failures, settled.retried)
            self._observer.reached(min(n_rows + sum(one.n_cells for one in pool.progress()), self._plan.spec.n_rows))
        return time.perf_counter() if start is None else start

    def _judge(self, scheduler: Scheduler, failures: tuple[Failure, ...], retried: int) -> None:
        for failure in failures:
            if failure.handling in _HOPELESS:
                raise error_of(failure)
            self._observer.troubled(failure, retried)
        final = [*scheduler.quarantined.values(), *scheduler.gave_up.values()]
        if fatal := scheduler.fatal or next(iter(final), None):
            raise error_of(fatal)

    def _deadline_s(self, task: UnitTask) -> float:
        n_bytes = sum(self._plan.bytes_of(self._plan.parts[number]) for number in task.chunks)
        return _LEAST_DEADLINE_S + n_bytes / _SLOWEST_BYTES_PER_S

    def _finish(self) -> None:
        self._observer.finishing()
        workplace = self._workplace
        try:
            if not workplace.is_described:
                workplace.tidy()
                describe_archive(workplace.folder, self._plan, self._options)
            workplace.finish()
        except (IngestError, OSError):
            # Another driver, where files have no locks, may have come first.
            if find_finished(workplace.path, self._plan) is None:
                raise
