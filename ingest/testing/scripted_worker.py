"""A worker that does what a script says, chunk by chunk and attempt by attempt, and writes a journal of it.

For tests of pools and drivers: no data, no store. The journal is a file that all workers append to, so it tells
what happened across processes and crashes, in order.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ingest.errors import ConfigError
from ingest.pool import Failure, Progress, UnitOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.pool import UnitTask

__all__ = ["Entry", "Journal", "ScriptedFactory", "ScriptedWorker", "Step"]

_POLL_S = 0.01
CELLS_PER_CHUNK = 10
"""What every scripted chunk holds."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens at one attempt at a chunk, or at one start of a worker.

    ``succeed``; ``fail``: report `failure`, or a transient one; ``raise``: an exception nobody foresaw; ``exit``: end
    the process; ``kill``: end it by SIGKILL; ``hang``: sleep for ever; ``freeze``: stop the process by SIGSTOP;
    ``gate``: wait for `Journal.open`, then succeed.
    """

    do: Literal["succeed", "fail", "raise", "exit", "kill", "hang", "freeze", "gate"] = "succeed"
    seconds: float = 0.0
    """Sleep this long first."""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal."""

    what: Literal["start", "ready", "begin", "done", "unit", "end", "stop", "close"]
    """``unit`` and ``end`` enclose a unit, ``begin`` and ``done`` a chunk; ``start`` and ``ready`` a start."""
    pid: int
    unit: int
    chunk: int
    """-1 where it does not apply, as is `unit`."""


@dataclass(frozen=True, slots=True)
class Journal:
    """A folder with the journal and the gates."""

    folder: str

    def write(self, what: str, unit: int = -1, chunk: int = -1) -> None:
        """Append one line; lines of several processes do not mix."""
        handle = os.open(Path(self.folder, "journal"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, f"{what} {os.getpid()} {unit} {chunk}\n".encode())
        finally:
            os.close(handle)

    def entries(self) -> list[Entry]:
        """Read all lines, oldest first."""
        path = Path(self.folder, "journal")
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Entry(what, int(pid), int(unit), int(chunk)) for what, pid, unit, chunk in rows]  # type: ignore[arg-type]  # written by write

    def count(self, what: str, chunk: int | None = None) -> int:
        """Count the lines that say `what`, of one chunk or of all."""
        return sum(entry.what == what and chunk in (None, entry.chunk) for entry in self.entries())

    def most_units_at_once(self) -> int:
        """Return how many units were in hand at most; a journal does not see deaths, so not for crashing workers."""
        busy: set[int] = set()
        most = 0
        for entry in self.entries():
            if entry.what == "unit":
                busy.add(entry.pid)
            elif entry.what == "end":
                busy.discard(entry.pid)
            most = max(most, len(busy))
        return most

    def open(self, gate: int) -> None:
        """Let every attempt at chunk `gate` pass its ``gate`` step."""
        Path(self.folder, f"gate-{gate}").touch()

    def is_open(self, gate: int) -> bool:
        """Whether `open` was called."""
        return Path(self.folder, f"gate-{gate}").exists()


@dataclass(frozen=True, slots=True)
class ScriptedFactory:
    """Make workers that follow `chunks` and `starts`.

    Each is a list of steps; the n-th attempt at a chunk (the n-th start of any worker) takes the n-th step, later
    ones the last. Chunks without a script succeed at once.
    """

    folder: str
    """An existing folder for the journal, seen by all workers."""
    chunks: Mapping[int, tuple[Step, ...]] = field(default_factory=dict)
    starts: tuple[Step, ...] = (Step(),)
    """``fail`` raises a ``ConfigError`` of kind ``scripted`` from `ready`; the others as in `Step`."""

    @property
    def journal(self) -> Journal:
        """What happened so far."""
        return Journal(self.folder)

    def __call__(self) -> ScriptedWorker:
        """Make one worker."""
        return ScriptedWorker(self)


class ScriptedWorker:
    """Follow the script of a `ScriptedFactory`."""

    def __init__(self, factory: ScriptedFactory) -> None:
        self._factory = factory
        self._journal = factory.journal
        self._stopping = False
        self._unit: UnitTask | None = None
        self._n_done = 0

    def ready(self) -> None:
        """Take the next step of `ScriptedFactory.starts`."""
        n_before = self._journal.count("start")
        self._journal.write("start")
        steps = self._factory.starts
        step = steps[min(n_before, len(steps) - 1)]
        time.sleep(step.seconds)
        if step.do == "fail":
            raise ConfigError("this start is scripted to fail", kind="scripted", hint="change the script")
        self._act(step, -1)
        self._journal.write("ready")

    def run(self, task: UnitTask) -> UnitOutcome:
        """Take the next step of each chunk's script."""
        self._unit, self._n_done = task, 0
        self._journal.write("unit", task.unit_id)
        try:
            return self._outcome(task)
        finally:
            self._unit = None
            self._journal.write("end", task.unit_id)

    def _outcome(self, task: UnitTask) -> UnitOutcome:
        done: list[int] = []
        failures: list[Failure] = []
        undone: list[int] = []
        for chunk in task.chunks:
            if self._stopping:
                undone.append(chunk)
            elif failure := self._make(task, chunk):
                failures.append(failure)
            else:
                done.append(chunk)
                self._n_done += 1
        n_cells = CELLS_PER_CHUNK * len(done)
        return UnitOutcome(task.unit_id, tuple(done), tuple(failures), tuple(undone), n_cells=n_cells)

    def _make(self, task: UnitTask, chunk: int) -> Failure | None:
        steps = self._factory.chunks.get(chunk, (Step(),))
        step = steps[min(self._journal.count("begin", chunk), len(steps) - 1)]
        self._journal.write("begin", task.unit_id, chunk)
        time.sleep(step.seconds)
        if step.do == "fail":
            return step.failure or Failure((chunk,), "transient", "scripted", f"chunk {chunk} is scripted to fail")
        self._act(step, chunk)
        self._journal.write("done", task.unit_id, chunk)
        return None

    def _act(self, step: Step, chunk: int) -> None:
        if step.do == "raise":
            raise RuntimeError(f"chunk {chunk} is scripted to raise")
        if step.do == "exit":
            os._exit(3)
        if step.do in ("kill", "freeze"):
            os.kill(os.getpid(), signal.SIGKILL if step.do == "kill" else signal.SIGSTOP)
        while step.do == "hang" or (step.do == "gate" and not self._journal.is_open(chunk)):
            time.sleep(_POLL_S)

    def progress(self) -> Progress | None:
        """Return the cells of the chunks done of the unit in hand."""
        unit = self._unit
        return None if unit is None else Progress(unit.unit_id, CELLS_PER_CHUNK * self._n_done, 0, 0)

    def stop_soon(self) -> None:
        """Begin no further chunk."""
        self._stopping = True
        self._journal.write("stop")

    def close(self) -> None:
        """Write it down."""
        self._journal.write("close")
