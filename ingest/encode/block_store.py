"""Compressed blocks, kept so that their memory can be given back block by block while the file grows."""

from __future__ import annotations

import mmap
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BlockStore"]

_SHELF_BYTES = 16 << 20


class BlockStore:
    """Blocks in the order they came.

    What malloc gave for thousands of blocks it does not return to the system when they go: copying them into a file
    would then take their bytes twice. So they are moved to memory of its own, some megabytes at a time.
    """

    def __init__(self) -> None:
        self._shelves: list[tuple[mmap.mmap, list[int]]] = []
        self._loose: list[bytes] = []
        self._loose_bytes = 0
        self._shelved_bytes = 0
        self._n_shelved = 0

    def __len__(self) -> int:
        return self._n_shelved + len(self._loose)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self._shelved_bytes + self._loose_bytes

    def append(self, block: bytes) -> None:
        """Keep a block."""
        self._loose.append(block)
        self._loose_bytes += len(block)
        if self._loose_bytes >= _SHELF_BYTES:
            self._shelve()

    def _shelve(self) -> None:
        shelf = mmap.mmap(-1, self._loose_bytes)
        for block in self._loose:
            shelf.write(block)
        self._shelves.append((shelf, [0, *accumulate(map(len, self._loose))]))
        self._shelved_bytes += self._loose_bytes
        self._n_shelved += len(self._loose)
        self._loose, self._loose_bytes = [], 0

    def __iter__(self) -> Iterator[bytes]:
        for shelf, ends in self._shelves:
            yield from _blocks_of(shelf, ends)
        yield from self._loose

    def drain(self) -> Iterator[bytes]:
        """Yield all blocks, giving back their memory on the way; the store is empty then."""
        self._shelves.reverse()
        while self._shelves:
            shelf, ends = self._shelves.pop()
            yield from _blocks_of(shelf, ends)
            shelf.close()
        while self._loose:
            yield self._loose.pop(0)
        self._loose_bytes = self._shelved_bytes = self._n_shelved = 0


def _blocks_of(shelf: mmap.mmap, ends: list[int]) -> Iterator[bytes]:
    for start, stop in pairwise(ends):
        yield shelf[start:stop]
