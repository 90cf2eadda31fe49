"""All cells to a folder on the local disk, beside the bare read and beside each stage measured alone."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from benchmarks.bare_read import BareReaders
from benchmarks.ours import OurRun, measure_ours
from benchmarks.stages import measure_stages
from ingest.settings import DEFAULT_CELLS_PER_CHUNK

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["run"]


def run(bench: Bench) -> list[Row]:
    """Measure ours at the large chunk size and at the default one, the bare read, and the stages, in every round."""
    selection = bench.selection(1.0)
    rows: list[Row] = []
    place = (bench.census.uri, bench.census.n_cells, bench.workers)
    with BareReaders(*place) as readers, BareReaders(*place, tuned=True) as tuned:
        for turn in range(bench.repeats):
            for size in (bench.chunk_sizes[1], DEFAULT_CELLS_PER_CHUNK):
                dest = bench.fresh_folder("dense")
                ours = measure_ours(OurRun(selection.index, str(dest), size, bench.workers, bench.folder / "surveys"))
                shutil.rmtree(dest)
                rows += [
                    ours.row(round=turn, size=size),
                    readers.measure().row(round=turn, size=size),
                    tuned.measure().row(round=turn, size=size),
                    {
                        "way": "stages",
                        "round": turn,
                        "size": size,
                        **measure_stages(selection, size, bench.folder / "surveys"),
                    },
                ]
    return rows
