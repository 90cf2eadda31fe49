"""Side by side: the seed's way, ours and the bare read, in rounds, so that whatever disturbs the machine hits all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.bare_read import BareReaders
from benchmarks.ours import OurRun, measure_ours
from benchmarks.seed_way import SeedActors, chunks_of, sample_of
from benchmarks.store import BUCKET, open_bench_store

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["DENSITY", "run", "run_on_moto"]

DENSITY = 0.5
_MOST_SEED_CHUNKS = 20
"""The seed's way takes minutes for all small files; its rate is that of a sample spread over the selection."""


def run(bench: Bench) -> list[Row]:
    """Measure every way at both chunk sizes, in every round."""
    joinids = bench.selection(DENSITY).joinids[:10]
    rows: list[Row] = []
    with (
        SeedActors(bench.census.uri, bench.store, bench.workers, joinids) as seed,
        BareReaders(bench.census.uri, bench.census.n_cells, bench.workers) as readers,
    ):
        for turn in range(bench.repeats):
            for size in bench.chunk_sizes:
                rows += _round(bench, seed, readers, size, turn)
    return rows


def run_on_moto(bench: Bench) -> list[Row]:
    """Measure one round against moto, which others use: do the ratios hang on our own look-alike?"""
    with open_bench_store("moto") as store:
        return run(replace(bench, store=store, repeats=1))


def _round(bench: Bench, seed: SeedActors, readers: BareReaders, size: int, turn: int) -> list[Row]:
    selection = bench.selection(DENSITY)
    chunks = chunks_of(selection.joinids, size)
    sample = sample_of(chunks, 4 if bench.quick else _MOST_SEED_CHUNKS)
    bench.store.reset()
    seeds = seed.measure(sample, size, BUCKET, f"seed-{size}-{turn}")
    bench.store.reset()
    dest = f"s3://{BUCKET}/ours-{size}-{turn}"
    ours = measure_ours(OurRun(selection.index, dest, size, bench.workers, bench.folder / "surveys", bench.store))
    bench.store.reset()
    read = readers.measure()
    common = {"round": turn, "size": size, "density": DENSITY, "store": bench.store.kind}
    return [seeds.row(**common, of_chunks=len(chunks)), ours.row(**common), read.row(**common)]
