"""Operations on one h5ad, file to file: ours beside anndata and scanpy in memory, and beside backed mode.

Every measurement is a process of its own, warmed up on 1,000 cells: seconds and CPU-seconds are those of the operation,
imports and compiled kernels left out; memory is the most that the process ever had. Ways take turns in every round.
Files read are in the page cache; all ways give the same numbers. The longer file shows how memory grows: ours only.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from benchmarks.child import Clock, in_child
from benchmarks.memmap_convert import into_page_cache
from benchmarks.stream_data import make_stream_data, stream_file
from benchmarks.stream_ways import OPERATIONS, WAYS

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["LENGTHS", "run"]

LENGTHS = (20_000, 200_000)
_WARM_UP = 1_000


def run(bench: Bench) -> list[Row]:
    """Do every operation in every way, in every round.

    Raises
    ------
    ValueError
        Ways differ in what they wrote.
    """
    lengths = (_WARM_UP,) if bench.quick else LENGTHS
    folder = make_stream_data(sorted({_WARM_UP, *lengths}))
    rows: list[Row] = []
    for turn in range(bench.repeats):
        for n_cells in lengths:
            for operation, layout in OPERATIONS.items():
                source = stream_file(folder, layout, n_cells)
                into_page_cache(source)
                ways = WAYS if n_cells == lengths[0] else ("ours",)
                found = [_measured(bench, turn, operation, way, source, n_cells) for way in ways]
                _check_same(found)
                rows += found
    return rows


def _measured(bench: Bench, turn: int, operation: str, way: str, source: Path, n_cells: int) -> Row:
    out = bench.fresh_folder("stream")
    out.mkdir()
    row = in_child("benchmarks.stream", operation, way, source, out / "out.h5ad")
    return {"round": turn, "operation": operation, "way": way, "cells": n_cells, **row}


def _check_same(rows: list[Row]) -> None:
    for row in rows[1:]:
        same = row["nnz"] == rows[0]["nnz"] and np.isclose(row["sum"], rows[0]["sum"], rtol=1e-5)
        if not same:
            raise ValueError(f"{row['operation']}, {row['way']}: not what is written by {rows[0]['way']}")


def main(arguments: list[str]) -> None:
    """Measure one way of one operation and print its row."""
    warnings.simplefilter("ignore")  # scanpy's, of its dependencies
    operation, way, source, out = arguments[arguments.index("--measure") + 1 :]
    call, target, clock = WAYS[way], Path(out), Clock()
    path = Path(source)
    call(operation, path.with_name(f"{OPERATIONS[operation]}-{_WARM_UP}.h5ad"), target)
    target.unlink()
    cpu = time.process_time()
    with clock.part(operation):
        call(operation, path, target)
    cpu = time.process_time() - cpu
    clock.report(work_cpu_seconds=round(cpu, 3), bytes=target.stat().st_size, **_facts(target))


def _facts(path: Path) -> dict[str, Any]:
    total, step = 0.0, 1 << 22
    with h5py.File(path) as file:
        data: Any = file["X/data"]
        for start in range(0, len(data), step):
            total += float(data[start : start + step].sum(dtype=np.float64))
        return {"nnz": len(data), "sum": total}


if __name__ == "__main__":
    main(sys.argv)
