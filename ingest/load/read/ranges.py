"""Bytes of chunk files by range: the seam between a dataset's place and whoever inflates."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from ingest.errors import CorruptError, IngestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.manifest import Manifest
    from ingest.store.base import Store

__all__ = ["ChunkBytes", "Ranges", "StoredChunks", "join_ranges"]

Ranges = "Sequence[tuple[int, int]]"
"""(start, length) in bytes."""

_MOST_BYTES = 16 << 20
"""Of one request."""


class ChunkBytes(Protocol):
    """Chunk files, by their place in the manifest; called from several threads at once."""

    def read(self, at: int, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range.

        Raises
        ------
        CorruptError
            The file is missing or shorter than the dataset says; it is named.
        """
        ...

    def whole(self, at: int) -> bytes:
        """Return all bytes of a file."""
        ...

    def forget(self, at: int) -> None:
        """Ask the dataset itself next time: what was read of this file has proved damaged."""
        ...

    def close(self) -> None:
        """Let go of clients and threads."""
        ...


def join_ranges(ranges: Sequence[tuple[int, int]], *, max_gap_bytes: int) -> list[tuple[int, int, list[int]]]:
    """Join what lies closely together: start, length, and which of `ranges` are inside. Pure."""
    joined: list[tuple[int, int, list[int]]] = []
    for number, (start, length) in enumerate(ranges):
        if joined:
            first, span, members = joined[-1]
            end = max(first + span, start + length)
            if 0 <= start - (first + span) <= max_gap_bytes and end - first <= _MOST_BYTES:
                joined[-1] = (first, end - first, [*members, number])
                continue
        joined.append((start, length, [number]))
    return joined


class StoredChunks:
    """The files of a dataset where they are.

    Parameters
    ----------
    manifest, store
        The dataset.
    requests
        So many at a time, whoever asks; 0: each in the thread that asks, one after the other.
    max_gap_bytes
        Read what lies between two ranges when it is no more than this.
    """

    def __init__(self, manifest: Manifest, store: Store, *, requests: int, max_gap_bytes: int) -> None:
        self._manifest, self._store = manifest, store
        self._max_gap_bytes = max_gap_bytes
        self._pool = ThreadPoolExecutor(requests, "cell-ingest-read") if requests else None

    def read(self, at: int, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of each range; see `ChunkBytes`."""
        order = sorted(range(len(ranges)), key=lambda number: ranges[number][0])
        joined = join_ranges([ranges[number] for number in order], max_gap_bytes=self._max_gap_bytes)
        if self._pool is None:
            parts = [self._get(at, start, length) for start, length, _ in joined]
        else:
            asked: list[Future[bytes]] = [
                self._pool.submit(self._get, at, start, length) for start, length, _ in joined
            ]
            parts = [future.result() for future in asked]
        found: list[memoryview] = [memoryview(b"")] * len(ranges)
        for (start, _, members), part in zip(joined, parts, strict=True):
            view = memoryview(part)
            for member in members:
                number = order[member]
                first, length = ranges[number]
                found[number] = view[first - start : first - start + length]
        return found

    def whole(self, at: int) -> bytes:
        """Return all bytes of a file; see `ChunkBytes`."""
        key = self._manifest.keys[at]
        try:
            return self._store.get(key)
        except (NotFoundError, CorruptError) as error:
            raise self._explained(at, error) from error

    def forget(self, at: int) -> None:
        """Do nothing: it is asked each time."""

    def close(self) -> None:
        """Let go of clients and threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._store.close()

    def _get(self, at: int, start: int, length: int) -> bytes:
        try:
            return self._store.get_range(self._manifest.keys[at], start, length)
        except (NotFoundError, CorruptError) as error:
            raise self._explained(at, error) from error

    def _explained(self, at: int, error: IngestError | NotFoundError) -> CorruptError:
        url, key = self._manifest.url, self._manifest.keys[at]
        missing = isinstance(error, NotFoundError)
        return CorruptError(
            f"{url}/{key} is missing" if missing else f"{url}/{key} is damaged ({error})",
            kind="chunk-missing" if missing else "chunk-damaged",
            hint=f"`python -m ingest repair {url}` makes it again",
            chunk=self._manifest.numbers[at],
            key=key,
        )
