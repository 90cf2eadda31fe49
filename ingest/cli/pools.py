"""Which pool runs the units: the one place where `actors` meets `ingest`."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ingest.cli.progress import notice
from ingest.cli.words import count_text
from ingest.json_lines import adopt_logger
from ingest.run_events import RunBegan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.metrics import RunMetrics
    from actors.pool import RayPool
    from ingest.pool import Pool, SizedFactory
    from ingest.run_events import RunEvent
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["Meter", "announce_pool", "pool_for", "shared_cluster"]

_log = logging.getLogger(__name__)


class Meter:
    """The metrics of a run, from when its pool is open: Ray must not be imported before it is connected to."""

    def __init__(self) -> None:
        self._began: RunBegan | None = None
        self._metrics: RunMetrics | None = None

    def hear(self, event: RunEvent) -> None:
        """Remember the run; count what happens in it."""
        if isinstance(event, RunBegan):
            self._began = event
        elif self._metrics is not None:
            self._metrics.hear(event)

    @contextmanager
    def reading(self, pool: RayPool) -> Iterator[None]:
        """Count while the body runs; no trouble with metrics leaves here."""
        if self._began is None:
            yield
            return
        try:
            from actors.metrics import RunMetrics

            self._metrics = RunMetrics(self._began, pool)
        except Exception as error:  # noqa: BLE001 # whatever it is, the cells matter more than their counting
            _log.warning("no metrics: %r", error)
        try:
            yield
        finally:
            metrics, self._metrics = self._metrics, None
            if metrics is not None:
                with suppress(Exception):
                    metrics.close()


def announce_pool(settings: WorkSettings, n_workers: int) -> None:
    """Say what is started: it takes seconds in which nothing else moves."""
    if settings.pool == "ray":
        where = os.environ.get("RAY_ADDRESS")
        notice("Ray", f"joining {where}" if where else f"starting a local Ray with {count_text(n_workers, 'worker')}")


def pool_for(settings: WorkSettings, meter: Meter | None = None) -> OpenPool:
    """Return how to open the pool that the settings ask for; `meter` hears the events of the run in it."""

    @contextmanager
    def open_serial(factory: SizedFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:
        del size, memory_bytes  # one worker, in this process
        from ingest.serial_pool import SerialPool

        pool = SerialPool(factory)
        try:
            yield pool
        finally:
            pool.close()

    @contextmanager
    def open_ray(factory: SizedFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:
        from actors.cluster import connect
        from actors.pool import RayPool

        with connect(workers=size, cpus_per_worker=factory.threads, dashboard=settings.dashboard):
            adopt_logger("ray")
            pool = RayPool(factory, size, num_cpus=factory.threads, memory_bytes=memory_bytes)
            try:
                with (meter or Meter()).reading(pool):
                    yield pool
            finally:
                pool.close()

    return open_serial if settings.pool == "serial" else open_ray


@contextmanager
def shared_cluster(settings: WorkSettings, n_workers: int) -> Iterator[None]:
    """Be connected to one Ray for all pools that are opened meanwhile, one after another."""
    if settings.pool == "serial":
        yield
        return
    from actors.cluster import connect

    with connect(workers=n_workers, cpus_per_worker=settings.cpus or 1, dashboard=settings.dashboard):
        yield
