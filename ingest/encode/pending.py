"""Blocks of one file in order, the last of them perhaps still being compressed."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

from ingest.encode.block_store import BlockStore

__all__ = ["PendingBlocks"]


class PendingBlocks:
    """Take blocks that are or will be made; wait for the oldest when too many are not yet.

    Parameters
    ----------
    in_flight
        Blocks that may be under way.
    """

    def __init__(self, in_flight: int) -> None:
        self._in_flight = in_flight
        self._under_way: deque[bytes | Future[bytes]] = deque()
        self._stored = BlockStore()

    def __len__(self) -> int:
        return len(self._stored) + len(self._under_way)

    @property
    def n_under_way(self) -> int:
        """Blocks that may not be made yet."""
        return len(self._under_way)

    @property
    def nbytes(self) -> int:
        """Bytes of those that are made."""
        return self._stored.nbytes

    def append(self, block: bytes | Future[bytes]) -> None:
        """Take the next block."""
        self._under_way.append(block)
        self._settle(self._in_flight)

    def settled(self) -> BlockStore:
        """Return all blocks, once the last is made."""
        self._settle(0)
        return self._stored

    def _settle(self, in_flight: int) -> None:
        while len(self._under_way) > in_flight:
            block = self._under_way.popleft()
            self._stored.append(block.result() if isinstance(block, Future) else block)
