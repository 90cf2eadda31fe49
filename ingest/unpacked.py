"""How much memory an Arrow file takes when it is unpacked: looked up in what it declares, before a byte is unpacked.

Arrow allocates what a compressed buffer says that it will become, so some megabytes can ask for all memory there is.
Where the numbers stand: Arrow's columnar format, "IPC File Format", with Message.fbs and File.fbs; how tables are laid
out: FlatBuffers' "Internals". https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LIMIT_BYTES", "SMALLER_BATCHES", "Parts", "UnpackLimit", "UnpackedTooLargeError"]

LIMIT_BYTES = 2 << 30
"""What may be unpacked at once, two hundred times what a batch of 64 Ki cells usually takes."""

SMALLER_BATCHES = "write it again in smaller batches: pyarrow.feather.write_feather(table, FILE, chunksize=65536)"
"""What whoever has such a file can do."""

_MAGIC = b"ARROW1"
_OLD_WAY = b"ARROW:experimental_compression"
"""How Arrow 0.17 said in a message's metadata that buffers are compressed, which readers still take."""

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # of the union MessageHeader
_BLOCK = np.dtype([("offset", "<i8"), ("metadata", "<i4"), ("padding", "<i4"), ("body", "<i8")])
_BUFFER = np.dtype([("offset", "<i8"), ("length", "<i8")])


