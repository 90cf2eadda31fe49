"""``python -m benchmarks.driver``: what a chunk costs the driver, with workers that do nothing.

CPU time of the driver's loop, recording and listing included; what the simulated workers do is taken off.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import Clock, in_child
from benchmarks.simulated import simulated_plan
from ingest.driver import drive
from ingest.layout import RECEIPTS
from ingest.pool import Ended, Failure, Lost, Progress, UnitOutcome, UnitTask
from ingest.schedule import Policy, Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.pool import PoolEvent

_TARGET_MS = 1.0
_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """What the simulated workers do."""

    chunks_per_unit: int
    lost_every: int = 0
    """Of so many units one loses its worker, and is tried again."""
    fails_every: int = 0
    """Of so many units one meets a bad source: a record is written for it."""
    has_rivals: bool = False
    """Another driver may be at work: receipts are listed as the run goes on."""


_CASES = {
    "units of 1": Case(1),
    "units of 20": Case(20),
    "units of 20, 1 in 100 lost": Case(20, lost_every=100),
    "units of 20, 1 in 100 fails": Case(20, fails_every=100),
    "units of 20, with rivals": Case(20, has_rivals=True),
}


class InstantPool:
    """Ends every unit at once, in this thread, with receipts that hold nothing."""

    def __init__(self, case: Case, receipts: Path) -> None:
        self.size = _WORKERS
        self.cpu_seconds = self.seconds = 0.0
        """Spent on what workers do elsewhere."""
        self._case, self._receipts = case, receipts
        self._events: deque[PoolEvent] = deque()

    def has_free(self) -> bool:
        return len(self._events) < self.size

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:  # noqa: ARG002 # nothing hangs here
        cpu, start = time.process_time(), time.perf_counter()
        self._events.append(self._end(task))
        self.cpu_seconds += time.process_time() - cpu
        self.seconds += time.perf_counter() - start

    def _end(self, task: UnitTask) -> PoolEvent:
        if self._case.lost_every and task.unit_id % self._case.lost_every == 0:
            return Lost(task, "infrastructure", "node-lost", "simulated")
        if self._case.fails_every and task.unit_id % self._case.fails_every == 0:
            failure = Failure(task.chunks, "source", "simulated", "the source is bad")
            return Ended(task, UnitOutcome(task.unit_id, (), (failure,)))
        for chunk in task.chunks:
            (self._receipts / f"{chunk:09d}-{chunk:09d}.json").touch()
        done = UnitOutcome(task.unit_id, task.chunks, n_cells=1000 * len(task.chunks), seconds={"fetch": 1.0})
        return Ended(task, done)

    def wait(self, timeout_s: float) -> list[PoolEvent]:  # noqa: ARG002 # never waits
        events = list(self._events)
        self._events.clear()
        return events

    def progress(self) -> list[Progress]:
        return [Progress(event.task.unit_id, 10, 10, 0) for event in self._events]

    def stop_soon(self) -> None:
        """Nothing is in hand between two calls."""

    def close(self) -> None:
        self._events.clear()


class SilentObserver:
    """Shows nothing."""

    def began(self) -> None: ...

    def moved(self, n_cells: int, bytes_written: int, retries: int) -> None: ...

    def troubled(self, failure: Failure, retried: int) -> None: ...

    def draining(self, n_units: int) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Drive simulated workers in a process of its own a case, and print one line of JSON for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="scratch, on the disk to measure; a temporary one unless said")
    parser.add_argument("--measure", choices=_CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        _measure(options.measure, options.chunks, options.folder)
        return 0
    for case in _CASES:
        with tempfile.TemporaryDirectory(prefix="bench-driver-", dir=options.folder) as folder:
            row = in_child("benchmarks.driver", case, "--chunks", options.chunks, "--folder", folder)
        print(json.dumps({**row, "target": {"driver_cpu_ms_per_chunk": _TARGET_MS}}), flush=True)
    return 0


def _measure(case: str, n_chunks: int, folder: Path) -> None:
    opened = simulated_plan(folder, n_chunks, cells_per_chunk=10)
    size = _CASES[case].chunks_per_unit
    units = [range(start, min(start + size, n_chunks)) for start in range(0, n_chunks, size)]
    receipts = folder / "dest" / RECEIPTS
    receipts.mkdir(parents=True)
    clock, pool = Clock(), InstantPool(_CASES[case], receipts)
    with clock.part("drive"):
        cpu = time.process_time()
        driven = drive(
            Scheduler(units, run_id="benchmark", policy=Policy(first_s=0.0, most_s=0.0), draw=random.random),
            pool,
            opened.ledger,
            SilentObserver(),
            stop_requested=lambda: False,
            deadline_s=lambda _: 600.0,
            has_rivals=_CASES[case].has_rivals,
        )
        cpu = time.process_time() - cpu - pool.cpu_seconds
    clock.seconds["drive"] = round(clock.seconds["drive"] - pool.seconds, 3)
    if len(driven.done) + len(driven.quarantined) != n_chunks:
        raise RuntimeError(f"{len(driven.done)} of {n_chunks} chunks were driven")
    clock.report(case=case, chunks=n_chunks, units=len(units), driver_cpu_ms_per_chunk=round(cpu * 1e3 / n_chunks, 4))


if __name__ == "__main__":
    raise SystemExit(main())
