"""Conversion into memory-mapped arrays: ours beside bionemo-scdl, on the same files.

Every way is a process of its own in its own environment; they take turns in every round. What is read is in the page
cache, what was written before is on the disk. Both libraries have the disk hold an archive before they return.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.loading import child_environment
from benchmarks.loading_env import peer_python
from benchmarks.memmap_data import array_digests, make_memmap_data
from benchmarks.processes import TreeGauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.memmap_data import MemmapData
    from benchmarks.values import Row

__all__ = ["PEER_PYTHON", "WAYS", "Conversion", "files_of", "into_page_cache", "measure_conversion", "run"]

_ROOT = Path(__file__).resolve().parents[1]
PEER_PYTHON = "3.11"
"""Version of Python whose environment has bionemo-scdl."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """One way to convert what `MemmapData` has under a name."""

    source: str
    way: str
    module: str
    how: str


def _theirs(source: str, how: str, way: str = "bionemo-scdl") -> Conversion:
    return Conversion(source, way, "memmap_scdl", how)


def _ours(source: str, how: str, way: str = "ours") -> Conversion:
    return Conversion(source, way, "memmap_ours", how)


WAYS: tuple[Conversion, ...] = (
    _theirs("raw.h5ad", "whole"),
    _theirs("raw.h5ad", "pieces", "bionemo-scdl, 5,000 rows at a time"),
    _ours("raw.h5ad", "call"),
    _theirs("plain.h5ad", "whole"),
    _ours("plain.h5ad", "call"),
    _theirs("both.h5ad", "whole"),
    _ours("both.h5ad", "call"),
    _theirs("files", "script", "bionemo-scdl, its script"),
    _ours("files", "script", "ours, the same script"),
    _ours("chunks", "call"),
    _ours("chunks", "workers 2", "ours, two Ray workers and their start"),
)
"""All that is compared; of one source, theirs comes first."""


def run(bench: Bench) -> list[Row]:
    """Convert in every way, in every round.

    Raises
    ------
    ValueError
        An archive does not hold what the file holds.
    """
    folder = bench.folder / "memmap"
    folder.mkdir(exist_ok=True)
    data = make_memmap_data(folder, Path(bench.census.path), bench.selection(1.0).index)
    subprocess.run([sys.executable, "-m", "ingest.warm"], cwd=_ROOT, check=True)  # as `make` does, once
    peer, n_cells = peer_python(PEER_PYTHON, Path(sys.executable)), len(bench.selection(1.0).joinids)
    rows: list[Row] = []
    for turn in range(bench.repeats):
        for way in WAYS:
            python = peer if way.module == "memmap_scdl" else Path(sys.executable)
            row = _measure(way, python, data, bench.fresh_folder("archive"))
            rows.append({"round": turn, "source": way.source, "way": way.way, "cells": n_cells, **row})
    return rows


def _measure(way: Conversion, python: Path, data: MemmapData, archive: Path) -> Row:
    source = data.sources(way.source)
    into_page_cache(source)
    row = measure_conversion(python, way.module, way.how, source, archive)
    if array_digests(archive) != data.digests():
        raise ValueError(f"{way.way}: the archive of {way.source} is not what the file holds")
    shutil.rmtree(archive)
    return row


def measure_conversion(python: Path, module: str, how: str, source: Path, archive: Path) -> Row:
    """Convert in a process of its own; nothing that others wrote is on its way to the disk meanwhile.

    Raises
    ------
    RuntimeError
        The process failed.
    """
    os.sync()
    command = [str(python), "-m", "benchmarks.memmap_child", module, how, str(source), str(archive)]
    start = time.monotonic()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=_ROOT, env=child_environment(), **pipes) as process:
        row = _followed(process)
    if process.returncode or not row:
        raise RuntimeError(f"{' '.join(command[2:5])} ended with {process.returncode}")
    return {**row, "process_s": round(time.monotonic() - start, 3), "archive_bytes": sum(map(_size, files_of(archive)))}


def _followed(process: subprocess.Popen[str]) -> Row:
    row: Row = {}
    gauge: TreeGauge | None = None
    for line in process.stdout or ():
        if line == "ready\n":
            gauge = TreeGauge(process.pid)
            _answer(process)
        elif line == "done\n" and gauge is not None:
            used = gauge.usage()
            row = {"cpu_seconds": round(used.cpu_seconds, 3), "peak_bytes": used.peak_bytes}
            row["written_bytes"] = used.written_bytes
            _answer(process)
        elif line.startswith("{"):
            row = json.loads(line) | row
        else:
            print(line, end="", file=sys.stderr)
    return row


def _answer(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        print(file=process.stdin, flush=True)


def into_page_cache(source: Path) -> None:
    """Read every byte once."""
    for path in files_of(source):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def files_of(path: Path) -> Iterator[Path]:
    """Yield a file, or every file of a folder."""
    return (found for found in ([path] if path.is_file() else path.rglob("*")) if found.is_file())


def _size(path: Path) -> int:
    return path.stat().st_size
