"""What mixing costs and how mixed chunks are: `run --shuffle window` beside source order, all cells to a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.census import MANY_DATASETS, TINY, bench_census, select
from benchmarks.ours import OurRun, measure_ours

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["run"]

_WINDOWS = (1, 3, 6)
"""Chunks of a window."""


def run(bench: Bench) -> list[Row]:
    """Measure source order and windows of several sizes in every round."""
    size = bench.chunk_sizes[1]
    folder = bench.fresh_folder("many-datasets")
    folder.mkdir()
    index = select(bench_census(TINY if bench.quick else MANY_DATASETS), folder, 1.0).index
    rows: list[Row] = []
    for turn in range(bench.repeats):
        for chunks in (None, *_WINDOWS):
            dest = bench.fresh_folder("shuffled")
            window = None if chunks is None else chunks * size
            work = OurRun(index, str(dest), size, bench.workers, bench.folder / "surveys", shuffle_window=window)
            rows.append(measure_ours(work).row(round=turn, size=size, window=window, **_bits(dest)))
            shutil.rmtree(dest)
    return rows


def _bits(dest: Path) -> Row:
    """Return the entropy of datasets in a chunk, mean and least, as the plan has it; nothing in source order."""
    plan = json.loads((Path(dest) / "_ingest" / "plan.json").read_text(encoding="utf-8"))
    mixing = plan["provenance"].get("mixing")
    return {} if mixing is None else {"mixing": mixing}
