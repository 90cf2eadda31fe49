"""Bytes on their way out, without a copy."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.bandwidth import Line
    from ingest.store.base import Store

__all__ = [
    "Body",
    "FileBody",
    "PacedReader",
    "as_view",
    "file_sha256",
    "holds",
    "object_sha256",
    "open_body",
    "pieces",
    "readable",
]

_PIECE_BYTES = 16 << 20
"""What is compared or hashed is held in such pieces."""
_TRIES = 2


class Body(Protocol):
    """Bytes that can be cut: a memoryview, or a file of which only the slice asked for is in memory."""

    def __len__(self) -> int:
        """Return the number of bytes."""
        ...

    def __getitem__(self, span: slice, /) -> memoryview:
        """Return the bytes of a slice without a step."""
        ...


class FileBody:
    """An open file as a body; it must not change meanwhile. Threads may share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> memoryview:
        start, stop, _ = span.indices(self._size)
        data, at = memoryview(bytearray(max(0, stop - start))), 0
        while at < len(data):
            count = os.preadv(self._descriptor, [data[at:]], start + at)
            if count == 0:
                raise OSError("the file became shorter while it was read")
            at += count
        return data.toreadonly()


@contextmanager
def open_body(path: Path) -> Iterator[FileBody]:
    """Open a local file as a body."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield FileBody(descriptor)
    finally:
        os.close(descriptor)


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


class PacedReader(_ViewReader):
    """A memoryview as a file that keeps to a line, once it is `on_its_way`: before that it may be read to be signed."""

    def __init__(self, view: memoryview, line: Line) -> None:
        super().__init__(view)
        self._line = line
        self._is_sent = False

    def on_its_way(self) -> None:
        """Take that what is read from now on goes to the network."""
        self._is_sent = True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as above
        """Read, and wait for the line where it goes there."""
        n_bytes = super().readinto(buffer)
        if self._is_sent:
            self._line.more(n_bytes)
        return n_bytes


def as_view(data: bytes | memoryview) -> memoryview:
    """Return the bytes of `data` as a flat, read-only view.

    Raises
    ------
    TypeError
        The memory is not contiguous.
    """
    return memoryview(data).cast("B").toreadonly()


def readable(view: memoryview, line: Line) -> bytes | io.RawIOBase:
    """Return what botocore takes as a body: the bytes themselves where `view` is all of them, else a file.

    Where the line has a limit it is a file that keeps to it.
    """
    if line.is_limited and len(view):
        return PacedReader(view, line)
    line.owe(len(view))
    whole = view.obj
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else _ViewReader(view)


def pieces(body: Body, size_bytes: int) -> Iterator[memoryview]:
    """Yield `body` in consecutive pieces of `size_bytes`, the last shorter; none for nothing."""
    for start in range(0, len(body), size_bytes):
        yield body[start : start + size_bytes]


def object_sha256(store: Store, key: str, size: int) -> str:
    """Return the sha256 of an object of `size` bytes as 64 hex digits, in memory that does not grow with it.

    Raises
    ------
    NotFoundError
        There is no such object.
    CorruptError
        It is shorter than `size`.
    """
    digest = hashlib.sha256()
    for start in range(0, size, _PIECE_BYTES):
        digest.update(store.get_range(key, start, min(_PIECE_BYTES, size - start)))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a local file as 64 hex digits, in memory that does not grow with it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(store: Store, key: str, body: Body) -> bool:
    """Say whether `key` is exactly the bytes of `body`, in memory that does not grow with them.

    A piece that differs is read again before the answer is no: ranges carry no checksum.

    Raises
    ------
    NotFoundError
        There is no such object.
    """
    if store.stat(key).size != len(body):
        return False
    return all(
        any(store.get_range(key, at * _PIECE_BYTES, len(piece)) == piece for _ in range(_TRIES))
        for at, piece in enumerate(pieces(body, _PIECE_BYTES))
    )