class Parts(Protocol):
    """Bytes of which parts are taken: a memoryview, or a file that fetches them."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, part: slice, /) -> memoryview:
        """Return those of a slice."""


class UnpackedTooLargeError(pa.ArrowInvalid):  # type: ignore[misc]  # pyarrow brings no types
    """A part of a file would take more memory than may be taken at once."""


class UnpackLimit:
    """What an Arrow file may unpack at once: looked at before each of its batches is read.

    Parameters
    ----------
    data
        The file's bytes, mapped, fetched or in memory; of what is compressed only the lengths are looked at.
    limit_bytes
        How much its dictionaries may take together, and how much one of its batches.

    Raises
    ------
    UnpackedTooLargeError
        The dictionaries take more.
    pyarrow.ArrowInvalid
        It is no Arrow file, or its parts do not lie where it says.
    """

    def __init__(self, data: Parts, limit_bytes: int = LIMIT_BYTES) -> None:
        self._data, self._limit_bytes = data, limit_bytes
        with _sound():
            dictionaries, self._batches = _blocks(data)
            self._held_bytes = sum(_unpacked_bytes(data, block) for block in dictionaries)
        self._check(self._held_bytes, "its dictionaries take")

    def check_batch(self, at: int) -> None:
        """Refuse a record batch that takes more than may be.

        Raises
        ------
        UnpackedTooLargeError, pyarrow.ArrowInvalid
            As above.
        """
        self._check(self._batch_bytes(at), f"its record batch {at:,} takes")

    def check_whole(self) -> None:
        """Refuse a file of which dictionaries and batches together take more than may be.

        Raises
        ------
        UnpackedTooLargeError, pyarrow.ArrowInvalid
            As above.
        """
        self._check(self._held_bytes + sum(map(self._batch_bytes, range(len(self._batches)))), "it takes")

    def count_rows(self) -> int:
        """Return how many rows all record batches say that they have.

        Raises
        ------
        pyarrow.ArrowInvalid
            As above.
        """
        with _sound():
            return sum(_n_rows(self._data, block) for block in self._batches)

    def _batch_bytes(self, at: int) -> int:
        with _sound():
            return _unpacked_bytes(self._data, self._batches[at])

    def _check(self, n_bytes: int, what: str) -> None:
        if n_bytes > self._limit_bytes:
            raise UnpackedTooLargeError(
                f"{what} {n_bytes / 1e9:,.1f} GB unpacked, where {self._limit_bytes / 1e9:,.1f} GB may be at once"
            )


@contextlib.contextmanager
def _sound() -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid:
        raise
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise pa.ArrowInvalid(f"parts of it do not lie where it says ({error})") from error


class _Block(NamedTuple):
    """Where a message lies: its description, then its buffers."""

    metadata: int
    body: int


def _blocks(data: Parts) -> tuple[list[_Block], list[_Block]]:
    """Return the dictionaries and the record batches that the footer names."""
    if bytes(data[: len(_MAGIC)]) != _MAGIC or bytes(data[-len(_MAGIC) :]) != _MAGIC:
        raise pa.ArrowInvalid("it does not begin and end as an Arrow file")
    end = len(data) - len(_MAGIC) - 4
    [length] = struct.unpack_from("<i", data[end : end + 4])
    if not 0 < length <= end:
        raise pa.ArrowInvalid(f"its footer is said to have {length:,} bytes")
    footer = _Table.at_start(data[end - length : end])
    return tuple(  # type: ignore[return-value]  # of two
        [
            _Block(int(block["offset"]), int(block["offset"]) + int(block["metadata"]))
            for block in footer.structs(slot, _BLOCK)
        ]
        for slot in (2, 3)
    )


def _unpacked_bytes(data: Parts, block: _Block) -> int:
    """Return what the buffers of a message become; of one that is not compressed 0, for it is used in place."""
    batch = _record_batch(data, block)
    if batch is None or (batch.table(3) is None and _OLD_WAY not in bytes(data[block.metadata : block.body])):
        return 0
    return sum(_declared(data, block.body, batch.structs(2, _BUFFER)))


def _n_rows(data: Parts, block: _Block) -> int:
    batch = _record_batch(data, block)
    return 0 if batch is None else batch.int64(0)


def _record_batch(data: Parts, block: _Block) -> _Table | None:
    """Return the description of a record batch, or of the one in which a dictionary lies; None of other messages."""
    if not 0 <= block.metadata < block.body <= len(data):
        raise pa.ArrowInvalid("a part of it lies outside of it")
    described = data[block.metadata : block.body]
    [continuation] = struct.unpack_from("<I", described)
    message = _Table.at_start(described[8 if continuation == 0xFFFFFFFF else 4 :])
    kind, header = message.byte(1), message.table(2)
    if header is not None and kind == _DICTIONARY_BATCH:
        return header.table(1)
    return header if kind == _RECORD_BATCH else None


def _declared(data: Parts, body: int, buffers: np.ndarray[tuple[int], np.dtype[np.void]]) -> Iterator[int]:
    """Yield for every compressed buffer how long it says that it becomes."""
    for offset in buffers["offset"][buffers["length"] >= 8].tolist():
        if offset < 0:
            raise pa.ArrowInvalid("a buffer lies outside of it")
        [length] = struct.unpack_from("<q", data[body + offset : body + offset + 8])
        yield max(0, length)  # -1 says that this one is stored as it is


class _Table:
    """A table of FlatBuffers: a signed offset back to its vtable, which says where each field lies, 0 for none."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data, self._at = data, at
        [back] = struct.unpack_from("<i", data, at)
        self._vtable = _inside(at - back)
        [self._vtable_bytes] = struct.unpack_from("<H", data, self._vtable)

    @classmethod
    def at_start(cls, data: memoryview) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, slot: int) -> int | None:
        place = 4 + 2 * slot
        if place + 2 > self._vtable_bytes:
            return None
        [offset] = struct.unpack_from("<H", self._data, self._vtable + place)
        return self._at + offset if offset else None

    def byte(self, slot: int) -> int:
        at = self._field(slot)
        return 0 if at is None else self._data[at]

    def int64(self, slot: int) -> int:
        at = self._field(slot)
        return 0 if at is None else int(struct.unpack_from("<q", self._data, at)[0])

    def table(self, slot: int) -> _Table | None:
        at = self._field(slot)
        return None if at is None else _Table(self._data, at + struct.unpack_from("<I", self._data, at)[0])

    def structs(self, slot: int, dtype: np.dtype[np.void]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        at = self._field(slot)
        if at is None:
            return np.empty(0, dtype)
        at += struct.unpack_from("<I", self._data, at)[0]
        [count] = struct.unpack_from("<I", self._data, at)
        return np.frombuffer(self._data, dtype, count, at + 4)


def _inside(at: int) -> int:
    if at < 0:
        raise pa.ArrowInvalid("a table lies outside of it")
    return at
