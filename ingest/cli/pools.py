"""Which pool runs the units: the one place where `actors` meets `ingest`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingest.cli.meter import Meter
from ingest.cli.progress import notice
from ingest.cli.words import count_text
from ingest.json_lines import adopt_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.pool import Pool, SizedFactory
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["announce_pool", "pool_for", "shared_cluster"]


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
