"""``python -m benchmarks.scale``: 162 million cells by up to a thousand workers, in simulated time.

The driver, the scheduler and the cutting of units are the real ones; workers, their losses and the time that listings
take are simulated (`benchmarks.scale_pool`). CPU-seconds are the real driver's, for what it really does.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.driver import SilentObserver
from benchmarks.scale_pool import Fleet, ListedStore, SimulatedPool
from ingest.driver import drive
from ingest.ledger.ledger import Ledger
from ingest.profile import Profile
from ingest.schedule import Scheduler
from ingest.units import cut_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.values import Row

__all__ = ["CENSUS_CELLS", "DAYS", "Scenario", "census_profile", "scenarios", "simulate"]

CENSUS_CELLS = 162_000_000
_BAND_ROWS, _NNZ_PER_CELL, _STORED_BYTES_PER_NNZ = 2_048, 2_440, 2

_QUIET = Fleet(0)
_SPOT = Fleet(0, losses_per_h=0.05, stragglers=0.02, throttled=0.001)
_FAR = replace(_SPOT, cells_per_s=500.0)
"""A source or line so slow that a run takes long enough to lose workers."""


DAYS = ("quiet", "spot")
"""Cases with one row for each number of workers."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who makes how many chunks."""

    case: str
    fleet: Fleet
    n_cells: int
    cells_per_chunk: int = 25_000


def scenarios(n_cells: int, workers: int) -> list[Scenario]:
    """Return what is simulated: few and many workers on good days and bad ones, a slow line, small chunks."""
    fleets = sorted({max(1, round(workers * share)) for share in (0.01, 0.03, 0.1, 0.3, 1.0)})
    days = [(name, fleet, number) for name, fleet in zip(DAYS, (_QUIET, _SPOT), strict=True) for number in fleets]
    return [
        *(Scenario(name, replace(fleet, workers=number), n_cells) for name, fleet, number in days),
        Scenario("spot, slow line", replace(_FAR, workers=fleets[-3]), n_cells),
        Scenario("spot, slow line", replace(_FAR, workers=workers), n_cells),
        Scenario("spot, -c 1000", replace(_SPOT, workers=workers), n_cells, 1_000),
        Scenario("spot, -c 100, a tenth of the cells", replace(_SPOT, workers=workers), n_cells // 10, 100),
    ]


def census_profile(n_cells: int, cells_per_chunk: int) -> Profile:
    """Return what chunks of all cells of a Census ask of it."""
    starts = np.arange(0, n_cells, cells_per_chunk, dtype=np.int64)
    stops = np.minimum(starts + cells_per_chunk, n_cells)
    first, last = starts // _BAND_ROWS, (stops - 1) // _BAND_ROWS
    band_bytes = np.float64(_BAND_ROWS * _NNZ_PER_CELL * _STORED_BYTES_PER_NNZ)
    nnz, uncut = (stops - starts) * _NNZ_PER_CELL, np.zeros(len(starts), bool)
    return Profile(first, last, nnz, first * band_bytes, (last + 1) * band_bytes, _BAND_ROWS * _NNZ_PER_CELL, uncut)


def simulate(scenario: Scenario, *, seed: int = 0) -> Row:
    """Drive the scenario to its end and return what it took.

    Raises
    ------
    RuntimeError
        Chunks are missing afterwards, or were given up.
    """
    profile = census_profile(scenario.n_cells, scenario.cells_per_chunk)
    fleet, store = scenario.fleet, ListedStore()
    units = [unit.chunks for unit in cut_units(profile, range(profile.n_chunks), workers=fleet.workers)]
    pool, draw = SimulatedPool(fleet, scenario.cells_per_chunk, store, seed=seed), random.Random(seed)  # noqa: S311
    cpu = time.process_time()
    driven = drive(
        Scheduler(units, run_id="simulated", draw=draw.random),
        pool,
        Ledger(store),
        SilentObserver(),
        stop_requested=lambda: False,
        deadline_s=lambda _: 600.0,
        clock=pool.now,
    )
    cpu = time.process_time() - cpu - pool.cpu_seconds
    if len(driven.done) != profile.n_chunks:
        raise RuntimeError(f"{scenario.case}: {len(driven.done):,} of {profile.n_chunks:,} chunks were made")
    ideal = scenario.n_cells / fleet.cells_per_s / fleet.workers
    return {
        "case": scenario.case,
        "workers": fleet.workers,
        "chunks": profile.n_chunks,
        "units": len(units),
        "minutes": round(driven.seconds / 60, 2),
        "times the ideal": round(driven.seconds / ideal, 2),
        "busy hours": round(pool.busy_s / 3600, 1),
        "paid hours": round(driven.seconds * fleet.workers / 3600, 1),
        "lost": pool.n_lost,
        "attempts": pool.n_events,
        "most PUT/s": max(pool.puts.values()),
        "LIST": store.pages,
        "driver CPU-s": round(cpu, 3),
        "CPU-ms an attempt": round(1e3 * cpu / pool.n_events, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON for every scenario."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--cells", type=int, default=CENSUS_CELLS)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for scenario in scenarios(options.cells, options.workers):
        print(json.dumps(simulate(scenario, seed=options.seed)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
