"""The bare read: TileDB hands over every cell of the bands in whatever order suits it, and all of it is dropped.

Nothing that delivers these cells can be faster: no cell is looked at. Buffers are those that
read fastest: of 2 to 64 MiB for a column, 8 took the least CPU for an entry.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray
from ray.util import ActorPool

from benchmarks.processes import PLAIN_MALLOC, Gauge
from benchmarks.values import Measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

__all__ = ["BareReaders", "band_ranges", "read_tables"]

_BAND = 2_048
_RANGES_PER_WORKER = 4
"""So that one worker's denser cells do not leave the others idle at the end, as with ours."""


def band_ranges(n_cells: int, parts: int) -> list[tuple[int, int]]:
    """Cut ``[0, n_cells)`` into up to `parts` half-open ranges of whole bands, as even as they go."""
    bands = -(-n_cells // _BAND)
    edges = sorted({round(part * bands / parts) * _BAND for part in range(parts)} | {0})
    return [(low, min(high, n_cells)) for low, high in zip(edges, [*edges[1:], n_cells], strict=True) if low < n_cells]


def read_tables(census_uri: str, start: int, stop: int, threads: int) -> Iterator[pa.Table]:
    """Yield coordinate tables of the cells ``[start, stop)``, unordered."""
    import cellxgene_census

    config = {
        "soma.init_buffer_bytes": str(8 << 20),
        "sm.mem.tile_upper_memory_limit": str(32 << 20),
        "sm.compute_concurrency_level": str(threads),
        "sm.io_concurrency_level": str(threads),
        "soma.compute_concurrency_level": str(threads),
    }
    with cellxgene_census.open_soma(uri=census_uri, tiledb_config=config) as census:
        raw = census["census_data"]["homo_sapiens"].ms["RNA"].X["raw"]
        yield from raw.read((slice(start, stop - 1),), result_order="auto").tables()


@ray.remote(num_cpus=0)
class _Reader:
    def __init__(self, census_uri: str, threads: int, tuned: bool) -> None:
        self._census_uri, self._threads = census_uri, threads
        if tuned:
            from ingest.fetch.heap import keep_freed_memory

            keep_freed_memory()

    def warm_up(self) -> int:
        """Import everything and read a few cells; return the process id."""
        self.read(0, 16)
        return os.getpid()

    def read(self, start: int, stop: int) -> int:
        return sum(table.num_rows for table in read_tables(self._census_uri, start, stop, self._threads))


class BareReaders:
    """Warm actors that read and drop; a context manager.

    Parameters
    ----------
    tuned
        Let malloc keep freed memory, as our workers do: the same read then takes half of the CPU time.
    """

    def __init__(self, census_uri: str, n_cells: int, workers: int, *, tuned: bool = False) -> None:
        self._n_cells, self._workers = n_cells, workers
        self._way = "tuned read" if tuned else "read"
        threads = max(1, (os.cpu_count() or 1) // workers)
        actor: Any = _Reader
        remote = actor if tuned else actor.options(runtime_env=PLAIN_MALLOC)
        self._actors = [remote.remote(census_uri, threads, tuned) for _ in range(workers)]
        self._pids: list[int] = ray.get([actor.warm_up.remote() for actor in self._actors])

    def __enter__(self) -> BareReaders:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def measure(self) -> Measured:
        """Read all cells."""
        ranges = band_ranges(self._n_cells, self._workers * _RANGES_PER_WORKER)
        gauge = Gauge(self._pids)
        gauge.start()
        pool: Any = ActorPool(self._actors)
        nnz = sum(pool.map_unordered(lambda actor, span: actor.read.remote(*span), ranges))
        usage = gauge.stop()
        return Measured(
            self._way,
            self._n_cells,
            usage.seconds,
            self._workers,
            nnz=nnz,
            cpu_seconds=usage.cpu_seconds,
            peak_rss_bytes=usage.peak_rss_bytes,
        )
