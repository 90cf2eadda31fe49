"""What a run says of itself while it runs: plain data for whoever counts it, logs it or draws it.

An observer of the run that is a `Listener`, too, hears them. `Listeners` passes them on to several and keeps the run
safe from them: one that fails is heard of once, and hears no more.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ingest.driver import Observer
    from ingest.pool import Failure, PoolEvent, UnitTask
    from ingest.schedule import Settled

__all__ = [
    "Listener",
    "Listeners",
    "Moved",
    "Observed",
    "RunBegan",
    "RunEnded",
    "RunEvent",
    "UnitBegan",
    "UnitSettled",
    "hearing",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunBegan:
    """A run is on record in DEST; its workers have not started yet."""

    run: str
    command: str
    """``run`` or ``repair``."""
    dest: str
    """URL of DEST, without secrets."""
    n_chunks: int
    """Of the plan."""
    n_kept: int
    """Of them, those that this run does not make: they are there already."""
    n_units: int
    workers: int
    """Wanted."""
    memory_bytes: int
    """Most that one worker may hold, by the projection."""


@dataclass(frozen=True, slots=True)
class UnitBegan:
    """A unit was handed to a worker."""

    task: UnitTask


@dataclass(frozen=True, slots=True)
class UnitSettled:
    """A unit has ended or was lost, and this is what came of it."""

    event: PoolEvent
    settled: Settled


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the run stands, units in hand included; several times a second, and once more at the end."""

    n_cells: int
    bytes_read: int
    """Of stored data, as far as readers tell; of units in hand, what their workers last said."""
    bytes_written: int
    request_retries: int
    """Requests to stores and sources that were sent again."""
    units_waiting: int
    units_in_flight: int
    chunks_done: int
    """By this run, those of units in hand included, or found done meanwhile."""
    chunks_quarantined: int
    chunks_gave_up: int
    rss_bytes: tuple[int, ...]
    """Resident memory of the workers that hold a unit, as they last said."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over, and recorded as this."""

    run: str
    outcome: str
    """``ended``, ``interrupted``, ``stopped``, ``failed``."""
    seconds: float
    """From the first unit's submission to the last one's end."""


RunEvent = RunBegan | UnitBegan | UnitSettled | Moved | RunEnded


@runtime_checkable
class Listener(Protocol):
    """Whoever hears of a run; called from the driver's own thread, so it must be quick."""

    def hear(self, event: RunEvent) -> None:
        """Take what has happened."""
        ...


def hearing(observer: object) -> Callable[[RunEvent], None]:
    """Return how `observer` is told of events: not at all when it is no `Listener`."""
    return observer.hear if isinstance(observer, Listener) else _nobody


def _nobody(event: RunEvent) -> None:
    del event


class Listeners:
    """Pass events on to several; none of them can fail the run."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._listeners = list(listeners)

    def hear(self, event: RunEvent) -> None:
        """Tell everybody; who fails is told nothing any more."""
        for listener in list(self._listeners):
            try:
                listener.hear(event)
            except Exception as error:  # noqa: BLE001 # whatever it is, the cells matter more than their counting
                self._listeners.remove(listener)
                _log.warning("%s has failed and is left out from now on: %r", type(listener).__name__, error)


class Observed:
    """An observer for a person, and listeners beside it: the run sees one."""

    def __init__(self, observer: Observer, listeners: Iterable[Listener]) -> None:
        self._observer = observer
        self.hear = Listeners(listeners).hear

    def began(self) -> None:
        """Pass it on."""
        self._observer.began()

    def moved(self, n_cells: int, bytes_written: int, retries: int) -> None:
        """Pass it on."""
        self._observer.moved(n_cells, bytes_written, retries)

    def troubled(self, failure: Failure, retried: int) -> None:
        """Pass it on."""
        self._observer.troubled(failure, retried)

    def draining(self, n_units: int) -> None:
        """Pass it on."""
        self._observer.draining(n_units)
