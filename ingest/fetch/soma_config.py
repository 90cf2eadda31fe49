"""How TileDB reads for one worker: buffers, threads and where S3 is. Nothing is opened here.

Measured on 2 cores over X of 36 M entries in Census layout, local disk, unordered reads: column buffers of 2 to 16 MiB
with 16 MiB of tiles read 73 to 94 M entries a second and take 60 MB; TileDB's default of 1 GiB of tiles reads 49 M and
takes 760. What fits the CPU's caches is read fastest.

Over a network what counts is how often one waits. TileDB asks for the tiles that it has room to decode, then delivers
until a column's buffer is full, and asks again: 20 waits for a band with local buffers, 5 with 16 MiB a column and
256 MiB of tiles. With 20 ms to every request of a look-alike, one worker reads 4,000 cells/s with those and 11,900 with
these; with 80 ms, 1,300 and 4,200.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ingest.fetch.s3_sources import has_s3_credentials, s3_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.fetch.base import FetchLimits
    from ingest.source import Source

__all__ = ["tiledb_config"]

_MIB = 1 << 20
_CENSUS_REGION = "us-west-2"
_REMOTE_REQUESTS = 32

_SAFE = {"sm.query.sparse_global_order.preprocess_tile_merge": "0"}
"""TileDB 2.30 merges tiles in tasks that outlive what they work on: now and then, once in some hundred reads of arrays
without duplicates (obs, var) and counts of entries, the process dies (TileDB pull request 5723). 0 merges none."""


_KEEP_MEMORY = {"sm.mem.malloc_trim": "false"}
"""TileDB hands all free memory of the process back to the system after every query, to fault it in again for the next:
a third of what reading a band costs, and of the process's other stages too. What is kept is used again, not added."""


def tiledb_config(source: Source, limits: FetchLimits, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return TileDB settings for reading `source` within a worker's share.

    S3 follows the usual AWS variables (region, endpoint, CA bundle, credentials; without credentials it is read
    anonymously). The public Census does not: it is read anonymously where it is, whatever DEST's own store wants.

    Parameters
    ----------
    source
        ``census`` or ``soma``.
    limits
        A tenth of the memory goes to TileDB, over a network as much again as there is (`ingest.memory` counts with
        it): three column buffers, and tiles decoded ahead.
    environ
        The environment; this process's by default.
    """
    environ = os.environ if environ is None else environ
    remote = source.path is None
    config = _SAFE | _KEEP_MEMORY | _buffers(limits, remote=remote) | _threads(limits, remote=remote)
    if remote:
        # 20 MiB, the default, fetches up to that much in between; gaps below half a megabyte are still bridged.
        config |= {"vfs.min_batch_size": str(64 << 10), "vfs.s3.request_timeout_ms": "10000"}
    if source.kind != "census" and source.address.startswith("s3://"):
        config |= _s3(environ)
    return config


def _buffers(limits: FetchLimits, *, remote: bool) -> dict[str, str]:
    if remote:
        column = min(max(limits.memory_bytes // 10, 4 * _MIB), 16 * _MIB)
        tiles = min(max(limits.memory_bytes * 3 // 2, 16 * _MIB), 256 * _MIB)
    else:
        column = min(max(limits.memory_bytes // 128, 4 * _MIB), 16 * _MIB)
        tiles = min(max(limits.memory_bytes // 32, 16 * _MIB), 64 * _MIB)
    return {"soma.init_buffer_bytes": str(column), "sm.mem.tile_upper_memory_limit": str(tiles)}


def _threads(limits: FetchLimits, *, remote: bool) -> dict[str, str]:
    # Threads that wait for a network burn nothing, and a single connection does not fill a link.
    waiting = max(limits.threads, _REMOTE_REQUESTS) if remote else limits.threads
    return {
        "sm.compute_concurrency_level": str(limits.threads),
        "soma.compute_concurrency_level": str(limits.threads),
        "sm.io_concurrency_level": str(waiting),
        "vfs.s3.max_parallel_ops": str(waiting),
    }


def _s3(environ: Mapping[str, str]) -> dict[str, str]:
    config = {
        "vfs.s3.region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or _CENSUS_REGION,
        "vfs.s3.no_sign_request": "false" if has_s3_credentials() else "true",
    }
    if bundle := environ.get("AWS_CA_BUNDLE"):
        config["ssl.ca_file"] = bundle
    if endpoint := s3_endpoint(environ):
        parts = urlsplit(endpoint)
        # TileDB wants host:port alone here, and look-alikes have no bucket subdomains.
        config |= {
            "vfs.s3.endpoint_override": parts.netloc,
            "vfs.s3.scheme": parts.scheme,
            "vfs.s3.use_virtual_addressing": "false",
        }
    return config
