"""Workers in processes of this machine, without Ray: each a fresh Python that is spoken to over a socket.

Nothing is forked, since HDF5, threads and sockets do not survive it, and nobody's ``__main__`` is imported again, as
`multiprocessing` would. A worker that dies hangs up: its unit is ``Lost`` and another worker is started.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError, IngestError
from ingest.pool import Ended, Lost, Progress
from ingest.process_worker import Ready, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from ingest.pool import PoolEvent, SizedFactory, UnitTask, WorkerFactory

__all__ = ["ProcessPool"]

_SLICE_S = 0.1
"""Longest sleep in `wait`: how late a deadline or a request to stop is noticed."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Thread pools of the libraries under a worker; each of them otherwise sees the whole machine."""


@dataclass(eq=False)
class _Member:
    """One process and all that is known of it."""

    process: subprocess.Popen[bytes]
    line: Connection[Any, Any]
    ready: bool = False
    told_to_stop: bool = False
    task: UnitTask | None = None
    deadline: float = 0.0
    deadline_s: float = 0.0
    overdue: bool = False
    latest: Progress | None = field(default=None)

    def end(self) -> None:
        """Kill the process and take its body away."""
        self.process.kill()
        self.process.wait()
        self.line.close()


class ProcessPool:
    """Keep `size` processes at work.

    Parameters
    ----------
    factory
        Makes the worker inside each process; picklable, of an installed module.
    size
        Processes wanted; a dead one is replaced.
    threads
        For each library's own pool of threads in a worker.
    max_failed_starts
        Starts that may fail one after another, while no worker lives, before the pool gives up.
    """

    def __init__(
        self, factory: WorkerFactory | SizedFactory, size: int, *, threads: int = 1, max_failed_starts: int = 4
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool of {size} workers")
        self._pickled = pickle.dumps(factory)
        self._size = size
        self._environment = {**dict.fromkeys(_THREAD_VARIABLES, str(threads)), **os.environ}
        self._most_failed, self._failed = max_failed_starts, 0
        self._cause: IngestError | None = None
        self._members: list[_Member] = []
        self._stopping = False
        self._closed = False
        self._recruit()

    @property
    def size(self) -> int:
        """Processes wanted."""
        return self._size

    def has_free(self) -> bool:
        """Whether a started, idle worker would take a unit now."""
        return self._free() is not None

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:
        """Give `task` to an idle worker.

        Raises
        ------
        RuntimeError
            No worker is free: a mistake of the caller.
        """
        member = self._free()
        if member is None:
            raise RuntimeError("submit to a pool without a free worker")
        member.task, member.latest, member.overdue = task, None, False
        member.deadline_s, member.deadline = deadline_s, time.monotonic() + deadline_s
        with suppress(OSError):  # it is dead: `wait` finds that it hung up, and the unit lost
            member.line.send(task)

    def wait(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Block up to `timeout_s` until units end or a worker becomes free; return what ended.

        Raises
        ------
        ConfigError
            Kind ``pool-start``: starts failed one after the other and no worker lives; its cause says why.
        """
        give_up = time.monotonic() + timeout_s
        while not self._closed:
            self._recruit()
            self._tend()
            n_ready = sum(member.ready for member in self._members)
            left = give_up - time.monotonic()
            events = self._heard(max(0.0, min(left, _SLICE_S)))
            joined = sum(member.ready for member in self._members) > n_ready
            if events or joined or left <= 0:
                return events
        return []

    def progress(self) -> Sequence[Progress]:
        """Return what busy workers last said."""
        return [member.latest for member in list(self._members) if member.task is not None and member.latest]

    def stop_soon(self) -> None:
        """Ask workers to end after the chunk in hand; only sets a flag, `wait` delivers it."""
        self._stopping = True

    def close(self) -> None:
        """Kill all workers."""
        self._closed = True
        for member in self._members:
            member.end()
        self._members.clear()

    def _free(self) -> _Member | None:
        return next((member for member in self._members if member.ready and member.task is None), None)

    def _recruit(self) -> None:
        if self._failed >= self._most_failed and not self._members:
            cause = self._cause or ConfigError("no worker could be started", kind="worker-start")
            raise ConfigError(f"no worker can start: {cause.message}", kind="pool-start", hint=cause.hint) from cause
        while len(self._members) < self._size and self._failed < self._most_failed:
            self._members.append(self._start())

    def _start(self) -> _Member:
        ours, theirs = Pipe()
        with theirs:
            # -c instead of -m: the module is imported once, under its own name, by which messages are pickled.
            command = "import sys; from ingest.process_worker import main; main(int(sys.argv[1]))"
            process = subprocess.Popen(  # noqa: S603 # this Python, with words of our own
                [sys.executable, "-c", command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        member = _Member(process, ours)
        with suppress(OSError):  # it is dead already, as `wait` will find
            ours.send_bytes(self._pickled)
        return member

    def _tend(self) -> None:
        """Deliver what is due: requests to stop, deadlines."""
        now = time.monotonic()
        for member in self._members:
            if self._stopping and member.ready and not member.told_to_stop:
                member.told_to_stop = True
                with suppress(OSError):
                    member.line.send(Stop())
            if member.task is not None and now > member.deadline and not member.overdue:
                member.overdue = True
                member.process.kill()

    def _heard(self, seconds: float) -> list[PoolEvent]:
        lines = {member.line: member for member in self._members}
        if not lines:
            time.sleep(seconds)
            return []
        found = (self._take(lines[line]) for line in wait(list(lines), seconds))  # type: ignore[index]  # only lines are waited for
        return [event for event in found if event is not None]

    def _take(self, member: _Member) -> PoolEvent | None:
        """Take one message of a worker that has something to say, be it that it has died."""
        try:
            message = member.line.recv()
        except (EOFError, OSError):
            return self._bury(member)
        if isinstance(message, Progress):
            member.latest = message
        elif isinstance(message, Ready):
            self._take_start(member, message)
        elif member.task is not None:
            task, member.task, self._failed = member.task, None, 0
            if message.worker_is_spent:
                self._members.remove(member)
                member.end()
            return Ended(task, message)
        return None

    def _take_start(self, member: _Member, said: Ready) -> None:
        if said.error is None:
            member.ready, self._failed = True, 0
            return
        self._cause = said.error
        self._failed += 1
        self._members.remove(member)
        member.end()

    def _bury(self, member: _Member) -> PoolEvent | None:
        self._members.remove(member)
        member.process.kill()
        code = member.process.wait()
        member.line.close()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if not member.ready:
            self._failed += 1
            self._cause = ConfigError(f"a worker ended {how} as it started", kind="worker-start")
        if member.task is None:
            return None
        if member.overdue:
            said = f"the unit took longer than {member.deadline_s:,.0f} s; its worker was ended"
            return Lost(member.task, "unit", "deadline", said)
        return Lost(member.task, "unit", "worker-died", f"the worker died {how}")
