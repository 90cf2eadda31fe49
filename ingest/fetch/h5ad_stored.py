"""Read an array of an h5ad file below HDF5: its blocks' bytes by position, inflated in whatever thread asks.

HDF5 inflates one block at a time, by zlib, holding h5py's lock. Of a local file it is asked once where the blocks lie.
What it stores otherwise than plainly, shuffled, deflated or by LZF, in a type that is not this machine's, in many tiny
blocks or over a network, is read through it, one slice at a time.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import deflate
import h5py
import numpy as np
from isal import isal_zlib

from ingest.fetch.h5ad_lzf import undo_lzf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Lock

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["Stored", "StoredArray", "StoredBlocks", "Stretch"]

Array = np.ndarray[Any, Any]

_RUN_BYTES = 512 << 10
"""Decoded bytes of blocks that are read together."""
_SLICE_BYTES = 4 << 20
_LEAST_BLOCK_BYTES = 4 << 10
"""HDF5 reads smaller blocks faster than Python asks for them."""
_MOST_SWOLLEN, _SWOLLEN_BYTES = 2, 4 << 10
"""A block takes at most so many times what it becomes, and so many bytes: each of a thousand may be the whole file."""
_CODECS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF)
_PIPELINES: dict[tuple[int, ...], tuple[int | None, int | None]] = {
    (): (None, None),
    **{(codec,): (None, 0) for codec in _CODECS},
    **{(h5py.h5z.FILTER_SHUFFLE, codec): (0, 1) for codec in _CODECS},
}
"""Pipelines that are undone here: places of shuffle and of a codec in them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Elements ``[start, stop)`` of an array, which are read together."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Some elements as a block holds them."""

    numbers: Array
    """``(n,)`` of the array's type; or, shuffled, uint8 ``(width, n)``: all first bytes, then all second bytes, …"""
    begin: int
    """Of those the first that is wanted."""
    end: int
    at: int
    """Element of the array that the first wanted one is."""


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """Where the blocks of an array lie; of one of several dimensions in the order of rows."""

    elements: int
    """Of each."""
    edge: int
    """Of the last: as many in a chunk, whatever of them the array has."""
    offsets: Array
    """int64 ``(n_blocks,)``: bytes from the file's beginning; -1 of one that was never written."""
    sizes: Array
    masks: Array
    """One bit for each filter that was left out."""
    shuffle: int | None
    """Place of the filter in the pipeline."""
    codec: int | None
    is_lzf: bool


class StoredBlocks:
    """The blocks of one array of an open file; those below HDF5 may be read in several threads at once.

    Parameters
    ----------
    opened
        The file; used by this array, where HDF5 must read, under `lock`.
    path
        Of the array: numbers.
    lock
        One for all arrays of the file.

    Raises
    ------
    HostileFileError
        It is missing, or cannot be read.
    """

    def __init__(self, opened: OpenH5ad, path: str, lock: Lock) -> None:
        self.path = path
        self._opened, self._lock = opened, lock
        self._dataset = opened.dataset(path)
        stored = self._dataset.dtype
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if stored == np.bool_ else stored.newbyteorder("=")
        with opened.reading(path):
            self._blocks = _find_blocks(opened, self._dataset)

    def _packed(self, blocks: _Blocks, first: int, last: int) -> list[memoryview | None]:
        """Return the stored bytes of some blocks, None of those never written; neighbours are read at once."""
        offsets, sizes = blocks.offsets[first:last].tolist(), blocks.sizes[first:last].tolist()
        if min(offsets) >= 0 and all(a + n == b for a, n, b in zip(offsets, sizes, offsets[1:], strict=False)):
            whole = self._bytes(offsets[0], sum(sizes))
            cuts = [offset - offsets[0] for offset in offsets]
            return [whole[cut : cut + size] for cut, size in zip(cuts, sizes, strict=True)]
        return [self._bytes(offset, size) if offset >= 0 else None for offset, size in zip(offsets, sizes, strict=True)]

    def _bytes(self, offset: int, size: int) -> memoryview:
        if offset + size > self._opened.size_bytes:
            raise self._opened.error(self.path, f"{size:,} bytes at {offset:,} lie beyond the file's end", "truncated")
        view = np.empty(size, np.uint8).data
        self._opened.copy(offset, view)
        return view

    def _decoded(self, blocks: _Blocks, block: int, packed: memoryview, *, is_full: bool) -> Array | None:
        """Undo the filters of a block but for shuffle; None where HDF5 is to do it.

        Parameters
        ----------
        is_full
            Whether the array has all elements of the block.
        """
        mask, width = int(blocks.masks[block]), self.dtype.itemsize
        size = (blocks.edge if block == len(blocks.offsets) - 1 else blocks.elements) * width
        shuffled = blocks.shuffle is not None and not mask >> blocks.shuffle & 1 and width > 1
        raw: Any = packed
        if blocks.codec is not None and not mask >> blocks.codec & 1:
            raw = undo_lzf(packed, size) if blocks.is_lzf else _inflate(packed, size, shuffled=shuffled)
            if raw is None and not is_full and len(packed) == size:
                return None  # HDF5 can be told to leave a block that is not full as it is, and knows whether it was
        if raw is None or len(raw) != size:
            raise self._opened.error(self.path, f"block {block:,} of {len(blocks.offsets):,} is damaged", "unreadable")
        flat = np.frombuffer(raw, np.uint8 if shuffled else self.dtype)
        numbers = flat.reshape(width, -1) if shuffled else flat
        numbers.flags.writeable = False  # numba compiles for read-only and writable arrays apart
        return numbers


