"""The first seed's way, written anew from its description: every chunk by itself, from opening to upload.

For each chunk of cells in index order an actor looks whether the object exists, opens the Census, asks for an AnnData
of these joinids (all genes; of obs the joinid alone, of var four columns), writes it uncompressed as h5ad (the seed
passes no compression to ``write_h5ad``) to a temporary file and uploads that. Chunks go to the actors of a
``ray.util.ActorPool``. It opens a client for every upload and leaves TileDB at its defaults, the whole machine's
threads.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.util import ActorPool

from benchmarks.processes import PLAIN_MALLOC, Gauge
from benchmarks.values import Measured

if TYPE_CHECKING:
    from benchmarks.store import BenchStore

__all__ = ["SeedActors", "chunks_of", "sample_of", "write_chunk"]

Joinids = np.ndarray[Any, np.dtype[np.int64]]

_OBS = ["soma_joinid"]
_VAR = ["soma_joinid", "feature_id", "feature_name", "feature_length"]


def chunks_of(joinids: Joinids, cells_per_chunk: int) -> list[Joinids]:
    """Cut the selection as the seed does: so many at a time, in index order."""
    return [joinids[start : start + cells_per_chunk] for start in range(0, len(joinids), cells_per_chunk)]


def sample_of(chunks: list[Joinids], most: int) -> list[Joinids]:
    """Return up to `most` chunks, evenly spread over all; no short last one among several."""
    whole = [chunk for chunk in chunks if len(chunk) == len(chunks[0])]
    if len(whole) <= most:
        return chunks if len(chunks) <= most else whole
    return [whole[at] for at in np.linspace(0, len(whole) - 1, most).round().astype(int)]


def write_chunk(census_uri: str, joinids: Joinids, path: Path) -> int:
    """Write the h5ad of these cells; return its non-zeros."""
    import cellxgene_census

    with cellxgene_census.open_soma(uri=census_uri) as census:
        adata = cellxgene_census.get_anndata(
            census, "Homo sapiens", obs_coords=joinids, obs_column_names=_OBS, var_column_names=_VAR
        )
    adata.write_h5ad(path)
    return int(adata.X.nnz)


@dataclass(frozen=True, slots=True)
class _Made:
    cells: int
    nnz: int
    size: int


@ray.remote(num_cpus=0)  # as ray counts an actor that asks for nothing; it would not wait for ours to end
class _SeedActor:
    def __init__(self, census_uri: str, endpoint_url: str) -> None:
        self._census_uri, self._endpoint_url = census_uri, endpoint_url

    def warm_up(self, joinids: Joinids) -> int:
        """Import everything and make one chunk that is not counted; return the process id."""
        with tempfile.NamedTemporaryFile(suffix=".h5ad") as file:
            write_chunk(self._census_uri, joinids, Path(file.name))
        self._client().close()
        return os.getpid()

    def _client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self._endpoint_url)

    def ingest(self, joinids: Joinids, bucket: str, prefix: str) -> _Made:
        key = f"{prefix}/{joinids[0]}-{joinids[-1]}.h5ad"
        if self._exists(bucket, key):
            raise RuntimeError(f"{key} exists")
        with tempfile.NamedTemporaryFile(suffix=".h5ad") as file:
            nnz = write_chunk(self._census_uri, joinids, Path(file.name))
            self._client().upload_file(file.name, bucket, key)
            return _Made(len(joinids), nnz, Path(file.name).stat().st_size)

    def _exists(self, bucket: str, key: str) -> bool:
        import botocore.exceptions

        try:
            self._client().head_object(Bucket=bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise
            return False
        return True


class SeedActors:
    """Warm actors that work the seed's way; a context manager.

    Parameters
    ----------
    joinids
        A few cells for warming up.
    """

    def __init__(self, census_uri: str, store: BenchStore, workers: int, joinids: Joinids) -> None:
        self._store, self._workers = store, workers
        actor: Any = _SeedActor
        remote = actor.options(runtime_env=PLAIN_MALLOC)
        self._actors = [remote.remote(census_uri, store.endpoint_url) for _ in range(workers)]
        self._pids: list[int] = ray.get([actor.warm_up.remote(joinids) for actor in self._actors])

    def __enter__(self) -> SeedActors:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def measure(self, chunks: list[Joinids], cells_per_chunk: int, bucket: str, prefix: str) -> Measured:
        """Bring `chunks`."""
        gauge = Gauge(self._pids, self._store)
        gauge.start()
        pool: Any = ActorPool(self._actors)
        made: list[_Made] = list(pool.map(lambda actor, chunk: actor.ingest.remote(chunk, bucket, prefix), chunks))
        usage = gauge.stop()
        return Measured(
            "seed",
            sum(one.cells for one in made),
            usage.seconds,
            self._workers,
            cells_per_chunk,
            len(made),
            sum(one.nnz for one in made),
            sum(one.size for one in made),
            usage.cpu_seconds,
            {},
            usage.requests,
            usage.peak_rss_bytes,
        )
