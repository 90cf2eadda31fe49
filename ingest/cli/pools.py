"""Which pool runs the units: the one place where `actors` meets `ingest`."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ingest.cli.meter import Meter
from ingest.cli.progress import notice
from ingest.cli.words import count_text
from ingest.errors import ConfigError
from ingest.json_lines import adopt_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actors.growth import Growth
    from ingest.pool import Pool, SizedFactory
    from ingest.running import OpenPool
    from ingest.settings import WorkSettings

__all__ = ["announce_pool", "on_cluster", "pool_for", "resource_amounts", "resource_option", "shared_cluster"]

resource_option = click.option(
    "--resource",
    multiple=True,
    metavar="NAME=AMOUNT",
    help="Of a cluster's nodes, taken by each worker: spot=0.01 keeps to the nodes that have it; repeatable.",
)
"""Of every command that starts workers; `resource_amounts` reads it."""

_ASKED_FOR_OTHERWISE = {"CPU": "--cpus", "memory": "--memory"}


def on_cluster(pool: str) -> bool:
    """Say whether workers run on a cluster that is there already, on machines of which nothing is known here."""
    from actors.cluster import cluster_address

    return pool == "ray" and cluster_address() is not None


def resource_amounts(texts: Sequence[str], *, away: bool) -> dict[str, float]:
    """Read ``NAME=AMOUNT`` of each of `texts`.

    Parameters
    ----------
    away
        Whether there is a cluster, whose nodes may have such resources.

    Raises
    ------
    ConfigError
        Kind ``bad-resource``; so is a name that comes twice.
    """
    if texts and not away:
        raise ConfigError(
            f"--resource {texts[0]}: only nodes of a cluster have resources of their own",
            kind="bad-resource",
            hint="set RAY_ADDRESS to its head, or submit the command as a Ray job",
        )
    amounts: dict[str, float] = {}
    for text in texts:
        name, amount = _resource_amount(text)
        if name in amounts:
            raise ConfigError(
                f"--resource {text}: {name} stands twice, the first time with {amounts[name]:g}",
                kind="bad-resource",
                hint="say it once",
            )
        amounts[name] = amount
    return amounts


def _resource_amount(text: str) -> tuple[str, float]:
    name, _, said = text.partition("=")
    name = name.strip()
    if option := _ASKED_FOR_OTHERWISE.get(name):
        raise ConfigError(f"--resource {text}: {option} says that", kind="bad-resource")
    try:
        amount = float(said)
    except ValueError:
        amount = math.nan
    # Ray's own rule: parts of one, or whole ones.
    if not name or not (0 < amount <= 1 or (amount > 1 and amount.is_integer())):
        raise ConfigError(
            f"--resource {text}: write NAME=AMOUNT, a part of one or a whole number, such as spot=0.01",
            kind="bad-resource",
        )
    return name, amount


def announce_pool(settings: WorkSettings, n_workers: int) -> None:
    """Say what is started: it takes seconds in which nothing else moves."""
    if settings.pool != "ray":
        return
    from actors.cluster import cluster_address

    if (where := cluster_address()) is None:
        notice("Ray", f"starting a local Ray with {count_text(n_workers, 'worker')}")
        return
    many = count_text(n_workers, "worker") if settings.workers else "as many workers as it has room for"
    notice("Ray", f"joining {where}, {many}")


def _growth(settings: WorkSettings, size: int) -> Growth | None:
    """Return how the pool follows a cluster's size; on a local Ray it has one."""
    if not settings.on_cluster:
        return None
    from actors.growth import Growth

    return Growth(size, at_once=settings.workers is not None)


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
            pool = RayPool(
                factory,
                size,
                num_cpus=factory.threads,
                memory_bytes=memory_bytes,
                resources=settings.resources,
                growth=_growth(settings, size),
            )
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
