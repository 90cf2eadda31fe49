"""The bytes that HDF5 reads from, with a look at each heap before HDF5 parses it.

HDF5 (2.0, tried) walks a global heap, where texts of variable length lie, by the sizes written in it: a size of zero,
or one that wraps around, and it walks in a circle for ever, in C, holding h5py's lock. It walks the free blocks of a
local heap, where a group's names lie, by the place of the next: where they lead back, it takes memory at each step
until there is none. So every heap that passes through here is walked first. Format: "Global Heap" and "Local Heap" in
the HDF5 file format specification. Trees that are none end the process: `ingest.fetch.h5ad_trees` looks at them.

h5py (3.16, tried) keeps a file object alive from C for as long as somebody has the property list it opened it with,
and so for as long as somebody has an exception from inside the opening, whose frames have the list. What is still
there when the interpreter has ended takes the process down: exit code 139. So files are opened here, and the list is
closed whatever comes.
"""

from __future__ import annotations

import io
import os
import re
import struct
from abc import abstractmethod
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from ingest.errors import HostileFileError, IngestError
from ingest.fetch.h5ad_trees import INDICES, Trees, fault_of_array, fault_of_tree_2

if TYPE_CHECKING:
    from pathlib import Path

    import h5py

__all__ = ["LONG_TEXTS", "LocalBytes", "MemoryBytes", "SourceBytes"]

LONG_TEXTS = "long-texts"
"""Kind of the error that there are longer texts than so many can be read at once."""
_MOST_TEXT_BYTES = 64 << 20

_HEAP = re.compile(rb"GCOL\x01\0\0\0")
_HEAP_SIZE = struct.Struct("<Q")
_HEAP_HEADER_BYTES = 16
_HEAP_OBJECT_BYTES = 16
"""Of an object's header: its number (2), reference count (2), reserved (4), size (8), all little-endian."""
_LEAST_HEAP_BYTES = 4096
_MOST_HEAP_BYTES = 256 << 20

_NAMES = re.compile(rb"HEAP\0\0\0\0")
_NAMES_HEADER = struct.Struct("<QQQ")
"""Of a local heap, after its signature: length of its data, place of the first free block in them, their address."""
_NAMES_HEADER_BYTES = 32
_FREE_BLOCK = struct.Struct("<QQ")
"""Place of the next, and size."""
_LAST_FREE = 1
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 26
"""Of it, as far as the widths, and the rank of trees where it has that."""
_USUAL_RANK = 32


