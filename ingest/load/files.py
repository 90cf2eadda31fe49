"""The files of some datasets, opened by one process: readers of counts and of names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.cpu import available_cpus
from ingest.layout import CHUNK_OFFSETS_KEY
from ingest.load.local_copy import cache_folder, local_copy
from ingest.load.names import CellNames
from ingest.load.read.chunk import ChunkReader
from ingest.load.read.disk_cache import DiskCachedChunks
from ingest.load.read.layout import ChunkLayouts
from ingest.load.read.ranges import LocalChunks, StoredChunks
from ingest.load.read.reader import CellReader
from ingest.naming import source_labels
from ingest.source import Source
from ingest.store.open import open_store
from ingest.store.url import parse_store_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.manifest import Manifest
    from ingest.load.obs import Obs
    from ingest.load.read.ranges import ChunkBytes

__all__ = ["OpenFiles", "ReadSettings", "is_remote"]

_CACHE_BYTES = 256 << 20
_LOCAL_GAP, _REMOTE_GAP = 1 << 14, 1 << 18
"""Bytes read for nothing that a request is worth."""
_REMOTE_THREADS, _REMOTE_REQUESTS = 16, 32


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How cells are read; what is read does not depend on it."""

    threads: int | None = None
    """That inflate. None: one a CPU, more of a bucket, where they mostly wait."""
    cache_bytes: int | None = None
    """Inflated blocks kept in memory, of each process. None: 256 MiB, of a loader only where all cells fit."""
    cache_dir: str | None = None
    """For copies of remote files; None: a folder of this user's."""
    disk_cache_bytes: int = 0
    """Chunks of a bucket kept on the local disk; 0: none."""
    endpoint_url: str | None = None
    """Of an S3 or GCS look-alike."""
    allow_incomplete: bool = False
    """Open what there is of a dataset whose chunks are not all there."""

    @property
    def most_cache_bytes(self) -> int:
        """Inflated blocks kept."""
        return _CACHE_BYTES if self.cache_bytes is None else self.cache_bytes


def is_remote(url: str) -> bool:
    """Return whether a dataset is in a bucket."""
    return parse_store_url(url).scheme != "file"


class OpenFiles:
    """What one process has open; threads and sockets do not survive a fork.

    Parameters
    ----------
    manifests, settings
        The datasets, and how they are read.
    dtype
        Holds every count.

    Raises
    ------
    CorruptError
        ``chunk_offsets.feather`` of a dataset is damaged.
    """

    def __init__(self, manifests: Sequence[Manifest], settings: ReadSettings, dtype: np.dtype[Any]) -> None:
        remote = any(is_remote(manifest.url) for manifest in manifests)
        threads = settings.threads or max(available_cpus(), _REMOTE_THREADS if remote else 1)
        self._chunks = tuple(_open_chunks(manifest, settings) for manifest in manifests)
        self.reader = CellReader(self._chunks, dtype, threads=threads, cache_bytes=settings.most_cache_bytes)
        self._names: tuple[CellNames, ...] | None = None

    def names(self, obs: Obs) -> tuple[CellNames, ...]:
        """Return the names of the cells of each dataset."""
        if self._names is None:
            starts = np.cumsum([0, *(chunks.manifest.n_cells for chunks in self._chunks)]).tolist()
            self._names = tuple(
                CellNames(chunks, obs, start, *_labelled(chunks.manifest))
                for chunks, start in zip(self._chunks, starts, strict=False)
            )
        return self._names

    def close(self) -> None:
        """End threads and let go of files."""
        self.reader.close()


def _labelled(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return manifest.sources, source_labels([Source.parse(text) for text in manifest.sources])


def _open_chunks(manifest: Manifest, settings: ReadSettings) -> ChunkReader:
    folder, where = cache_folder(settings.cache_dir), parse_store_url(manifest.url)
    files: ChunkBytes
    store = open_store(manifest.url, endpoint_url=settings.endpoint_url)
    offsets = local_copy(store, CHUNK_OFFSETS_KEY, folder)
    if where.scheme == "file":
        files = LocalChunks(manifest, Path(where.prefix), max_gap_bytes=_LOCAL_GAP)
    else:
        files = StoredChunks(manifest, store, requests=_REMOTE_REQUESTS, max_gap_bytes=_REMOTE_GAP)
        if settings.disk_cache_bytes:
            files = DiskCachedChunks(manifest, files, folder / "chunks", max_bytes=settings.disk_cache_bytes)
    return ChunkReader(manifest, ChunkLayouts(manifest, offsets, files), files)
