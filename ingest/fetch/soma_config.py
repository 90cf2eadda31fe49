"""How TileDB reads for one worker: buffers, threads and where S3 is. Nothing is opened here.

Measured on 2 cores over X of 36.8 M entries in Census layout, local disk, unordered reads: buffers of 4 to 32 MiB and
16 to 128 MiB of tiles read 50 to 88 M entries a second within 45 to 300 MB; the library's defaults for tiles read 49 M
within 760 MB. So both stay small; over a network more is asked for at once, since each step waits for its slowest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.fetch.base import FetchLimits
    from ingest.source import Source

__all__ = ["tiledb_config"]

_MIB = 1 << 20
_CENSUS_REGION = "us-west-2"
_REMOTE_REQUESTS = 8


def tiledb_config(source: Source, limits: FetchLimits, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return TileDB settings for reading `source` within a worker's share.

    S3 follows the usual AWS variables (region, endpoint, CA bundle, credentials; without credentials it is read
    anonymously). The public Census does not: it is read anonymously where it is, whatever DEST's own store wants.

    Parameters
    ----------
    source
        ``census`` or ``soma``.
    limits
        A sixth of the memory goes to TileDB: three column buffers and the tiles decoded ahead.
    environ
        The environment; this process's by default.
    """
    environ = os.environ if environ is None else environ
    remote = source.path is None
    config = _buffers(limits, remote=remote) | _threads(limits, remote=remote)
    if remote:
        # 20 MiB, the default, fetches up to that much in between; gaps below half a megabyte are still bridged.
        config |= {"vfs.min_batch_size": str(64 << 10), "vfs.s3.request_timeout_ms": "10000"}
    if source.kind != "census" and source.address.startswith("s3://"):
        config |= _s3(environ)
    return config


def _buffers(limits: FetchLimits, *, remote: bool) -> dict[str, str]:
    column = min(max(limits.memory_bytes // 64, 4 * _MIB), 32 * _MIB)
    tiles = min(max(limits.memory_bytes // 8, 16 * _MIB), (512 if remote else 64) * _MIB)
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
        "vfs.s3.no_sign_request": "false" if _has_credentials() else "true",
    }
    if bundle := environ.get("AWS_CA_BUNDLE"):
        config["ssl.ca_file"] = bundle
    if endpoint := environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        # TileDB wants host:port alone here, and look-alikes have no bucket subdomains.
        config |= {
            "vfs.s3.endpoint_override": parts.netloc,
            "vfs.s3.scheme": parts.scheme,
            "vfs.s3.use_virtual_addressing": "false",
        }
    return config


def _has_credentials() -> bool:
    import botocore.session

    return botocore.session.Session().get_credentials() is not None
