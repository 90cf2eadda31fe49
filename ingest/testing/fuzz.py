"""Change files of every kind at random and have them read, in a process that may die of it.

::

    python -m ingest.testing.fuzz --seconds 600 --seed 1
    python -m ingest.testing.fuzz --seed 1 --first 1234 --cases 1

A child process makes one case after the other, each decided by seed and number, and has one entry point read it; it may
have so much memory and so much time, and is started again when it ends. Found and kept are: crashes, hangs, errors that
nobody promised, memory that is not there, and differences that `verify` does not see though a loader reads them.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil

from ingest.testing.entry_points.base import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.testing.entry_points.base import EntryPoint
    from ingest.testing.fuzz_targets import Target

__all__ = ["Finding", "Fuzzed", "fuzz"]

_MEMORY_BYTES = 3 << 30
"""Of address space beyond what the child takes when everything is imported."""
_CPU_S = 30.0
_WALL_S = 600.0
"""Of one case; the second for what waits."""
_START_CPU_S = 120.0
"""For imports, kernels and making what is changed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One case that should not have ended so."""

    number: int
    case: str
    """Target, file and entry point."""
    fault: str


@dataclass(slots=True)
class Fuzzed:
    """What came of all cases."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """``refused``, ``same``, ``other``, ``not made``: how many."""
    findings: list[Finding] = field(default_factory=list)


def fuzz(*, seed: int, first: int = 0, cases: int | None = None, seconds: float | None = None, keep: Path) -> Fuzzed:
    """Run cases in child processes until so many, or so many seconds, are over.

    Parameters
    ----------
    keep
        Folder for what is found: the changed file of each finding.
    """
    found, number, end = Fuzzed(), first, time.monotonic() + (seconds or float("inf"))
    last = sys.maxsize if cases is None else first + cases
    while number < last and time.monotonic() < end:
        child = _Child(seed, number, last, keep)
        try:
            number = _follow(child, found, end)
        finally:
            child.stop()
    return found


def _follow(child: _Child, found: Fuzzed, end: float) -> int:
    """Take what a child says until it ends or time is over; return the number of the next case."""
    number, case = child.first, None
    while time.monotonic() < end:
        said = child.next_line()
        if said is None:
            fault = child.fault()
            if fault is None:
                return child.last
            if case is None and child.was_killed:  # HDF5, which cannot write to what an earlier change has left
                found.outcomes["not made"] += 1
            else:
                found.findings.append(Finding(number, case or "start", fault))
            return number + 1
        if "case" in said:
            number, case = said["number"], said["case"]
            continue
        found.cases += 1
        found.outcomes[said["outcome"]] += 1
        if said["fault"]:
            found.findings.append(Finding(number, case or "start", said["fault"]))
        number, case = number + 1, None
    return number


class _Child:
    """One child process, watched."""

    def __init__(self, seed: int, first: int, last: int, keep: Path) -> None:
        self.first, self.last = first, last
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 # closed with the child
        words = [
            "--child",
            "--seed",
            str(seed),
            "--first",
            str(first),
            "--cases",
            str(last - first),
            "--keep",
            str(keep),
        ]
        self._process = subprocess.Popen(  # noqa: S603 # this very module
            [sys.executable, "-m", "ingest.testing.fuzz", *words], stdout=subprocess.PIPE, stderr=self._errors
        )
        self._watched = psutil.Process(self._process.pid)
        self._hung = False
        self._lines = self._read()

    def next_line(self) -> dict[str, Any] | None:
        """Return what it says next; None: it has ended, or was ended because it hung."""
        return next(self._lines, None)

    def fault(self) -> str | None:
        """Return how it ended where that was not at the end of its cases."""
        code = self._process.wait()
        if self._hung:
            return "hangs"
        if code == 0:
            return None
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        where = [line.strip() for line in said.splitlines() if "/ingest/" in line or "/index/" in line][:3]
        return f"ends the process ({code}): {' < '.join(where) or said[-300:]}"

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it that nobody here sent."""
        return not self._hung and self._process.wait() < 0

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        out = self._process.stdout
        if out is None:
            return
        with selectors.DefaultSelector() as ready:
            ready.register(out, selectors.EVENT_READ)
            begun, used, most = time.monotonic(), self._cpu_s(), _CPU_S + _START_CPU_S
            held = b""
            while True:
                if not ready.select(1.0):
                    if begun + _WALL_S < time.monotonic() or used + most < self._cpu_s():
                        self._hung = True
                        self._process.kill()
                        return
                    continue
                data = out.read1(1 << 16)  # type: ignore[attr-defined] # a buffered reader
                if not data:
                    return
                *lines, held = (held + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)
                begun, used, most = time.monotonic(), self._cpu_s(), _CPU_S

    def _cpu_s(self) -> float:
        try:
            times = self._watched.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)


