"""The other end of `ingest.process_pool`: one worker in a process of its own."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError, IngestError
from ingest.pool import Progress, UnitOutcome, UnitTask, run_unit

if TYPE_CHECKING:
    from ingest.pool import UnitWorker

__all__ = ["Ready", "Stop", "main"]

_BEAT_S = 0.2


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has started, or says why it cannot."""

    error: IngestError | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """End after the chunk in hand."""


class _Line:
    """The connection to the pool, for several threads; the process ends with it."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, message: Ready | Progress | UnitOutcome) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:  # nobody is there any more
            os._exit(1)

    def hear(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(1)

    def hear_bytes(self) -> bytes:
        return self._connection.recv_bytes()


def main(descriptor: int) -> None:
    """Serve the pool at the other end of the socket `descriptor` until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the driver, which drains
    line = _Line(Connection(descriptor))
    worker = _started(line)
    tasks: SimpleQueue[UnitTask] = SimpleQueue()
    threading.Thread(target=_listen, args=(line, worker, tasks), daemon=True).start()
    threading.Thread(target=_tell, args=(line, worker), daemon=True).start()
    while True:
        line.say(run_unit(worker, tasks.get()))


def _started(line: _Line) -> UnitWorker:
    try:
        worker: UnitWorker = pickle.loads(line.hear_bytes())()  # noqa: S301 # made by our own driver, over its socket
        worker.ready()
    except IngestError as error:
        line.say(Ready(error))
    except Exception as error:  # noqa: BLE001 # whatever it is, the driver is to read it
        line.say(Ready(ConfigError(f"{type(error).__name__}: {error}", kind="worker-start")))
    else:
        line.say(Ready())
        return worker
    sys.exit(1)


def _listen(line: _Line, worker: UnitWorker, tasks: SimpleQueue[UnitTask]) -> None:
    while True:
        message = line.hear()
        if isinstance(message, Stop):
            worker.stop_soon()
        else:
            tasks.put(message)


def _tell(line: _Line, worker: UnitWorker) -> None:
    """Say how far the unit in hand is, whenever that has changed."""
    last: Progress | None = None
    pause = threading.Event()
    while not pause.wait(_BEAT_S):
        latest = worker.progress()
        if latest is not None and latest != last:
            line.say(latest)
        last = latest
