"""Bytes of chunk files by range: the seam between a dataset's place and whoever inflates."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ingest.errors import CorruptError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.manifest import Manifest
    from ingest.store.base import Store

__all__ = ["ChunkBytes", "LocalChunks", "Ranges", "StoredChunks", "join_ranges"]

Ranges = "Sequence[tuple[int, int]]"
"""(start, length) in bytes."""

_MOST_BYTES = 16 << 20
"""Of one request."""


class ChunkBytes(Protocol):
    """Chunk files, by their place in the manifest; called from several threads at once."""

    def read(self, at: int, ranges: Sequence[tuple[int, int]], *, lasting: bool = True) -> list[memoryview]:
        """Return the bytes of each range.

        Parameters
        ----------
        lasting
            Unless set, this thread's next read may overwrite them.

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
    for number in sorted(range(len(ranges)), key=ranges.__getitem__):
        start, length = ranges[number]
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

    def read(self, at: int, ranges: Sequence[tuple[int, int]], *, lasting: bool = True) -> list[memoryview]:  # noqa: ARG002 # all do
        """Return the bytes of each range; see `ChunkBytes`."""
        joined = join_ranges(ranges, max_gap_bytes=self._max_gap_bytes)
        if self._pool is None:
            parts = [self._get(at, start, length) for start, length, _ in joined]
        else:
            asked: list[Future[bytes]] = [
                self._pool.submit(self._get, at, start, length) for start, length, _ in joined
            ]
            parts = [future.result() for future in asked]
        return _cut_out(ranges, joined, [memoryview(part) for part in parts])

    def whole(self, at: int) -> bytes:
        """Return all bytes of a file; see `ChunkBytes`."""
        key = self._manifest.keys[at]
        try:
            return self._store.get(key)
        except (NotFoundError, CorruptError) as error:
            raise _explained(self._manifest, at, error) from error

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
            raise _explained(self._manifest, at, error) from error


class LocalChunks:
    """The files of a dataset in a folder, read into memory that each thread uses again.

    Parameters
    ----------
    manifest, root
        The dataset, and its folder.
    max_gap_bytes
        Read what lies between two ranges when it is no more than this.
    """

    def __init__(self, manifest: Manifest, root: Path, *, max_gap_bytes: int) -> None:
        self._manifest = manifest
        self._paths = [str(root / key) for key in manifest.keys]
        self._max_gap_bytes = max_gap_bytes
        self._mine = threading.local()

    def read(self, at: int, ranges: Sequence[tuple[int, int]], *, lasting: bool = True) -> list[memoryview]:
        """Return the bytes of each range; see `ChunkBytes`."""
        joined = join_ranges(ranges, max_gap_bytes=self._max_gap_bytes)
        parts: list[memoryview] = []
        try:
            descriptor = os.open(self._paths[at], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                # No room is made for what the file cannot fill, whatever a table says of it.
                self._check_end(at, descriptor, max((offset + length for offset, length, _ in joined), default=0))
                room, start = self._room(sum(length for _, length, _ in joined), lasting=lasting), 0
                for offset, length, _ in joined:
                    part = room[start : start + length]
                    self._fill(at, descriptor, offset, part)
                    parts.append(part)
                    start += length
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _explained(self._manifest, at, error) from error
        return _cut_out(ranges, joined, parts)

    def whole(self, at: int) -> bytes:
        """Return all bytes of a file; see `ChunkBytes`."""
        try:
            return Path(self._paths[at]).read_bytes()
        except OSError as error:
            raise _explained(self._manifest, at, error) from error

    def forget(self, at: int) -> None:
        """Do nothing: the file is read each time."""

    def close(self) -> None:
        """Nothing is open between two reads."""

    def _room(self, size: int, *, lasting: bool) -> memoryview:
        if lasting:
            return memoryview(bytearray(size))
        room: bytearray | None = getattr(self._mine, "room", None)
        if room is None or len(room) < size:
            room = self._mine.room = bytearray(size + size // 4)
        return memoryview(room)[:size]

    def _check_end(self, at: int, descriptor: int, end: int) -> None:
        size = os.fstat(descriptor).st_size
        if end > size:
            raise _explained(self._manifest, at, OSError(f"it ends {end - size} bytes early"))

    def _fill(self, at: int, descriptor: int, offset: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            n = os.preadv(descriptor, [into[done:]], offset + done)
            if not n:
                short = OSError(f"it ends {len(into) - done} bytes early")
                raise _explained(self._manifest, at, short)
            done += n


def _cut_out(
    ranges: Sequence[tuple[int, int]], joined: Sequence[tuple[int, int, list[int]]], parts: Sequence[memoryview]
) -> list[memoryview]:
    found: list[memoryview] = [memoryview(b"")] * len(ranges)
    for (start, _, members), part in zip(joined, parts, strict=True):
        for number in members:
            first, length = ranges[number]
            found[number] = part[first - start : first - start + length]
    return found


def _explained(manifest: Manifest, at: int, error: Exception) -> CorruptError:
    url, key = manifest.url, manifest.keys[at]
    missing = isinstance(error, (NotFoundError, FileNotFoundError))
    return CorruptError(
        f"{url}/{key} is missing" if missing else f"{url}/{key} is damaged ({error})",
        kind="chunk-missing" if missing else "chunk-damaged",
        hint=f"`python -m ingest repair {url}` makes it again",
        chunk=manifest.numbers[at],
        key=key,
    )