# -- the child -----------------------------------------------------------------------------------------------------


def _run_cases(seed: int, first: int, cases: int, keep: Path) -> None:
    """Make and read cases in this process; a line before and after each."""
    faulthandler.enable()
    from ingest.testing.fuzz_targets import make_targets

    out = sys.stdout
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        targets = make_targets(folder)
        good = _GoodAnswers()
        _limit_memory()
        for number in range(first, first + cases):
            draw = random.Random(f"{seed}-{number}")  # noqa: S311 # repeatable, not secret
            _one(draw, number, targets, good, folder / "case", keep, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _GoodAnswers:
    """What is read of what nobody has changed; each once, when it is first asked for."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], str | None] = {}

    def of(self, target: Target, entry: EntryPoint) -> str | None:
        """Return the answer of one entry point."""
        key = target.name, entry.name
        if key not in self._found:
            self._found[key] = attempt(entry, target.good).answer
        return self._found[key]


def _one(
    draw: random.Random,
    number: int,
    targets: tuple[Target, ...],
    good: _GoodAnswers,
    folder: Path,
    keep: Path,
    out: Any,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target = draw.choice(targets)
    path, changed = target.case(draw, folder)
    entry = target.entry(draw)
    _say(out, {"number": number, "case": f"{target.name}: {changed}: {entry.name}"})
    kept = keep / f"{number:08d}-{path.name}"
    file = path if path.is_file() else path / changed
    keep.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, kept)  # before it is read: nobody may be there afterwards
    outcome = attempt(entry, path)
    fault = outcome.fault
    if fault is None and target.agree is not None and entry is target.agree[1]:
        fault = _unseen(target, path, outcome.answer, good)
    same = outcome.answer == good.of(target, entry)
    word = "refused" if outcome.answer is None else "same" if same else "other"
    if fault is None:
        kept.unlink()
    _say(out, {"number": number, "outcome": word, "fault": fault})


def _unseen(target: Target, path: Path, answer: str | None, good: _GoodAnswers) -> str | None:
    """Say when a loader reads something else and `verify` sees nothing."""
    if target.agree is None:
        return None
    verify, load = target.agree
    if answer is None or answer == good.of(target, load):
        return None
    verified = attempt(verify, path).answer
    return "a silent difference" if verified == good.of(target, verify) else None


def _limit_memory() -> None:
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY_BYTES, taken + _MEMORY_BYTES))


def _say(out: Any, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


@click.command()
@click.option("--seconds", type=float, help="How long; for ever unless --cases says how many.")
@click.option("--cases", type=int, help="How many.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same cases.")
@click.option("--first", default=0, show_default=True, help="Number of the first: to look at one again.")
@click.option(
    "--keep", type=click.Path(path_type=Path), default=Path("fuzz-findings"), show_default=True, metavar="DIR"
)
@click.option("--child", is_flag=True, hidden=True)
def main(seconds: float | None, cases: int | None, seed: int, first: int, keep: Path, *, child: bool) -> None:
    """Change files at random and read them; exit code 1 where anything but an answer or a typed error came."""
    if child:
        _run_cases(seed, first, cases or 0, keep)
        return
    found = fuzz(seed=seed, first=first, cases=cases, seconds=seconds, keep=keep)
    click.echo(f"{found.cases:,} cases: " + ", ".join(f"{n:,} {name}" for name, n in sorted(found.outcomes.items())))
    for finding in found.findings:
        click.echo(json.dumps(asdict(finding)))
    click.echo(f"{len(found.findings):,} findings" + (f" in {keep}" if found.findings else ""))
    sys.exit(1 if found.findings else 0)


if __name__ == "__main__":
    main()
