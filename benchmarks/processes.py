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

__all__ = ["PLAIN_MALLOC", "Gauge", "TreePeak", "Usage", "peak_rss_bytes", "process_cpu_seconds"]

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
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End, and return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak_bytes

    def _watch(self) -> None:
        while True:
            self._peak_bytes = max(self._peak_bytes, self._now())
            if self._over.wait(self._EVERY_S):
                return

    def _now(self) -> int:
        total = 0
        with suppress(psutil.NoSuchProcess):  # the root has gone: nothing is held
            for process in (self._root, *self._root.children(recursive=True)):
                with suppress(OSError, StopIteration):  # has ended meanwhile
                    total += _pss_bytes(process.pid)
        return total


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
