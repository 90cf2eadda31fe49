"""Shuffled batches out of one memory-mapped archive: ours beside bionemo-scdl, which made it.

Every way is a process of its own (`loading_child`) that takes in one epoch, which is checked, and then another, which
is measured. The archive is in the page cache.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loading import watched
from benchmarks.loading_data import once
from benchmarks.loading_env import peer_python
from benchmarks.loading_settings import LoadSettings
from benchmarks.loading_ways import Way
from benchmarks.memmap_convert import PEER_PYTHON, into_page_cache, measure_conversion
from benchmarks.memmap_data import MemmapData, make_memmap_data

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["WAYS", "run"]

_EACH_CELL = LoadSettings(block_cells=1, buffer_cells=1)
"""Every cell from anywhere, by itself: what a DataLoader's ``shuffle=True`` comes to."""
_BUFFER_CELLS = 1_024
"""What `create_dataloader` takes of an archive."""
_PLACE = "archive"


def _ways(settings: LoadSettings) -> tuple[Way, ...]:
    return (
        Way("bionemo-scdl", "loading_scdl", _PLACE, settings, PEER_PYTHON),
        Way("ours, the same lines", "memmap_lines", _PLACE, settings),
        Way("ours, `get_rows`", "memmap_get_rows", _PLACE, settings),
        Way("ours, `create_dataloader`", "loading_ours", _PLACE, replace(settings, buffer_cells=_BUFFER_CELLS)),
    )


WAYS: tuple[Way, ...] = (
    *_ways(_EACH_CELL),
    *_ways(replace(_EACH_CELL, batch_cells=64)),
    Way("ours, `create_dataloader`, blocks of 64", "loading_ours", _PLACE),
    *(way.with_workers(2) for way in _ways(_EACH_CELL)[:2]),
)
"""All that is compared."""


def run(bench: Bench) -> list[Row]:
    """Go through the archive in every way, in every round."""
    folder = bench.folder / "memmap"
    folder.mkdir(exist_ok=True)
    data = make_memmap_data(folder, Path(bench.census.path), bench.selection(1.0).index)
    peer = peer_python(PEER_PYTHON, Path(sys.executable))
    archive = _archive(data, peer)
    into_page_cache(archive)
    return [
        {"round": turn, **_measure(way, archive, data.truth, peer if way.python else Path(sys.executable))}
        for turn in range(bench.repeats)
        for way in WAYS
    ]


def _archive(data: MemmapData, peer: Path) -> Path:
    """Return what bionemo-scdl has made of the one file, once into the user's cache."""
    archive = data.h5ads / _PLACE

    def make(path: Path) -> None:
        measure_conversion(peer, "memmap_scdl", "whole", data.sources("raw.h5ad"), path)

    once(archive, make)
    return archive


def _measure(way: Way, archive: Path, truth: Path, python: Path) -> Row:
    words = [str(python), "-m", "benchmarks.loading_child", way.module, str(archive), way.settings.text()]
    row, peak_bytes = watched([*words, "--truth", str(truth)], {})
    told = {"way": way.name, "batch": way.settings.batch_cells, "workers": way.settings.workers}
    return {**told, **row, "peak_bytes": peak_bytes}
