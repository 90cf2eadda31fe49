"""The actor: a plain worker object in a process of its own, answering questions while it works."""

from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import cloudpickle

from actors.build import mismatch, this_build
from ingest.errors import ConfigError, IngestError
from ingest.pool import run_unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.actor import ActorHandle

    from actors.build import Build
    from ingest.pool import Progress, UnitOutcome, UnitTask, UnitWorker, WorkerFactory

__all__ = ["THREAD_VARIABLES", "WorkerActor", "WorkerPlace", "WorkerSpec", "start_actor"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "BLOSC_NTHREADS",
    "TILEDB_SM_COMPUTE_CONCURRENCY_LEVEL",
    "TILEDB_SM_IO_CONCURRENCY_LEVEL",
    "TILEDB_SOMA_COMPUTE_CONCURRENCY_LEVEL",
)
"""Thread pools of the libraries under a worker; each of them otherwise sees the whole machine."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What to start, and what the scheduler is to keep free for it."""

    factory: WorkerFactory
    num_cpus: float = 1
    memory_bytes: int | None = None
    """Only schedules: Ray enforces no limit per worker. None asks for none."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources of a node that one worker takes: which nodes may have it, and how many."""
    build: Build = field(default_factory=this_build)
    """What a worker must run."""

    @property
    def n_threads(self) -> int:
        """Threads for each library pool of the worker."""
        return max(1, math.ceil(self.num_cpus))

    def __str__(self) -> str:
        memory = [] if self.memory_bytes is None else [f"{self.memory_bytes:,} bytes"]
        own = [f"{amount:g} {name}" for name, amount in self.resources.items()]
        return " and ".join([f"{self.num_cpus:g} CPU", *memory, *own])

    @property
    def options(self) -> dict[str, Any]:
        """How Ray is asked: anywhere that has room, and rather on nodes that have few."""
        wants: dict[str, Any] = {"num_cpus": self.num_cpus, "scheduling_strategy": "SPREAD"}
        if self.memory_bytes is not None:
            wants["memory"] = self.memory_bytes
        if self.resources:
            wants["resources"] = dict(self.resources)
        return wants


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where a started worker lives."""

    actor_id: str
    node_id: str
    host: str
    pid: int


class WorkerActor:
    """Hold one `UnitWorker`; `run` has a thread of its own, so has each group of other calls.

    The factory arrives pickled and is opened by `ready`: then the libraries it imports find the thread variables
    set, and a module that is missing on this node is an error of the start, with its name. Before that, builds are
    compared: what one pickles another may misread. For the same reason arguments are never taken away or renamed.
    """

    def __init__(self, factory: bytes, n_threads: int, build: Build) -> None:
        # A terminal sends Ctrl-C to the whole foreground group. The driver drains; workers must live to finish.
        # (Ray 2.60 gives workers a group of their own and blocks the signal, which nothing promises.)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Ray's own handler leaves in good order, that is, waits for ever for `watch`.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, str(n_threads))
        self._pickled, self._driver_build = factory, build
        self._worker: UnitWorker | None = None
        self._stopping = False

    def ready(self) -> WorkerPlace | IngestError:
        """Start the worker; return where it lives, or why it cannot work. Raises nothing on purpose."""
        context = ray.get_runtime_context()
        node_id, host = context.get_node_id(), socket.gethostname()
        here = this_build(sources="sources" in self._driver_build)
        if (other := mismatch(self._driver_build, here, f"{host} (node {node_id[:8]})")) is not None:
            return other
        try:
            worker: UnitWorker = pickle.loads(self._pickled)()  # noqa: S301 # made by our own driver, over Ray itself
            worker.ready()
        except IngestError as error:
            return error
        except Exception as error:  # noqa: BLE001 # whatever it is, the driver is to read it
            return ConfigError(f"{type(error).__name__}: {error}", kind="worker-start")
        self._worker = worker
        if self._stopping:
            worker.stop_soon()
        return WorkerPlace(actor_id=str(context.get_actor_id()), node_id=node_id, host=host, pid=os.getpid())

    def run(self, task: UnitTask) -> UnitOutcome:
        """Make the chunks of `task`."""
        if self._worker is None:
            raise RuntimeError("run before ready")
        return run_unit(self._worker, task)

    @ray.method(concurrency_group="control")
    def here(self) -> None:
        """Return: this process has found room on a node."""

    @ray.method(concurrency_group="control")
    def progress(self) -> Progress | None:
        """Return how far the unit in hand is."""
        return None if self._worker is None else self._worker.progress()

    @ray.method(concurrency_group="control")
    def stop_soon(self) -> None:
        """Pass the request on."""
        self._stopping = True
        if self._worker is not None:
            self._worker.stop_soon()

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Never return: the call fails when this process dies, which tells the driver about idle workers."""
        threading.Event().wait()


_remote: Any = ray.remote  # its overloads lack concurrency_groups
_RemoteWorker = _remote(
    max_restarts=0, max_task_retries=0, max_concurrency=1, concurrency_groups={"control": 1, "watch": 1}
)(WorkerActor)


def start_actor(spec: WorkerSpec) -> ActorHandle[Any]:
    """Ask Ray for an actor and return at once; it dies with this driver."""
    pickled = cloudpickle.dumps(spec.factory)  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    handle: ActorHandle[Any] = _RemoteWorker.options(**spec.options).remote(pickled, spec.n_threads, spec.build)
    return handle
