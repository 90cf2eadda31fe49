"""Arrow files in a store, read by byte range."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa

from ingest.arrow_names import check_names
from ingest.errors import CorruptError
from ingest.unpacked import UnpackLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from ingest.index_blocks import IndexBlocks
    from ingest.store.base import Store

__all__ = ["READ_AHEAD_BYTES", "RangeFile", "anybodys_batches", "open_arrow"]

_TRIES = 2
"""Readings of a range before its blocks count as damaged: a transfer may be at fault, once."""
READ_AHEAD_BYTES = 16 << 20
"""What is fetched at once by whoever reads a whole file."""


class RangeFile(io.RawIOBase):
    """A seekable file over ranges of one object, for Arrow; its slices are bytes, too.

    Whoever reads on from the beginning has `ahead_bytes` fetched at once. With `blocks`, whole ones are fetched, and
    what is not as they say is never delivered.
    """

    def __init__(self, store: Store, key: str, ahead_bytes: int, blocks: IndexBlocks | None = None) -> None:
        super().__init__()
        self._store, self._key, self._ahead, self._blocks = store, key, ahead_bytes, blocks
        self._size = store.stat(key).size if blocks is None else blocks.size
        self._at = 0
        self._held_from, self._held = 0, b""

    def __len__(self) -> int:
        """Return the length of the object."""
        return self._size

    def __getitem__(self, part: slice) -> memoryview:
        """Return the bytes of a slice, wherever the position is."""
        start, stop, _ = part.indices(self._size)
        return memoryview(self._range(start, max(0, stop - start)))

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can seek."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which may lie past the end, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        """Fill `buffer` from the position, as far as the object goes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes from the position, or what there is; all of it where `size` is less than 0."""
        wanted = self._size - self._at if size < 0 else size
        data = self._range(self._at, max(0, min(wanted, self._size - self._at)))
        self._at += len(data)
        return data

    def _range(self, start: int, length: int) -> bytes:
        if not length:
            return b""
        if self._held_from <= start and start + length <= self._held_from + len(self._held):
            return self._held[start - self._held_from : start - self._held_from + length]
        if self._blocks is None and length >= self._ahead:
            return self._store.get_range(self._key, start, length)
        stop = min(start + max(length, self._ahead), self._size)
        self._held_from, self._held = start, b""  # what was held goes before as much again comes
        self._held_from, self._held = self._fetched(start, stop)
        return self._held[start - self._held_from : start - self._held_from + length]

    def _fetched(self, start: int, stop: int) -> tuple[int, bytes]:
        """Return the bytes ``[start, stop)``, or whole blocks around them, and where these begin."""
        if self._blocks is None:
            return start, self._store.get_range(self._key, start, stop - start)
        start, stop = self._blocks.around(start, stop)
        for _ in range(_TRIES):
            data = self._store.get_range(self._key, start, stop - start)
            if len(data) == stop - start and self._blocks.are(start, data):
                return start, data
        raise CorruptError(
            f"{self._store.url}/{self._key} is not what plan.json names in bytes {start:,} to {stop:,};"
            " no chunk can be made from it",
            kind="plan-damaged",
            hint="chunks that verify finds good stay good; ingest the others into another destination",
            key=self._key,
        )


def open_arrow(
    store: Store,
    key: str,
    ahead_bytes: int = 0,
    wanted: Sequence[int] = (),
    blocks: IndexBlocks | None = None,
) -> pa.ipc.RecordBatchFileReader:
    """Open an Arrow file in a store.

    Parameters
    ----------
    ahead_bytes
        Fetch as much at once, `READ_AHEAD_BYTES` for reading on from the beginning; 0 fetches what is asked for.
    wanted
        Decode these columns only; none stands for all.
    blocks
        Digests that what is read must have.

    Raises
    ------
    NotFoundError
        There is no such object.
    CorruptError
        It does not have the digests.
    pyarrow.ArrowException, OSError
        It is no Arrow file.
    """
    options = pa.ipc.IpcReadOptions(included_fields=list(wanted))
    return pa.ipc.open_file(pa.PythonFile(RangeFile(store, key, ahead_bytes, blocks), mode="r"), options=options)


def anybodys_batches(store: Store, key: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file that anybody may have written, in order.

    Raises
    ------
    NotFoundError
        There is no such object.
    ingest.unpacked.UnpackedTooLargeError
        A part of it would take more memory than may be taken at once.
    pyarrow.ArrowException, OSError, ValueError
        It is no Arrow file, or damaged.
    """
    file = RangeFile(store, key, READ_AHEAD_BYTES)
    limit = UnpackLimit(file)
    reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"))
    check_names(reader.schema)
    for at in range(reader.num_record_batches):
        limit.check_batch(at)
        batch = reader.get_batch(at)
        batch.validate(full=True)
        yield batch