class StoredArray(StoredBlocks):
    """One array of one dimension of an open file; parameters and errors as of `StoredBlocks`."""

    def __init__(self, opened: OpenH5ad, path: str, lock: Lock) -> None:
        super().__init__(opened, path, lock)
        self.block_bytes = self._block_elements() * self.dtype.itemsize
        """Decoded bytes of what is decoded together."""

    def __len__(self) -> int:
        return int(self._dataset.shape[0])

    def stretches(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield ``[start, stop)`` in order, cut where blocks end, some blocks together."""
        own = self._block_elements()
        together = _RUN_BYTES if self._blocks is not None else _SLICE_BYTES
        step = max(together // self.dtype.itemsize // own, 1) * own
        while start < stop:
            end = min(start // step * step + step, stop)
            yield Stretch(start, end)
            start = end

    def read(self, stretch: Stretch) -> Iterator[Stored]:
        """Yield the elements of a stretch, in order, block by block.

        Raises
        ------
        HostileFileError
            Bytes are damaged or missing.
        SourceError, TransientError
            The file cannot be read.
        """
        blocks = self._blocks
        if blocks is None:
            yield self._sliced(stretch.start, stretch.stop)
            return
        elements = blocks.elements
        first, last = stretch.start // elements, (stretch.stop - 1) // elements + 1
        packed = self._packed(blocks, first, last)
        for block, view in zip(range(first, last), packed, strict=True):
            base = block * elements
            start, stop = max(stretch.start, base), min(stretch.stop, base + elements)
            is_full = base + elements <= len(self)
            numbers = None if view is None else self._decoded(blocks, block, view, is_full=is_full)
            if numbers is None:
                yield self._sliced(start, stop)
            else:
                yield Stored(numbers, start - base, stop - base, start)

    def _block_elements(self) -> int:
        if self._blocks is not None:
            return self._blocks.elements
        return int(self._dataset.chunks[0]) if self._dataset.chunks else 1

    def _sliced(self, start: int, stop: int) -> Stored:
        with self._lock, self._opened.reading(self.path):
            numbers = np.ascontiguousarray(self._dataset[start:stop], self.dtype)
        numbers.flags.writeable = False
        return Stored(numbers, 0, stop - start, start)


def _inflate(packed: memoryview, size: int, *, shuffled: bool) -> Any:
    """Return the bytes that `packed` stands for, None where it is damaged or stands for more than `size`.

    libdeflate is the faster of the two but for bytes that shuffling has made runs of.
    """
    try:
        if not shuffled:
            return deflate.zlib_decompress(packed, size)
        inflater = isal_zlib.decompressobj(zlib.MAX_WBITS)
        raw = inflater.decompress(packed, size + 1)
    except (deflate.DeflateError, isal_zlib.error):  # type: ignore[misc]  # its stub says an instance
        return None
    return raw if inflater.eof else None


def _find_blocks(opened: OpenH5ad, dataset: h5py.Dataset) -> _Blocks | None:
    """Return where the blocks of an array lie, or None where HDF5 is to read it."""
    # With a user block, versions of HDF5 do not agree from where offsets count.
    if opened.is_remote or opened.file.userblock_size or not _is_plain(dataset):
        return None
    if dataset.chunks is None:
        return _contiguous(dataset)
    filters = _filters(dataset)
    if filters is None or prod(dataset.chunks) * dataset.dtype.itemsize < _LEAST_BLOCK_BYTES:
        return None
    blocks = _chunked(dataset, *filters)
    most = _MOST_SWOLLEN * blocks.elements * dataset.dtype.itemsize + _SWOLLEN_BYTES
    if blocks.sizes.max(initial=0) > most:
        message = f"a block of {blocks.elements:,} elements takes {int(blocks.sizes.max()):,} bytes"
        raise opened.error(dataset.name.lstrip("/"), message, "decoded-size")
    return blocks


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Return whether numbers lie as this machine has them in memory."""
    dtype = dataset.dtype
    plain = dataset.size > 0 and dtype.kind in "iuf" and dtype.isnative
    return bool(plain and dataset.id.get_type().equal(h5py.h5t.py_create(dtype)))


def _filters(dataset: h5py.Dataset) -> tuple[int | None, int | None, bool] | None:
    """Return the places of shuffle and of a codec in the pipeline, and whether that is LZF; None of other pipelines."""
    made = dataset.id.get_create_plist()
    filters = [made.get_filter(number) for number in range(made.get_nfilters())]
    names = tuple(number for number, *_ in filters)
    if names not in _PIPELINES:
        return None
    shuffle, codec = _PIPELINES[names]
    if shuffle is not None and tuple(filters[shuffle][2]) != (dataset.dtype.itemsize,):
        return None
    return shuffle, codec, h5py.h5z.FILTER_LZF in names


def _contiguous(dataset: h5py.Dataset) -> _Blocks | None:
    offset = dataset.id.get_offset()
    if offset is None:  # never written, or kept in its header
        return None
    width, n = dataset.dtype.itemsize, int(dataset.size)
    elements = min(_RUN_BYTES // width, n)
    starts = np.arange(0, n, elements)
    ends = np.minimum(starts + elements, n)
    edge = int(ends[-1] - starts[-1])
    offsets, sizes, masks = offset + starts * width, (ends - starts) * width, np.zeros_like(starts)
    return _Blocks(elements, edge, offsets, sizes, masks, None, None, is_lzf=False)


def _chunked(dataset: h5py.Dataset, shuffle: int | None, codec: int | None, is_lzf: bool) -> _Blocks:
    chunks = dataset.chunks
    grid = [-(-n // chunk) for n, chunk in zip(dataset.shape, chunks, strict=True)]
    strides = [prod(grid[axis + 1 :]) for axis in range(len(grid))]
    elements, n_blocks = prod(chunks), prod(grid)
    axes = tuple(zip(chunks, grid, strides, strict=True))
    found = array("q")

    def note(info: Any) -> None:
        number = 0
        for at, (chunk, n, stride) in zip(info.chunk_offset, axes, strict=False):
            place = at // chunk
            if not 0 <= place < n:  # an array that has shrunk may have left some
                return
            number += place * stride
        found.extend((number, info.byte_offset, info.size, info.filter_mask))

    dataset.id.chunk_iter(note)
    numbers, *facts = np.array(found, np.int64).reshape(-1, 4).T
    offsets, sizes, masks = np.full(n_blocks, -1), np.zeros(n_blocks, np.int64), np.zeros(n_blocks, np.int64)
    for target, values in zip((offsets, sizes, masks), facts, strict=True):
        target[numbers] = values
    return _Blocks(elements, elements, offsets, sizes, masks, shuffle, codec, is_lzf)
