"""``python -m benchmarks.resume``: from all receipts but some to the first unit, and from all receipts to the end."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.child import Clock, in_child
from benchmarks.driver import Case, InstantPool, SilentObserver
from benchmarks.simulated import simulated_plan, write_receipts
from ingest.chunk_check import check_index
from ingest.driver import drive
from ingest.finish import finish, read_chunks
from ingest.layout import RECEIPTS
from ingest.opened import open_plan
from ingest.preparing import divide_work, profile_of_plan
from ingest.schedule import Scheduler
from ingest.settings import WorkSettings
from ingest.store.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TARGET = {"resume": {"seconds": 30.0}, "finish": None}
_MISSING_EVERY = 100
"""Of so many chunks one is missing when a run resumes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make plan and receipts, measure each way in a process of its own, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("-c", "--cells-per-chunk", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="scratch, on the disk to measure; a temporary one unless said")
    parser.add_argument("--measure", choices=_MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        _MEASURES[options.measure](options.folder)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-resume-", dir=options.folder) as folder:
        opened = simulated_plan(Path(folder), options.chunks, options.cells_per_chunk)
        everything = range(options.chunks)
        missing = everything[::_MISSING_EVERY]
        for case, chunks in (("resume", set(everything).difference(missing)), ("finish", set(missing))):
            write_receipts(opened, Path(folder) / "dest", chunks)
            row = in_child("benchmarks.resume", case, "--folder", folder)
            print(json.dumps({"case": case, "chunks": options.chunks, **row, "target": _TARGET[case]}), flush=True)
    return 0


def _resume(folder: Path) -> None:
    clock, work = Clock(), WorkSettings(workers=16)
    with clock.part("open_plan"):
        opened = open_plan(LocalStore(folder / "dest"))
    with clock.part("profile"):
        profile = profile_of_plan(opened, work)
    with clock.part("list_receipts"):
        done = opened.ledger.done()
    with clock.part("divide"):
        divided = divide_work(profile, opened, done, work)
    with clock.part("check_index"):
        opened.ledger.open_runs()
        check_index(opened)
    submitted: list[int] = []
    with clock.part("first_unit"):
        units = [unit.chunks for unit in divided.units]
        drive(
            Scheduler(units, run_id="benchmark", draw=random.random),
            InstantPool(Case(1), folder / "dest" / RECEIPTS),
            opened.ledger,
            SilentObserver(),
            stop_requested=lambda: bool(submitted),
            deadline_s=lambda task: submitted.append(task.unit_id) or 600.0,  # type: ignore[func-returns-value]  # append
        )
    clock.report(receipts=len(done), units=len(units))


def _finish(folder: Path) -> None:
    clock = Clock()
    opened = open_plan(LocalStore(folder / "dest"))
    with clock.part("receipts_alone"):
        read_chunks(opened)
    with clock.part("finish"):
        finished = finish(opened, scratch=folder)
    if not finished.complete:
        raise RuntimeError("receipts are missing")
    clock.report(receipts=finished.n_chunks)


_MEASURES: dict[str, Callable[[Path], None]] = {"resume": _resume, "finish": _finish}


if __name__ == "__main__":
    raise SystemExit(main())
