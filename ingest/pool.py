"""The seam to whatever runs units in parallel: the driver decides, a pool executes.

A pool holds `size` workers and at most one unit each. It never retries: every submitted unit ends in exactly one
event, and the driver alone decides what runs again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Ended", "Failure", "Lost", "Pool", "PoolEvent", "Progress", "UnitOutcome", "UnitTask"]


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
    handling: Literal["config", "source", "transient", "corrupt", "conflict", "internal"]
    """Which branch of the error tree it is; ``internal`` is an unforeseen exception."""
    kind: str
    message: str
    hint: str | None = None
    source: str | None = None
    retry_after_s: float | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """What a worker reports when it has ended a unit; it does not raise for expected trouble."""

    unit_id: int
    done: tuple[int, ...]
    """Chunks whose receipt now exists, by this attempt or adopted."""
    failures: tuple[Failure, ...] = ()
    undone: tuple[int, ...] = ()
    """Chunks left because the worker was asked to stop; nothing is wrong with them."""
    n_cells: int = 0
    nnz: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by stage: fetch, validate, encode, store."""
    retries: int = 0
    """Store and source operations that were tried again within this unit."""
    peak_rss_bytes: int = 0


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
        """Ask busy workers to end after the chunk in hand; their units end with `undone` chunks."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...
