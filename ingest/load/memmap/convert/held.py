"""Whole chunks of a dataset in memory, each proven by its sha256 before anything of it is decoded."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from ingest.ahead import Ahead
from ingest.chunk_check import read_object
from ingest.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ingest.load.manifest import Manifest
    from ingest.store.base import Store

__all__ = ["HeldChunks"]


class HeldChunks:
    """The one chunk that is decoded at the time; see `ingest.load.read.ranges.ChunkBytes`.

    A codec's own checksum is not enough: lz4 and ``none`` have none, and no checksum tells a chunk from another that
    was put in its place.

    Parameters
    ----------
    manifest, store
        The dataset.
    """

    def __init__(self, manifest: Manifest, store: Store) -> None:
        self._manifest, self._store = manifest, store
        self._at, self._data = -1, b""

    def each(self, chunks: Sequence[int]) -> Iterator[int]:
        """Hold some chunks, by their places in the manifest, one after the other, the next one fetched meanwhile.

        Raises
        ------
        CorruptError
            A chunk is missing or damaged; it is named.
        """
        with closing(Ahead(self._fetched(chunks))) as fetched:
            for at, data in fetched:
                self._at, self._data = at, data
                yield at
        self._at, self._data = -1, b""

    def _fetched(self, chunks: Sequence[int]) -> Generator[tuple[int, bytes], None, None]:
        for at in chunks:
            manifest = self._manifest
            data = read_object(self._store, manifest.keys[at], manifest.sha256[at], chunk=manifest.numbers[at])
            yield at, data

    def read(self, at: int, ranges: Sequence[tuple[int, int]], *, lasting: bool = True) -> list[memoryview]:  # noqa: ARG002 # all do
        """Return the bytes of each range of the chunk that is held."""
        data = memoryview(self.whole(at))
        if any(start < 0 or start + length > len(data) for start, length in ranges):
            key = self._manifest.keys[at]
            raise CorruptError(f"{self._manifest.url}/{key} is shorter than the dataset says", kind="chunk-damaged")
        return [data[start : start + length] for start, length in ranges]

    def whole(self, at: int) -> bytes:
        """Return the bytes of the chunk that is held."""
        if at != self._at:
            raise RuntimeError(f"chunk {at} is read while {self._at} is held")
        return self._data

    def forget(self, at: int) -> None:
        """Do nothing: what is held has the right sha256."""

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()
