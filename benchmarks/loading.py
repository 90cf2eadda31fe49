"""Shuffled batches for training: ours beside scDataset, AnnLoader, bionemo-scdl and annbatch, on the same cells.

Every way is a process of its own in its own environment, the ways take turns in every round; `loading_child` says what
one process does. Files are in the page cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loading_data import LoadingData, make_loading_data
from benchmarks.loading_env import PeerPythons
from benchmarks.loading_ways import FIRST, WAYS, WITH_WORKERS, Way, ways_for
from benchmarks.processes import TreePeak

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["LoadingBench", "child_environment", "run", "run_first", "run_workers", "watched"]

_ROOT = Path(__file__).resolve().parents[1]
_WORKERS = (1, 2, 4)


@dataclass(frozen=True, slots=True, eq=False)
class LoadingBench:
    """The data and the environments."""

    data: LoadingData
    pythons: PeerPythons
    quick: bool

    @classmethod
    def of(cls, bench: Bench) -> LoadingBench:
        """Make what is missing."""
        pythons = PeerPythons.make(bench.python312)
        folder = bench.folder / "loading"
        folder.mkdir(exist_ok=True)
        data = make_loading_data(folder, Path(bench.census.path), bench.selection(1.0).index, pythons)
        return cls(data, pythons, bench.quick)

    def able(self, ways: tuple[Way, ...]) -> tuple[Way, ...]:
        """Return those that can run here."""
        return ways_for(ways, newer=self.pythons.py312 is not None, quick=self.quick)

    def measure(
        self, way: Way, *, first: bool = False, place: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Row:
        """Measure one way in a process of its own.

        Raises
        ------
        RuntimeError
            The process failed: a cell came twice, or none did.
        """
        python = self.pythons.of(way.python) if way.python else Path(sys.executable)
        words = [str(python), "-m", "benchmarks.loading_child", way.module, place or str(self.data.place(way.place))]
        words += [way.settings.text(), "--truth", str(self.data.truth), "--since", str(time.monotonic())]
        for option, number in (("--batches", way.batches), ("--checked", way.checked or way.batches)):
            words += [] if number is None else [option, str(number)]
        row, peak_bytes = watched([*words, *(["--first"] if first else [])], environment or {})
        return {**_told(way), **row} | ({} if first else {"peak_bytes": peak_bytes})


def run(bench: Bench) -> list[Row]:
    """Compare all ways in one process each, in every round."""
    loading = LoadingBench.of(bench)
    return [{"round": turn, **loading.measure(way)} for turn in range(bench.repeats) for way in loading.able(WAYS)]


def run_workers(bench: Bench) -> list[Row]:
    """Measure ways with DataLoader workers, in every round."""
    loading = LoadingBench.of(bench)
    return [
        {"round": turn, **loading.measure(way.with_workers(workers))}
        for turn in range(bench.repeats)
        for workers in _WORKERS
        for way in loading.able(WITH_WORKERS)
    ]


def run_first(bench: Bench) -> list[Row]:
    """Measure how long the first batch takes, in every round."""
    loading = LoadingBench.of(bench)
    ways = loading.able(FIRST)
    return [{"round": turn, **loading.measure(way, first=True)} for turn in range(bench.repeats) for way in ways]


def _told(way: Way) -> Row:
    settings = way.settings
    return {
        "way": way.name,
        "form": settings.form,
        "workers": settings.workers,
        "block_cells": settings.block_cells,
        "buffer_cells": settings.buffer_cells,
    }


def child_environment() -> dict[str, str]:
    """Return this process' environment, but for what keeps byte code from being kept.

    It is kept with everybody: else whoever comes first waits for modules to be compiled.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def watched(command: list[str], environment: Mapping[str, str]) -> tuple[Row, int]:
    """Run until the end; return its row and the most memory that it held while it was measuring."""
    environment = {**child_environment(), **environment}
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    peak, peak_bytes, row = None, 0, None
    for line in process.stdout or ():
        if line.startswith("measuring"):
            peak = TreePeak(process.pid)
        elif line.startswith("measured") and peak is not None:
            peak_bytes = peak.stop()
        elif line.startswith("{"):
            row = json.loads(line)
    if process.wait() or row is None:
        raise RuntimeError(f"{' '.join(command[1:5])} ended with {process.returncode}")
    return row, peak_bytes
