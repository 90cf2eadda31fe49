"""The measured part of a benchmark in a process of its own: its memory is then nobody else's."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.values import Row

__all__ = ["Clock", "in_child", "peak_rss_bytes"]

_ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """Wall seconds of each part of a measurement."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Take the time of what happens meanwhile."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def report(self, **facts: Any) -> None:
        """Print one line of JSON: facts, seconds, CPU-seconds and peak memory of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        row = {
            **facts,
            "seconds": round(sum(self.seconds.values()), 3),
            "parts": self.seconds,
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
            "peak_rss_mib": peak_rss_bytes() >> 20,
        }
        print(json.dumps(row), flush=True)


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process.

    Not ``ru_maxrss``: a process that is started by ``vfork`` begins with its parent's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_child(module: str, *arguments: str | Path | int) -> Row:
    """Run ``python -m module --measure arguments`` and return the last line that it prints as JSON."""
    command: Sequence[str] = [sys.executable, "-m", module, "--measure", *map(str, arguments)]
    ran = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(ran.stdout.splitlines()[-1])
    return row
