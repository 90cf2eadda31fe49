"""Bytes on their way out, without a copy."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_view", "pieces", "readable"]


class _ViewReader(io.RawIOBase):
    """A memoryview as a seekable file; ``io.BytesIO`` would copy anything but bytes."""

    def __init__(self, view: memoryview) -> None:
        super().__init__()
        self._view, self._at = view, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed says WriteableBuffer, whose len it hides
        piece = self._view[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def as_view(data: bytes | memoryview) -> memoryview:
    """Return the bytes of `data` as a flat, read-only view.

    Raises
    ------
    TypeError
        The memory is not contiguous.
    """
    return memoryview(data).cast("B").toreadonly()


def readable(view: memoryview) -> bytes | io.RawIOBase:
    """Return what botocore takes as a body: the bytes themselves where `view` is all of them, else a file."""
    whole = view.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else _ViewReader(view)


def pieces(view: memoryview, size_bytes: int) -> Iterator[memoryview]:
    """Yield `view` in consecutive pieces of `size_bytes`, the last shorter; none for nothing."""
    for start in range(0, len(view), size_bytes):
        yield view[start : start + size_bytes]
