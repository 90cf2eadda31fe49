"""CPU-seconds and peak memory of worker processes, over the time that is measured and no other."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.store import BenchStore

__all__ = [
    "PLAIN_MALLOC",
    "Gauge",
    "TreeGauge",
    "TreePeak",
    "TreeUsage",
    "Usage",
    "peak_rss_bytes",
    "process_cpu_seconds",
]

PLAIN_MALLOC: dict[str, Any] = {"env_vars": {"MALLOC_ARENA_MAX": "", "GLIBC_TUNABLES": ""}}
"""A runtime environment without what a local Ray of ours sets for our workers: others run as they would anywhere."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between `Gauge.start` and `Gauge.stop`."""

    seconds: float
    cpu_seconds: dict[str, float]
    """Of ``workers``, ``driver`` (this process) and ``store``."""
    requests: dict[str, int]
    peak_rss_bytes: int
    """Of the largest worker."""


class Gauge:
    """Measure from `start` to `stop`.

    Parameters
    ----------
    pids
        The workers; they live until `stop`.
    store
        Where they write, or None for a folder.
    """

    def __init__(self, pids: Sequence[int], store: BenchStore | None = None) -> None:
        self._pids, self._store = tuple(pids), store
        self._before: dict[str, float] = {}
        self._requests: dict[str, int] = {}
        self._began = 0.0

    def start(self) -> None:
        """Begin; the workers' peak memory counts from here too."""
        for pid in self._pids:
            with suppress(OSError):  # a kernel that does not let go of the old peak leaves a higher one
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._requests = self._store.requests() if self._store else {}
        self._before = self._cpu()
        self._began = time.perf_counter()

    def stop(self) -> Usage:
        """End, and return what was used."""
        seconds = time.perf_counter() - self._began
        after = self._cpu()
        requests = self._store.requests() if self._store else {}
        return Usage(
            seconds,
            {who: after[who] - before for who, before in self._before.items()},
            {kind: n - self._requests.get(kind, 0) for kind, n in requests.items() if n > self._requests.get(kind, 0)},
            max(map(peak_rss_bytes, self._pids), default=0),
        )

    def _cpu(self) -> dict[str, float]:
        found = {"workers": sum(map(process_cpu_seconds, self._pids)), "driver": time.process_time()}
        return found | ({"store": process_cpu_seconds(self._store.pid)} if self._store else {})


class TreePeak:
    """The most memory that a process and all it started held at once, looked at every tenth of a second from here.

    Proportional: a page that several of them share is divided among them; files that are mapped count while they are
    in memory.
    """

    _EVERY_S = 0.1

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._peak_bytes = 0
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End, and return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak_bytes

    def _watch(self) -> None:
        while not self._over.wait(self._EVERY_S):
            self._look()

    def _look(self) -> None:
        total = 0
        for process in self._processes():
            with suppress(OSError, StopIteration):  # has ended meanwhile
                total += _pss_bytes(process.pid)
        self._peak_bytes = max(self._peak_bytes, total)

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):  # the root has gone: nothing is held
            return [self._root, *self._root.children(recursive=True)]
        return []


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a process and all that it started used while a `TreeGauge` looked."""

    peak_bytes: int
    cpu_seconds: float
    written_bytes: int
    """Made dirty in files, through a map or by a call; less what was removed before it reached the disk."""


class TreeGauge(TreePeak):
    """`TreePeak`, and CPU and bytes too: each process counts as it was when it was last seen.

    Whoever is measured had better stay a few tenths of a second after his work.
    """

    def __init__(self, pid: int) -> None:
        self._used: dict[int, tuple[float, int]] = {}
        super().__init__(pid)
        self._before = dict(self._used)

    def usage(self) -> TreeUsage:
        """End, and return what was used since the beginning."""
        peak_bytes = self.stop()
        self._look()
        first = [self._before.get(pid, (0.0, 0)) for pid in self._used]
        cpu, written = (
            sum(now[part] - before[part] for now, before in zip(self._used.values(), first, strict=True))
            for part in (0, 1)
        )
        return TreeUsage(peak_bytes, float(cpu), int(written))

    def _look(self) -> None:
        super()._look()
        for process in self._processes():
            with suppress(psutil.Error, OSError):  # has ended meanwhile
                self._used[process.pid] = process_cpu_seconds(process.pid), process.io_counters().write_bytes


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def process_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in user and kernel mode, of all its threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_rss_bytes(pid: int) -> int:
    """Return the highest resident memory of a process since it began, or since its peak was reset."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
