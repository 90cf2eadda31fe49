"""The seam to whatever runs units in parallel: the driver decides, a pool executes.

A pool holds `size` workers and at most one unit each. It never retries: every submitted unit ends in exactly one
event, and the driver alone decides what runs again.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ingest.errors import ConfigError, DiskFullError, IngestError, mask_secrets
from ingest.exhausted import exhausted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Ended",
    "Failure",
    "Handling",
    "Lost",
    "Pool",
    "PoolEvent",
    "Progress",
    "SizedFactory",
    "UnitOutcome",
    "UnitTask",
    "UnitWorker",
    "WorkerFactory",
    "run_unit",
    "unforeseen",
]


Handling = Literal["config", "source", "transient", "corrupt", "exhausted", "conflict", "internal"]
"""A branch of the error tree; ``internal`` is an unforeseen exception."""


@dataclass(frozen=True, slots=True)
class UnitTask:
    """One unit on its way to a worker; small enough to travel."""

    unit_id: int
    """Unique within this run; a retried or re-cut unit is a new one."""
    chunks: tuple[int, ...]
    """Chunk numbers to make, ascending."""
    attempt: str
    """Identifier of this attempt, recorded in receipts and failures."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An expected trouble of one or more chunks, as plain data."""

    chunks: tuple[int, ...]
    """The chunks that could not be made because of it."""
    handling: Handling
    kind: str
    message: str
    hint: str | None = None
    source: str | None = None
    retry_after_s: float | None = None
    traceback: str | None = None

    @property
    def exit_code(self) -> int:
        """Of a run that it stops: 2 when the request or the environment is wrong, else 1."""
        # A full disk is no mistake in what was asked for.
        is_wrong = self.handling == "config" and self.kind != DiskFullError.default_kind
        return ConfigError.exit_code if is_wrong else IngestError.exit_code


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """What a worker reports when it has ended a unit; it does not raise for expected trouble."""

    unit_id: int
    done: tuple[int, ...]
    """Chunks whose receipt now exists, by this attempt or adopted."""
    failures: tuple[Failure, ...] = ()
    undone: tuple[int, ...] = ()
    """Chunks left because the worker was asked to stop; nothing is wrong with them."""
    adopted: tuple[int, ...] = ()
    """Of `done`, those that somebody else had made: another driver is at work, or an earlier one died."""
    n_cells: int = 0
    nnz: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by stage: fetch, validate, encode, store."""
    retries: int = 0
    """Store and source operations that were tried again within this unit."""
    peak_rss_bytes: int = 0
    result: Any = None
    """What a unit that writes nothing has found in the chunks that are done (`ingest.folding`); small, it travels."""

    @property
    def worker_is_spent(self) -> bool:
        """Whether the worker has run out of memory, threads or files: a pool replaces it, as one that died."""
        return any(failure.handling == "exhausted" for failure in self.failures)


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker reported."""

    task: UnitTask
    outcome: UnitOutcome


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker is gone and reported nothing; the pool has replaced it or is about to."""

    task: UnitTask
    blame: Literal["unit", "infrastructure"]
    """``unit``: crash, out of memory, deadline; ``infrastructure``: node lost, actor unavailable."""
    kind: str
    """``worker-died``, ``out-of-memory``, ``deadline``, ``node-lost``, ``unavailable``."""
    message: str


PoolEvent = Ended | Lost


@dataclass(frozen=True, slots=True)
class Progress:
    """What one busy worker has done of its unit so far."""

    unit_id: int
    n_cells: int
    bytes_written: int
    retries: int
    n_chunks: int = 0
    """Committed."""
    bytes_read: int = 0
    rss_bytes: int = 0
    """Of the worker's process, now; 0 where it does not say."""


class UnitWorker(Protocol):
    """What a pool runs: one unit at a time, in one thread; `progress` and `stop_soon` come from other threads."""

    def ready(self) -> None:
        """Import, open the destination, warm up: all that can fail before the first unit.

        Raises ``IngestError`` when this worker cannot work.
        """
        ...

    def run(self, task: UnitTask) -> UnitOutcome:
        """Make the chunks of `task`; expected trouble is reported in the outcome, never raised."""
        ...

    def progress(self) -> Progress | None:
        """Return how far the unit in hand is, None between units; callable from any thread during `run`."""
        ...

    def stop_soon(self) -> None:
        """End after the chunk in hand, now and in every later unit: chunks not begun come back as ``undone``.

        Callable from any thread and from a signal handler in the middle of `run`, so it takes no lock that `run`
        may hold. It cannot be taken back, which makes a request that overtakes its unit harmless.
        """
        ...

    def close(self) -> None:
        """Let go of what `ready` opened; a killed worker never gets here."""
        ...


class WorkerFactory(Protocol):
    """Makes the worker in the process where it runs: picklable, small, and of an installed module."""

    def __call__(self) -> UnitWorker:
        """Make one worker; cheap, `UnitWorker.ready` does the work."""
        ...


class SizedFactory(WorkerFactory, Protocol):
    """A factory that says how many CPUs its worker keeps busy."""

    @property
    def threads(self) -> int:
        """CPUs of one worker."""
        ...


def run_unit(worker: UnitWorker, task: UnitTask) -> UnitOutcome:
    """Run `task`, turning an exception that nobody foresaw into an outcome: every chunk failed, ``internal``."""
    try:
        outcome = worker.run(task)
        if outcome.unit_id != task.unit_id:
            raise ValueError(f"worker answered for unit {outcome.unit_id}")  # noqa: TRY301 # reported like any other
    except Exception as error:  # noqa: BLE001 # whatever it is, the unit ends and the pool lives on
        return UnitOutcome(task.unit_id, done=(), failures=(unforeseen(task.chunks, error),))
    return outcome


def unforeseen(chunks: tuple[int, ...], error: BaseException, lines: str | None = None) -> Failure:
    """Return the failure of `chunks` by an exception of no kind of ours; `lines` is its traceback, told elsewhere."""
    message = mask_secrets(f"{type(error).__name__}: {error}".strip())
    lines = "".join(traceback.format_exception(error)) if lines is None else lines
    if (spent := exhausted(error)) is not None:
        return Failure(chunks, "exhausted", spent.kind, message, spent.hint, traceback=mask_secrets(lines))
    return Failure(chunks, "internal", "unforeseen", message, traceback=mask_secrets(lines))


class Pool(Protocol):
    """Workers that make units.

    Raises from any method: ``ConfigError`` (kind ``pool-start``) when workers cannot be started at all, after
    the pool's own budget of consecutive failed starts; it carries the cause.
    """

    @property
    def size(self) -> int:
        """Workers wanted; at most this many units are in flight."""
        ...

    def has_free(self) -> bool:
        """Whether a started, idle worker would take a unit now."""
        ...

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:
        """Give `task` to an idle worker; past `deadline_s` the worker is killed and the unit is ``Lost``."""
        ...

    def wait(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Block up to `timeout_s` for the end of any unit (or for a worker to become free) and return the events."""
        ...

    def progress(self) -> Sequence[Progress]:
        """Return the latest known progress of busy workers; never blocks, may be stale or empty."""
        ...

    def stop_soon(self) -> None:
        """Ask workers to end after the chunk in hand; units end with `undone` chunks, later ones wholly so.

        Callable from a signal handler and from any thread; delivered at the latest within `wait`.
        """
        ...

    def close(self) -> None:
        """End all workers at once, whatever they do; closing twice is closing once."""
        ...
