"""Loading from a bucket some way off: each request to the look-alike takes so much longer.

Ours reads there as from a folder. annbatch reads zarr anywhere, but without zarrs. The others open local files alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.loading import LoadingBench
from benchmarks.loading_ways import WAYS, Way
from benchmarks.store import BUCKET

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.values import Row

__all__ = ["run"]

_DELAYS_MS = (0, 20, 80)
_BUFFERS = 2
"""Measured of an epoch by annbatch, which takes minutes for one."""
_FAR = ("ours, deflate", "ours, lz4", "annbatch")


def run(bench: Bench) -> list[Row]:
    """Load from the look-alike at every distance, once each."""
    loading = LoadingBench.of(bench)
    ways = [_far(way) for way in loading.able(WAYS) if way.name in _FAR and way.settings.form == "csr"]
    rows: list[Row] = []
    for delay_ms in _DELAYS_MS[:1] if bench.quick else _DELAYS_MS:
        _upload(bench, {way.place: loading.data.place(way.place) for way in ways}, delay_ms)
        rows += [_measure(bench, loading, way) | {"round": 0, "delay_ms": delay_ms} for way in ways]
    return rows


def _measure(bench: Bench, loading: LoadingBench, way: Way) -> Row:
    before = bench.store.requests().get("GetObject", 0)
    environment = {"AWS_ENDPOINT_URL": bench.store.endpoint_url}
    row = loading.measure(way, place=f"s3://{BUCKET}/{way.place}", environment=environment)
    return {**row, "gets": bench.store.requests().get("GetObject", 0) - before}


def _far(way: Way) -> Way:
    return replace(way, batches=_BUFFERS * way.settings.fetch_batches) if way.python else way


def _upload(bench: Bench, folders: dict[str, Path], delay_ms: float) -> None:
    import boto3

    bench.store.reset(delay_ms=delay_ms)
    bench.store.server.create_bucket(BUCKET)
    client = boto3.client("s3", endpoint_url=bench.store.endpoint_url)

    def put(named: tuple[str, Path]) -> None:
        client.put_object(Bucket=BUCKET, Key=named[0], Body=named[1].read_bytes())

    files = [
        (f"{name}/{path.relative_to(folder)}", path)
        for name, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    ]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(put, files))
