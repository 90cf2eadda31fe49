"""The pool without a pool: one worker, in this process, which runs its unit inside `wait`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.errors import ConfigError, IngestError
from ingest.pool import Ended, run_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.pool import PoolEvent, Progress, UnitTask, UnitWorker, WorkerFactory

__all__ = ["SerialPool"]


class SerialPool:
    """Make units one after another in the calling thread: for laptops, tests and debuggers.

    Deadlines are not kept, since nobody is there to end this process, and a worker that dies takes the driver with
    it: what needs those needs a pool of processes.

    Parameters
    ----------
    factory
        Makes the worker, at the first `wait`.
    """

    def __init__(self, factory: WorkerFactory) -> None:
        self._factory = factory
        self._worker: UnitWorker | None = None
        self._task: UnitTask | None = None
        self._stopping = False
        self._closed = False

    @property
    def size(self) -> int:
        """One."""
        return 1

    def has_free(self) -> bool:
        """Whether the worker has started and holds no unit."""
        return self._worker is not None and self._task is None

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:  # noqa: ARG002 # the Protocol's; see the class
        """Keep `task` for the next `wait`.

        Raises
        ------
        RuntimeError
            The worker is not free: a mistake of the caller.
        """
        if not self.has_free():
            raise RuntimeError("submit to a pool without a free worker")
        self._task = task

    def wait(self, timeout_s: float) -> Sequence[PoolEvent]:  # noqa: ARG002 # a unit takes the time it takes
        """Run the unit in hand to its end, however long; without one, start the worker if need be and return.

        Raises
        ------
        ConfigError
            Kind ``pool-start``: the worker could not be started; its cause says why.
        """
        if self._closed:
            return []
        if self._worker is None:
            self._start()
        if self._worker is None or self._task is None:
            return []
        try:
            return [Ended(self._task, run_unit(self._worker, self._task))]
        finally:
            self._task = None

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
        """Return how far the unit in hand is; of use to other threads and signal handlers, as `wait` blocks."""
        worker = self._worker
        latest = worker.progress() if worker is not None and self._task is not None else None
        return [] if latest is None else [latest]

    def stop_soon(self) -> None:
        """Ask the worker to end after the chunk in hand."""
        self._stopping = True
        if self._worker is not None:
            self._worker.stop_soon()

    def close(self) -> None:
        """Close the worker."""
        worker, self._worker, self._task = self._worker, None, None
        self._closed = True
        if worker is not None:
            worker.close()
