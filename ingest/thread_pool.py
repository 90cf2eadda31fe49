"""A pool of threads of this process: for work that mostly runs outside the interpreter's lock, on one machine."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from ingest.serial_pool import SerialPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.pool import PoolEvent, Progress, UnitTask, WorkerFactory

__all__ = ["ThreadPool", "leave_units"]

_SLICE_S = 0.005
"""Between two looks at the threads: each is joined by itself."""
_JOIN_S = 0.2


class ThreadPool:
    """As many workers as asked for, each in a thread; what holds for `SerialPool` holds for every one of them.

    Parameters
    ----------
    factory
        Makes the workers, at the first `wait`.
    size
        How many.
    """

    def __init__(self, factory: WorkerFactory, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool of {size} workers")
        self._ones = [SerialPool(factory) for _ in range(size)]
        self._started = False
        self._closed = False

    @property
    def size(self) -> int:
        """Workers."""
        return len(self._ones)

    def has_free(self) -> bool:
        """Whether a worker has started and holds no unit."""
        return any(one.has_free() for one in self._ones)

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:
        """Begin `task` with a free worker.

        Raises
        ------
        RuntimeError
            No worker is free: a mistake of the caller.
        """
        free = next((one for one in self._ones if one.has_free()), None)
        if free is None:
            raise RuntimeError("submit to a pool without a free worker")
        free.submit(task, deadline_s=deadline_s)

    def wait(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Block until a unit ends or `timeout_s` is over; the first time, start the workers.

        Raises
        ------
        ConfigError
            Kind ``pool-start``: a worker could not be started; its cause says why.
        """
        give_up = time.monotonic() + timeout_s
        while not self._closed:
            events = [event for one in self._ones for event in one.wait(0)]
            left = give_up - time.monotonic()
            if events or not self._started or left <= 0:
                self._started = True
                return events
            time.sleep(min(_SLICE_S, left))
        return []

    def progress(self) -> Sequence[Progress]:
        """Return how far the units in hand are."""
        return [latest for one in self._ones for latest in one.progress()]

    def stop_soon(self) -> None:
        """Ask the workers to end after the chunk in hand."""
        for one in self._ones:
            one.stop_soon()

    def close(self) -> None:
        """Close the workers, those at work as soon as the chunk in hand is done.

        A thread that is left in the midst of HDF5 when the interpreter ends keeps h5py's lock for ever, and the end
        waits for it.
        """
        self._closed = True
        self.stop_soon()
        for one in self._ones:
            while one.is_busy:
                one.wait(_JOIN_S)
            one.close()


def leave_units(code: int) -> None:
    """End the process at once with `code` if a unit's thread is at work; return otherwise.

    For who was asked to stop now: see `ThreadPool.close` for what else would become of it.
    """
    if any(thread.name.startswith("unit-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
