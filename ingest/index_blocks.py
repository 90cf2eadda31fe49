"""Digests of the plan's index, block by block: by them a part that was read by range is known to be what was written.

Ranges carry no checksum, Arrow's files have none, and another value in an annotation is a value like any other.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import CorruptError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BlockHasher", "IndexBlocks", "parse_blocks"]

_BLOCK_BYTES = 1 << 16
"""What is read around a range, too, is at most two of these; 162 M cells have 600 kB of digests."""
_DIGEST_BYTES = 8
_HEADER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class IndexBlocks:
    """What each block of a file holds."""

    size: int
    """Bytes of the file; all blocks but the last are `_BLOCK_BYTES` long."""
    digests: bytes
    """BLAKE2b of each block, `_DIGEST_BYTES` a block."""

    def around(self, start: int, stop: int) -> tuple[int, int]:
        """Return the bytes of the whole blocks that hold the bytes ``[start, stop)``."""
        return start // _BLOCK_BYTES * _BLOCK_BYTES, min(-(-stop // _BLOCK_BYTES) * _BLOCK_BYTES, self.size)

    def are(self, start: int, data: bytes) -> bool:
        """Say whether `data` is what the whole blocks from byte `start` on hold."""
        view, first = memoryview(data), start // _BLOCK_BYTES * _DIGEST_BYTES
        found = b"".join(_digest(view[at : at + _BLOCK_BYTES]) for at in range(0, len(view), _BLOCK_BYTES))
        return self.digests[first : first + len(found)] == found

    def to_bytes(self) -> bytes:
        """Return the size, little-endian in 8 bytes, and the digests."""
        return _HEADER.pack(self.size) + self.digests


def parse_blocks(data: bytes, *, key: str) -> IndexBlocks:
    """Read what `IndexBlocks.to_bytes` gave.

    Raises
    ------
    CorruptError
        It does not have as many digests as its file has blocks.
    """
    size = _HEADER.unpack_from(data)[0] if len(data) >= _HEADER.size else -1
    if len(data) - _HEADER.size != -(-size // _BLOCK_BYTES) * _DIGEST_BYTES:
        raise CorruptError(f"{key} has no digests of the blocks of an index", kind="plan-damaged", key=key)
    return IndexBlocks(size, data[_HEADER.size :])


class BlockHasher:
    """Takes a file as it is written, in pieces of any length."""

    def __init__(self) -> None:
        self._size = 0
        self._begun = bytearray()
        self._digests: list[bytes] = []

    def add(self, data: Buffer) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        if self._begun:
            rest = _BLOCK_BYTES - len(self._begun)
            self._begun += view[:rest]
            view = view[rest:]
            if len(self._begun) < _BLOCK_BYTES:
                return
            self._digests.append(_digest(self._begun))
            self._begun = bytearray()
        whole = len(view) // _BLOCK_BYTES * _BLOCK_BYTES
        self._digests += [_digest(view[at : at + _BLOCK_BYTES]) for at in range(0, whole, _BLOCK_BYTES)]
        self._begun += view[whole:]

    def finish(self) -> IndexBlocks:
        """Return the digests of all that came."""
        last = [_digest(self._begun)] if self._begun else []
        return IndexBlocks(self._size, b"".join([*self._digests, *last]))


def _digest(block: Buffer) -> bytes:
    return hashlib.blake2b(block, digest_size=_DIGEST_BYTES).digest()
