"""Metrics of a run by `ray.util.metrics`, for Prometheus: all that its driver knows, counted in the driver.

Workers die and are replaced; outcomes and progress arrive here, whoever sent them. So each counter is one series of
one process, it agrees with the run's own summary, and nothing of a killed worker waits for an export that never comes.
(On Ray 2.60 the driver's last values are exported when it disconnects.)

No label has a value for each worker, unit, chunk or source: `dest` is one a run, the others are named in this code.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ray.util.metrics import Counter, Gauge

from ingest.pool import Ended
from ingest.run_events import Moved, RunBegan, UnitSettled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ingest.run_events import RunEvent
    from ingest.schedule import Settled

__all__ = ["METRICS", "CountsWorkers", "MetricSpec", "RunMetrics"]

_EVERY_S = 1.0
"""How often gauges are set: Ray 2.60 forgets those that two of its reports (10 s apart, usually) bring no value of."""

_FINAL = frozenset({"config", "source", "conflict"})
"""Handlings of failures after which nothing is tried again."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric, as this code names it."""

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    labels: tuple[str, ...] = ()
    """Beside `dest`, which all have, and what Ray adds (node, session, process)."""

    @property
    def exported(self) -> str:
        """The name that Prometheus sees."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


METRICS = (
    MetricSpec("cell_ingest_cells", "counter", "Cells committed"),
    MetricSpec("cell_ingest_read_bytes", "counter", "Stored bytes read from sources, as far as readers tell"),
    MetricSpec("cell_ingest_written_bytes", "counter", "Bytes of chunks written to DEST"),
    MetricSpec("cell_ingest_chunks", "gauge", "Chunks of the plan: done, missing, quarantined, gave_up", ("state",)),
    MetricSpec("cell_ingest_units", "gauge", "Units not ended: waiting, in_flight", ("state",)),
    MetricSpec("cell_ingest_units_ended", "counter", "Units ended: done, failed, stopped, lost", ("outcome",)),
    MetricSpec("cell_ingest_units_lost", "counter", "Units lost with their worker, by what ended it", ("kind",)),
    MetricSpec("cell_ingest_failures", "counter", "Failures of chunks on record, by kind of error", ("kind",)),
    MetricSpec("cell_ingest_retries", "counter", "Tried again: units by kind of error, and requests", ("kind",)),
    MetricSpec("cell_ingest_stage_seconds", "counter", "Wall seconds of workers by stage, of ended units", ("stage",)),
    MetricSpec("cell_ingest_workers", "gauge", "Workers: wanted, alive, busy", ("state",)),
    MetricSpec("cell_ingest_worker_rss_max_bytes", "gauge", "Resident memory of the largest busy worker"),
    MetricSpec("cell_ingest_workers_rss_bytes", "gauge", "Resident memory of all busy workers together"),
    MetricSpec("cell_ingest_worker_memory_limit_bytes", "gauge", "Most that one worker may hold, by the projection"),
)


class CountsWorkers(Protocol):
    """A pool that knows how many of its workers live."""

    @property
    def size(self) -> int:
        """Workers wanted."""
        ...

    @property
    def n_alive(self) -> int:
        """Workers that have started and are not known to be dead."""
        ...


class RunMetrics:
    """Turns the events of one run into metrics; connect to Ray first.

    Parameters
    ----------
    began
        The run.
    pool
        Its workers.
    clock
        Of the `time` module.
    """

    def __init__(self, began: RunBegan, pool: CountsWorkers, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._began, self._pool, self._clock = began, pool, clock
        self._metrics = {spec.name: _instrument(spec, began.dest) for spec in METRICS}
        self._counted: dict[str, int] = {}
        self._next = 0.0

    def hear(self, event: RunEvent) -> None:
        """Count `event`."""
        if isinstance(event, UnitSettled):
            self._settle(event)
            self._next = 0.0
        elif isinstance(event, Moved):
            self._advance("cell_ingest_cells", event.n_cells)
            self._advance("cell_ingest_read_bytes", event.bytes_read)
            self._advance("cell_ingest_written_bytes", event.bytes_written)
            self._advance("cell_ingest_retries", event.request_retries, kind="request")
            if self._clock() >= self._next:
                self._next = self._clock() + _EVERY_S
                self._show(event)

    def close(self) -> None:
        """Say that nobody works any more: the last values of a gauge are shown for a while after its process."""
        self._set("cell_ingest_units", {"waiting": 0, "in_flight": 0})
        self._set("cell_ingest_workers", {"wanted": 0, "alive": 0, "busy": 0})
        self._gauge("cell_ingest_worker_rss_max_bytes", 0)
        self._gauge("cell_ingest_workers_rss_bytes", 0)

    def _settle(self, event: UnitSettled) -> None:
        settled, ended = event.settled, event.event
        if isinstance(ended, Ended):
            outcome = "failed" if settled.failures else "stopped" if ended.outcome.undone else "done"
            for stage, seconds in ended.outcome.seconds.items():
                self._inc("cell_ingest_stage_seconds", seconds, stage=stage)
        else:
            outcome = "lost"
            self._inc("cell_ingest_units_lost", 1, kind=ended.kind)
        self._inc("cell_ingest_units_ended", 1, outcome=outcome)
        for failure in settled.failures:
            self._inc("cell_ingest_failures", 1, kind=failure.kind)
        if settled.retried:
            self._inc("cell_ingest_retries", 1, kind=_retried_for(settled))

    def _show(self, now: Moved) -> None:
        began = self._began
        ended = {"quarantined": now.chunks_quarantined, "gave_up": now.chunks_gave_up}
        done = began.n_kept + now.chunks_done
        missing = max(0, began.n_chunks - done - sum(ended.values()))
        self._set("cell_ingest_chunks", {"done": done, "missing": missing, **ended})
        self._set("cell_ingest_units", {"waiting": now.units_waiting, "in_flight": now.units_in_flight})
        workers = {"wanted": self._pool.size, "alive": self._pool.n_alive, "busy": now.units_in_flight}
        self._set("cell_ingest_workers", workers)
        self._gauge("cell_ingest_worker_rss_max_bytes", max(now.rss_bytes, default=0))
        self._gauge("cell_ingest_workers_rss_bytes", sum(now.rss_bytes))
        self._gauge("cell_ingest_worker_memory_limit_bytes", began.memory_bytes)

    def _advance(self, name: str, value: int, **labels: str) -> None:
        """Bring a counter up to `value`; it never goes back, as what a lost worker had begun does."""
        self._inc(name, value - self._counted.get(name, 0), **labels)
        self._counted[name] = max(value, self._counted.get(name, 0))

    def _inc(self, name: str, by: float, **labels: str) -> None:
        if by > 0:
            self._metrics[name].inc(by, labels)

    def _set(self, name: str, states: Mapping[str, int]) -> None:
        for state, value in states.items():
            self._gauge(name, value, state=state)

    def _gauge(self, name: str, value: float, **labels: str) -> None:
        self._metrics[name].set(value, labels)


def _retried_for(settled: Settled) -> str:
    """Return the kind of the first failure that is not final: a unit may have one beside one that is."""
    passing = (failure.kind for failure in settled.failures if failure.handling not in _FINAL)
    return next(passing, "left-undone")


def _instrument(spec: MetricSpec, dest: str) -> Any:
    make: Any = Counter if spec.kind == "counter" else Gauge
    return make(spec.name, description=spec.about, tag_keys=("dest", *spec.labels)).set_default_tags({"dest": dest})