class SourceBytes(io.RawIOBase):
    """A seekable, read-only file of one version. What went wrong stays in `failure`: HDF5 may report it otherwise.

    Subclasses say how to copy bytes; positions and sizes are in bytes.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.failure: IngestError | None = None
        self.bytes_read = 0
        self.longest_text = 0
        """Bytes of the longest in any heap of texts read so far."""
        self.texts_at_once = 1
        """How many HDF5 has been asked for: all of them may be the same long one."""
        self._position = 0
        self._sound_heaps: set[int] = set()
        self._first_byte: int | None = None
        self._trees: Trees | None = None
        self._sound_indices: set[int] = set()

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of the file."""

    @property
    @abstractmethod
    def version(self) -> str:
        """What pins the bytes read; never empty."""

    @abstractmethod
    def current_version(self) -> str:
        """Ask which version the address has now."""

    @abstractmethod
    def copy(self, position: int, view: memoryview) -> None:
        """Fill `view` from `position`; all of it lies within the file."""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can seek."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position; what lies past the end of the file reads as zeros."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.size - self._position))
        try:
            self.copy(self._position, view[:wanted])
            for heap in _HEAP.finditer(view[:wanted]):
                self._check_heap(self._position + heap.start())
            # HDF5 reads such a heap from its beginning. Elsewhere may be what is left of one that was removed, whose
            # blocks have long been others': a file that was edited has such, and is good.
            if _NAMES.match(view[:wanted]):
                self._check_names(self._position)
            if INDICES.match(view):
                self._check_index(self._position, view)
        except IngestError as error:
            self.failure = copy(error)  # without its frames, which have this file in their hands
            raise
        # HDF5 takes what it asked for as given: bytes past the end must not be whatever the buffer held.
        view[wanted:] = bytes(len(view) - wanted)
        self._position += wanted
        return wanted

    def as_hdf5(self, chunk_cache_bytes: int | None = None) -> h5py.File:
        """Open the file with HDF5, to read; h5py's own cache of decoded chunks has so many bytes, or as many as usual.

        Raises
        ------
        IngestError
            What reading it raised.
        Exception
            Whatever HDF5 and h5py raise about a file that is none.
        """
        import h5py
        from h5py import h5f, h5fd, h5p

        access = h5p.create(h5p.FILE_ACCESS)
        try:
            if chunk_cache_bytes is not None:
                metadata, slots, _, preemption = access.get_cache()
                access.set_cache(metadata, slots, chunk_cache_bytes, preemption)
            access.set_fileobj_driver(h5fd.fileobj_driver, self)
            return h5py.File(h5f.open(b"source", h5f.ACC_RDONLY, fapl=access))
        finally:
            access.close()

    def _check_heap(self, position: int) -> None:
        if position in self._sound_heaps or position + _HEAP_HEADER_BYTES > self.size:
            return
        self._base()  # all below takes sizes to be of 8 bytes
        (length,) = _HEAP_SIZE.unpack(self._peek(position + 8, 8))
        if not _LEAST_HEAP_BYTES <= length <= self.size - position:
            return  # HDF5 refuses such a heap by itself
        if length > _MOST_HEAP_BYTES:
            raise self._heap_error(f"texts at byte {position:,} is {length:,} bytes long", "decoded-size")
        longest = int(_longest(np.frombuffer(self._peek(position, length), np.uint8)))
        if longest < 0:
            raise self._heap_error(f"texts at byte {position:,} is damaged", "damaged-heap")
        self._sound_heaps.add(position)
        self.longest_text = max(self.longest_text, longest)
        if self.texts_at_once > 1 and self.texts_at_once * longest > _MOST_TEXT_BYTES:
            raise self._heap_error(f"texts at byte {position:,} has one of {longest:,} bytes", LONG_TEXTS)

    def _check_names(self, position: int) -> None:
        if position in self._sound_heaps or position + _NAMES_HEADER_BYTES > self.size:
            return
        base = self._base()
        length, free, address = _NAMES_HEADER.unpack(self._peek(position + 8, _NAMES_HEADER.size))
        # Where nothing is free there is nothing to walk; what lies outside, HDF5 refuses by itself.
        if free == _LAST_FREE or free >= length or base + address + length > self.size:
            return
        if length > _MOST_HEAP_BYTES:
            raise self._heap_error(f"names at byte {position:,} is {length:,} bytes long", "decoded-size")
        if not _free_blocks_end(self._peek(base + address, length), free):
            raise self._heap_error(f"names at byte {position:,} is damaged", "damaged-heap")
        self._sound_heaps.add(position)

    def _check_index(self, position: int, begin: memoryview) -> None:
        fault = self._index_fault(position - self._base(), begin)
        if fault is not None:
            name = self.url.rsplit("/", 1)[-1]
            message = f"{name}: the index at byte {position:,} {fault}"
            raise HostileFileError(message, kind="damaged-index", source=self.url)

    def _index_fault(self, address: int, begin: memoryview) -> str | None:
        """Return what is wrong with a tree or an array that begins so at an address of HDF5's, or None."""
        signature = bytes(begin[:4])
        if signature == b"TREE":
            if self._trees is None:
                self._trees = Trees(_rank(self._part(0, _SUPERBLOCK_BYTES)))
            return self._trees.fault(address, begin)
        if signature != b"BTHD":
            return fault_of_array(begin, self.size)
        if address in self._sound_indices:
            return None
        self._sound_indices.add(address)
        return fault_of_tree_2(begin, self._part, self.size)

    def _part(self, address: int, length: int) -> bytearray:
        """Return what lies at an address of HDF5's, as far as the file goes."""
        position = self._base() + address
        return self._peek(position, max(0, min(length, self.size - position)))

    def _base(self) -> int:
        """Return where HDF5 counts addresses from: its signature, which may follow a block of the user's."""
        if self._first_byte is None:
            at = 0
            while at + len(_SIGNATURE) <= self.size and self._peek(at, len(_SIGNATURE)) != _SIGNATURE:
                at = max(512, 2 * at)
            if at + _SUPERBLOCK_BYTES <= self.size and (widths := _widths(self._peek(at, _SUPERBLOCK_BYTES))) != (8, 8):
                name = self.url.rsplit("/", 1)[-1]
                message = f"{name}: addresses and sizes of {widths[0]} and {widths[1]} bytes, which nobody writes"
                raise HostileFileError(message, kind="unreadable", source=self.url)
            self._first_byte = at
        return self._first_byte

    def _peek(self, position: int, length: int) -> bytearray:
        data = bytearray(length)
        self.copy(position, memoryview(data))
        return data

    def _heap_error(self, what: str, kind: str) -> HostileFileError:
        name = self.url.rsplit("/", 1)[-1]
        return HostileFileError(f"{name}: the heap of {what}", kind=kind, source=self.url)


