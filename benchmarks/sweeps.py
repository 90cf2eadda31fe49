"""Ours under other circumstances, one thing varied at a time, once each."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from benchmarks.bare_read import BareReaders
from benchmarks.ours import OurRun, measure_ours
from benchmarks.seed_way import SeedActors, chunks_of, sample_of
from benchmarks.store import BUCKET
from ingest.errors import ConfigError
from ingest.settings import DEFAULT_MEMORY_BYTES

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.bench import Bench
    from benchmarks.values import Measured, Row

__all__ = ["chunk_size", "density", "latency", "memory", "scaling"]

_GIB = 1 << 30


def density(bench: Bench) -> list[Row]:
    """Vary the share of cells selected; the large chunk size, to the look-alike."""
    size = bench.chunk_sizes[1]
    return [
        _to_store(bench, f"density-{share:g}", share, size).row(density=share, size=size)
        for share in (0.01, 0.1, 0.5, 1.0)
    ]


def chunk_size(bench: Bench) -> list[Row]:
    """Vary the cells of a file; half of the cells, to the look-alike."""
    sizes = (50, 500, 3_000) if bench.quick else (100, 1_000, 5_000, 25_000)
    return [_to_store(bench, f"size-{size}", 0.5, size).row(density=0.5, size=size) for size in sizes]


def memory(bench: Bench) -> list[Row]:
    """Vary the setting and the chunk size; all cells, to a folder. What does not fit is a row that says so."""
    rows: list[Row] = []
    for size in (*bench.chunk_sizes, 25_000):
        for limit in (_GIB, DEFAULT_MEMORY_BYTES, 3 * _GIB):
            circumstances = {"density": 1.0, "size": size, "memory_bytes": limit}
            try:
                made = _to_folder(bench, 1.0, size, memory_bytes=limit)
            except ConfigError as error:
                rows.append({"way": "ours", **circumstances, "refused": error.message})
            else:
                rows.append(made.row(**circumstances))
    return rows


def scaling(bench: Bench) -> list[Row]:
    """Vary the workers, up to one a CPU; all cells, to a folder, beside the bare read."""
    size, rows = bench.chunk_sizes[1], []
    workers = sorted({n for n in (1, 2, 4, 8, 16, 32, 64) if n <= (os.cpu_count() or 1)} | {bench.workers})
    for n in workers:
        with BareReaders(bench.census.uri, bench.census.n_cells, n) as readers:
            rows.append(readers.measure().row(size=size, threads=max(1, (os.cpu_count() or 1) // n)))
        rows.append(_to_folder(bench, 1.0, size, workers=n).row(size=size))
    return rows


def latency(bench: Bench) -> list[Row]:
    """Vary what every request to DEST takes longer, for ours and for the seed's way."""
    selection = bench.selection(0.5)
    rows: list[Row] = []
    with SeedActors(bench.census.uri, bench.store, bench.workers, selection.joinids[:10]) as seed:
        for delay_ms in (0, 20, 80):
            for size in bench.chunk_sizes:
                sample = sample_of(chunks_of(selection.joinids, size), 4)
                bench.store.reset(delay_ms=delay_ms)
                name = f"latency-{delay_ms}-{size}"
                seeds = seed.measure(sample, size, BUCKET, f"seed-{name}")
                ours = _to_store(bench, name, 0.5, size, delay_ms=delay_ms)
                rows += [made.row(size=size, latency_ms=delay_ms) for made in (seeds, ours)]
    bench.store.reset()
    return rows


def _to_store(bench: Bench, name: str, share: float, size: int, *, delay_ms: float = 0.0) -> Measured:
    bench.store.reset(delay_ms=delay_ms)
    index = bench.selection(share).index
    dest = f"s3://{BUCKET}/ours-{name}"
    made = measure_ours(OurRun(index, dest, size, bench.workers, bench.folder / "surveys", bench.store))
    bench.store.reset()
    return made


def _to_folder(bench: Bench, share: float, size: int, *, workers: int | None = None, **settings: Any) -> Measured:
    dest = bench.fresh_folder("swept")
    index, cache = bench.selection(share).index, bench.folder / "surveys"
    made = measure_ours(OurRun(index, str(dest), size, workers or bench.workers, cache, **settings))
    shutil.rmtree(dest)
    return made
