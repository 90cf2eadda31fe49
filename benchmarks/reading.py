"""Reading alone, in one process with one thread: out of stored tiles, through TileDB, and TileDB with nothing done.

The same slabs of cells each time, from the local disk and from the look-alike at several distances. Rows in the order
asked for are what both of ours deliver; TileDB alone delivers coordinate tables, which are dropped.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.store import BUCKET
from ingest.fetch.soma import READER_VARIABLE

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["run"]

_SLAB_CELLS = 2_048
_SLABS = 12
_FAR_SLABS = 6
_MEMORY_BYTES = 170 << 20
"""A usual worker's share for reading."""


def run(bench: Bench) -> list[Row]:
    """Read in every way, near and far, in every round; what is far, once."""
    rows: list[Row] = []
    slabs = 2 if bench.quick else _SLABS
    for turn in range(bench.repeats):
        here = {"round": turn, "place": "local disk"}
        rows += [_read(way, bench.census.uri, slabs) | here for way in ("tiles", "tiledb", "read")]
    for delay_ms in (0,) if bench.quick else (0, 20, 80):
        address = _upload(bench, delay_ms)
        there = {"round": 0, "place": f"{delay_ms} ms away"}
        rows += [_read(way, address, min(slabs, _FAR_SLABS)) | there for way in ("tiles", "tiledb")]
    return rows


def _upload(bench: Bench, delay_ms: float) -> str:
    """Put the Census into the look-alike, each of whose answers takes `delay_ms`."""
    import boto3

    bench.store.reset(delay_ms=delay_ms)
    bench.store.server.create_bucket(BUCKET)
    client = boto3.client("s3", endpoint_url=bench.store.endpoint_url)
    root = Path(bench.census.path)

    def put(path: Path) -> None:
        client.put_object(Bucket=BUCKET, Key=f"census/{path.relative_to(root)}", Body=path.read_bytes())

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(put, [path for path in root.rglob("*") if path.is_file()]))
    os.environ["AWS_ENDPOINT_URL"] = bench.store.endpoint_url
    return f"s3://{BUCKET}/census"


def _read(way: str, address: str, slabs: int) -> Row:
    """Measure in a process of its own, which `way` and the store's address reach by the environment."""
    os.environ[READER_VARIABLE] = way
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(_bare if way == "read" else _rows, way, address, slabs).result()
    finally:
        del os.environ[READER_VARIABLE]


def _rows(way: str, address: str, slabs: int) -> Row:
    from ingest.fetch.base import FetchLimits, FetchOptions
    from ingest.fetch.open import open_fetcher
    from ingest.source import Source, address_of
    from ingest.survey.soma import survey_soma

    limits = FetchLimits(_MEMORY_BYTES, 1, Path.cwd())
    found = survey_soma(Source("soma", address_of(address), "", "homo_sapiens"), limits, datasets=None)
    with closing(open_fetcher(found, found.genes, FetchOptions(), limits)) as fetcher:
        parts = [_slab(number, found.n_obs) for number in range(slabs)]
        fetcher.read(parts[0][:100])
        start, before, nnz = time.perf_counter(), time.process_time(), 0
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            if following is not None:
                fetcher.expect(following)  # as a worker does
            nnz += fetcher.read(part).counts.nnz
        return _row(way, parts, nnz, time.perf_counter() - start, time.process_time() - before)


def _bare(way: str, address: str, slabs: int) -> Row:
    from benchmarks.bare_read import read_tables
    from ingest.fetch.heap import keep_freed_memory

    keep_freed_memory()
    parts = [_slab(number, 1 << 62) for number in range(slabs)]
    list(read_tables(address, 0, 100, 1))
    start, before, nnz = time.perf_counter(), time.process_time(), 0
    for part in parts:
        for table in read_tables(address, int(part[0]), int(part[-1]) + 1, 1):
            nnz += len(table)
    return _row(way, parts, nnz, time.perf_counter() - start, time.process_time() - before)


def _slab(number: int, n_cells: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(number * _SLAB_CELLS, min((number + 1) * _SLAB_CELLS, n_cells))


def _row(
    way: str, parts: list[np.ndarray[tuple[int], np.dtype[np.int64]]], nnz: int, seconds: float, cpu: float
) -> Row:
    cells = sum(map(len, parts))
    return {
        "way": way,
        "cells": cells,
        "nnz": nnz,
        "seconds": round(seconds, 4),
        "cells_per_s": round(cells / seconds, 1),
        "cpu_ns_per_entry": round(cpu / nnz * 1e9, 2),
    }