def _widths(superblock: bytearray) -> tuple[int, int]:
    """Return of how many bytes addresses and sizes are."""
    at = 13 if superblock[8] < 2 else 9
    return superblock[at], superblock[at + 1]


def _rank(superblock: bytearray) -> int:
    """Return half the entries of a tree's node of blocks: version 1 says it, to others it is what nobody changes."""
    return int.from_bytes(superblock[24:26], "little") if superblock[8] == 1 else _USUAL_RANK


def _free_blocks_end(data: bytearray, free: int) -> bool:
    """Tell whether the walk from block to block ends, or leaves `data`, where HDF5 stops by itself."""
    for _ in range(len(data) // _FREE_BLOCK.size + 1):  # no more have room
        if free == _LAST_FREE or free + _FREE_BLOCK.size > len(data):
            return True
        free, _size = _FREE_BLOCK.unpack_from(data, free)
    return False


# Compiled: every text of a gene table passes through here, some 70,000 in a file.
@njit("int64(u1[::1])", cache=True, nogil=True)
def _longest(heap):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # typed by its signature
    """Return the size of the largest object, -1 unless a walk by their sizes moves on at each step and stays inside."""
    at, end, longest = np.int64(_HEAP_HEADER_BYTES), len(heap), np.int64(0)
    while end - at >= _HEAP_OBJECT_BYTES:
        size = np.uint64(0)
        for byte in range(8):
            size |= np.uint64(heap[at + 8 + byte]) << np.uint64(8 * byte)
        if size > np.uint64(end):
            return -1
        # Number 0 is the free space: its size counts its own header.
        is_free = heap[at] == 0 and heap[at + 1] == 0
        length = np.int64(size)
        step = length if is_free else np.int64(_HEAP_OBJECT_BYTES) + (length + 7) // 8 * 8
        if not _HEAP_OBJECT_BYTES <= step <= end - at:
            return -1
        if not is_free:
            longest = max(longest, length)
        at += step
    return longest


class MemoryBytes(SourceBytes):
    """A file that is in memory whole, and stays as it is."""

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        super().__init__(name)
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        """Length of the file."""
        return len(self._data)

    @property
    def version(self) -> str:
        """There is this one."""
        return "in-memory"

    def current_version(self) -> str:
        """Return the version, which does not change."""
        return self.version

    def copy(self, position: int, view: memoryview) -> None:
        """Fill `view` from `position`."""
        view[:] = self._data[position : position + len(view)]
        self.bytes_read += len(view)


class LocalBytes(SourceBytes):
    """A file on a local or mounted disk, by positioned reads of one descriptor."""

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(url)
        self._path = path
        if not path.is_file() and path.exists():
            raise IsADirectoryError(f"{path} is no regular file")  # a pipe would block when opened
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # Of the descriptor, not of the path: the file may be replaced between the two.
        stat = os.fstat(self._descriptor)
        self._size, self._version = stat.st_size, version_of(stat)

    @property
    def size(self) -> int:
        """Length of the file."""
        return self._size

    @property
    def version(self) -> str:
        """Size and modification time in nanoseconds."""
        return self._version

    def current_version(self) -> str:
        """Return the version of what the path names now, or of the open file if that was written to since.

        Raises
        ------
        OSError
            There is nothing there any more.
        """
        own = version_of(os.fstat(self._descriptor))
        return own if own != self._version else version_of(self._path.stat())

    def copy(self, position: int, view: memoryview) -> None:
        """Fill `view` from `position`.

        Raises
        ------
        HostileFileError
            ``truncated``: the file has become shorter.
        OSError
            The disk.
        """
        while len(view):
            done = os.preadv(self._descriptor, [view], position)
            if done == 0:
                name = self.url.rsplit("/", 1)[-1]
                raise HostileFileError(f"{name}: the file is cut short", kind="truncated", source=self.url)
            self.bytes_read += done
            position, view = position + done, view[done:]

    def close(self) -> None:
        """Close the descriptor; twice does no harm."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def version_of(stat: os.stat_result) -> str:
    """Return what pins a local file."""
    return f"{stat.st_size}-{stat.st_mtime_ns}"
