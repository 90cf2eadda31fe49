"""Bytes of remote chunks kept on a local disk: read from the bucket once, from the disk in every epoch after.

A chunk has one sparse file, in which bytes stand at their own offsets, and a log beside it of the ranges that are
there, each with a checksum: what a power cut left half-written is not believed. Several processes may share a folder;
they write the same bytes to the same places.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ingest.load.manifest import Manifest
    from ingest.load.read.ranges import ChunkBytes

__all__ = ["DiskCachedChunks"]

_RECORD = np.dtype([("start", "<i8"), ("length", "<i8"), ("digest", "<u8")])
_SWEEP_BYTES = 1 << 28
"""Written between two looks at how large the folder is."""


class DiskCachedChunks:
    """Chunk files that are read from `inner` at first and from `folder` from then on.

    Ranges are found again as they were asked for: a loader asks for the same blocks in every epoch.

    Parameters
    ----------
    manifest, inner
        The dataset.
    folder
        Made when something is put there; a full disk only means that nothing is.
    max_bytes
        Of the folder: chunks not read for the longest time go first.
    """

    def __init__(self, manifest: Manifest, inner: ChunkBytes, folder: Path, *, max_bytes: int) -> None:
        self._manifest, self._inner, self._folder = manifest, inner, folder
        self._max_bytes = max_bytes
        self._known: dict[int, dict[tuple[int, int], int]] = {}
        self._lock = threading.Lock()
        self._since_sweep = _SWEEP_BYTES
        self.hits = self.misses = 0

    def read(self, at: int, ranges: Sequence[tuple[int, int]], *, lasting: bool = True) -> list[memoryview]:  # noqa: ARG002 # all do
        """Return the bytes of each range; see `ingest.load.read.ranges.ChunkBytes`."""
        found = self._held(at, ranges)
        missing = [number for number, part in enumerate(found) if part is None]
        with self._lock:
            self.hits += len(ranges) - len(missing)
            self.misses += len(missing)
        if missing:
            wanted = [ranges[number] for number in missing]
            fresh = self._inner.read(at, wanted)
            self._keep(at, wanted, fresh)
            for number, part in zip(missing, fresh, strict=True):
                found[number] = part
        return [part for part in found if part is not None]

    def whole(self, at: int) -> bytes:
        """Return all bytes of a file."""
        return self._inner.whole(at)

    def forget(self, at: int) -> None:
        """Remove what is kept of a file that has proved damaged: the repaired one may have the same name."""
        with self._lock:
            self._known.pop(at, None)
        with suppress(OSError):
            self._path(at).with_suffix(".log").unlink(missing_ok=True)
            self._path(at).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the inner files."""
        self._inner.close()

    def _path(self, at: int) -> Path:
        return self._folder / f"{self._manifest.sha256[at][:32]}.bytes"

    def _ranges(self, at: int) -> dict[tuple[int, int], int]:
        """Return what the log says is there; read once, and followed from then on by what this process adds."""
        known = self._known.get(at)
        if known is None:
            known = {}
            try:
                raw = self._path(at).with_suffix(".log").read_bytes()
                log = np.frombuffer(raw[: len(raw) // _RECORD.itemsize * _RECORD.itemsize], _RECORD)
                known = {(start, length): digest for start, length, digest in log.tolist()}
            except OSError:
                pass
            self._known[at] = known
        return known

    def _held(self, at: int, ranges: Sequence[tuple[int, int]]) -> list[memoryview | None]:
        with self._lock:
            known = dict(self._ranges(at))
        found: list[memoryview | None] = [None] * len(ranges)
        if not any(span in known for span in ranges):
            return found
        try:
            with self._path(at).open("rb") as file:
                for number, (start, length) in enumerate(ranges):
                    if (start, length) in known:
                        data = os.pread(file.fileno(), length, start)
                        if len(data) == length and xxhash.xxh3_64_intdigest(data) == known[start, length]:
                            found[number] = memoryview(data)
            os.utime(self._path(at))
        except OSError:  # somebody made room: ask the bucket
            with self._lock:
                self._known.pop(at, None)
        return found

    def _keep(self, at: int, ranges: Sequence[tuple[int, int]], parts: Sequence[memoryview]) -> None:
        path = self._path(at)
        digests = [xxhash.xxh3_64_intdigest(part) for part in parts]
        spans = zip(ranges, digests, strict=True)
        records = np.array([(start, length, digest) for (start, length), digest in spans], _RECORD)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                for (start, _), part in zip(ranges, parts, strict=True):
                    os.pwrite(descriptor, part, start)
            finally:
                os.close(descriptor)
            with path.with_suffix(".log").open("ab") as log:
                log.write(records.tobytes())
        except OSError:  # a full or read-only disk: slower, no reason to fail
            return
        with self._lock:
            known = self._ranges(at)
            known |= {(start, length): digest for start, length, digest in records.tolist()}
            self._since_sweep += sum(length for _, length in ranges)
            sweep = self._since_sweep >= _SWEEP_BYTES
            if sweep:
                self._since_sweep = 0
        if sweep:
            self._make_room()

    def _make_room(self) -> None:
        """Remove the chunks not read for the longest time while the folder is larger than it may be."""
        held = []
        for path in self._folder.glob("*.bytes"):
            try:
                stat = path.stat()
            except OSError:
                continue
            held.append((stat.st_mtime, stat.st_blocks * 512, path))
        total = sum(size for _, size, _ in held)
        for _, size, path in sorted(held):
            if total <= self._max_bytes:
                break
            path.with_suffix(".log").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            total -= size
            with self._lock:
                self._known.clear()
