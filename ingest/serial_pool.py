"""The pool without a pool: one worker, in a thread of this process, for laptops, tests and debuggers."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ingest.errors import ConfigError, IngestError
from ingest.pool import Ended, run_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.pool import PoolEvent, Progress, UnitOutcome, UnitTask, UnitWorker, WorkerFactory

__all__ = ["SerialPool"]


class SerialPool:
    """One worker in a thread of this process.

    The thread leaves the driver's loop free to show progress and to notice signals. Deadlines are not kept, since
    nobody is there to end this process, and a worker that dies takes the driver with it: what needs those needs a
    pool of processes.

    Parameters
    ----------
    factory
        Makes the worker, at the first `wait`.
    """

    def __init__(self, factory: WorkerFactory) -> None:
        self._factory = factory
        self._worker: UnitWorker | None = None
        self._run: _Run | None = None
        self._stopping = False
        self._closed = False

    @property
    def size(self) -> int:
        """One."""
        return 1

    def has_free(self) -> bool:
        """Whether the worker has started and holds no unit."""
        return self._worker is not None and self._run is None

    @property
    def is_busy(self) -> bool:
        """Whether the worker holds a unit."""
        return self._run is not None

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:  # noqa: ARG002 # the Protocol's; see the class
        """Begin `task`.

        Raises
        ------
        RuntimeError
            The worker is not free: a mistake of the caller.
        """
        if self._worker is None or self._run is not None:
            raise RuntimeError("submit to a pool without a free worker")
        self._run = _Run(self._worker, task)

    def wait(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Block until the unit in hand ends or `timeout_s` is over; without one, start the worker if need be.

        Raises
        ------
        ConfigError
            Kind ``pool-start``: the worker could not be started; its cause says why.
        """
        if self._closed:
            return []
        if self._worker is None:
            self._start()
            return []
        if self._run is None:
            time.sleep(timeout_s)
            return []
        ended = self._run.ended(timeout_s)
        if ended is None:
            return []
        self._run = None
        if ended.outcome.worker_is_spent:
            self._worker.close()
            self._worker = None  # the next `wait` makes another
        return [ended]

    def _start(self) -> None:
        try:
            worker = self._factory()
            worker.ready()
        except Exception as error:
            hint = error.hint if isinstance(error, IngestError) else None
            reason = str(error) if isinstance(error, IngestError) else f"{type(error).__name__}: {error}"
            raise ConfigError(f"the worker cannot start: {reason}", kind="pool-start", hint=hint) from error
        self._worker = worker
        if self._stopping:  # asked before there was anybody to ask
            worker.stop_soon()

    def progress(self) -> Sequence[Progress]:
        """Return how far the unit in hand is."""
        worker = self._worker
        latest = worker.progress() if worker is not None and self._run is not None else None
        return [] if latest is None else [latest]

    def stop_soon(self) -> None:
        """Ask the worker to end after the chunk in hand."""
        self._stopping = True
        if self._worker is not None:
            self._worker.stop_soon()

    def close(self) -> None:
        """Close the worker, unless it is still at work: then it is left to end with the process."""
        worker, run = self._worker, self._run
        self._worker = self._run = None
        self._closed = True
        if worker is not None and run is None:
            worker.close()


class _Run:
    """A unit on its thread."""

    def __init__(self, worker: UnitWorker, task: UnitTask) -> None:
        self._task = task
        self._outcome: UnitOutcome | None = None
        self._death: BaseException | None = None
        # A daemon: when a second signal ends the driver at once, nothing waits for the unit.
        self._thread = threading.Thread(target=self._go, args=(worker,), name=f"unit-{task.unit_id}", daemon=True)
        self._thread.start()

    def _go(self, worker: UnitWorker) -> None:
        try:
            self._outcome = run_unit(worker, self._task)
        except BaseException as error:  # noqa: BLE001 # what ends a process (SystemExit, …) must end the driver's
            self._death = error

    def ended(self, timeout_s: float) -> Ended | None:
        self._thread.join(timeout_s)
        if self._death is not None:
            raise self._death
        return None if self._outcome is None else Ended(self._task, self._outcome)
