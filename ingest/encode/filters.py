"""The compressors of HDF5 chunks, made outside HDF5: what a block's bytes become, and what HDF5 calls that.

Every block is byte-shuffled first, by `ingest.encode.shuffle`. HDF5's filters are the contract: deflate and shuffle
are built into it; zstd (32015) and lz4 (32004) are `registered ones`_, which readers have from hdf5plugin.

.. _registered ones: https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import deflate
import h5py
import pyarrow as pa
from isal import isal_zlib

from ingest.encode.shuffled_deflate import NEVER, Search, compress_planes
from ingest.encode.sparse_deflate import compress_sparse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TEXT", "Filter", "choose_filter"]

_ZSTD, _LZ4 = 32015, 32004
_ISAL_LEVELS = 3
_ZSTD_LEVELS = (-5, 1, 2, 3, 4, 5, 6, 7, 8, 9)  # zstd's own 0 means its default, 3


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """One compressor at one level; both functions release the GIL and may be called from any thread."""

    compress: Callable[[memoryview, int], bytes]
    """Shuffled bytes of one block, given the number of planes, to what HDF5 stores."""
    decompress: Callable[[bytes, int], bytes]
    """Back, given the number of shuffled bytes."""
    id: int
    """HDF5's number of the filter."""
    options: tuple[int, ...]
    """What the file says about it."""
    plugin: bool
    """Whether HDF5 needs hdf5plugin for it."""
    compress_sparse: Callable[[Any, Any, int], bytes] | None = None
    """What is stored of so many numbers, given the places and values of those that are not zero: a shorter way."""

    def describe(self, plist: h5py.h5p.PropDCID) -> None:
        """Add shuffle and this filter to the properties of a chunked dataset that is about to be created."""
        if self.plugin:
            import hdf5plugin  # noqa: F401 # registers the filters: HDF5 creates no dataset with one it does not know
        plist.set_shuffle()
        plist.set_filter(self.id, h5py.h5z.FLAG_MANDATORY, self.options)


def choose_filter(codec: str, level: int) -> Filter | None:
    """Return the compressor for `codec` (deflate, zstd, lz4; none: None) at `level` 0 to 9, from fast to small."""
    if codec == "none":
        return None
    if codec == "zstd":
        return _zstd(_ZSTD_LEVELS[level])
    if codec == "lz4":
        return _lz4(level)
    return _deflate(level)


_SEARCHES = (
    NEVER,
    Search(0.4, isal_zlib, (1,), repeats=0.1),
    Search(0.4, isal_zlib, (2,)),
    Search(0.05, zlib, (3,), worth=0.99),
    *(3 * [Search(0.05, zlib, (3, 6), worth=0.99)]),
)
"""deflate's levels; those above try libdeflate's 10 to 12 as well, which look for the best strings of all."""

_UNSEARCHED = 3
"""Levels below look for no strings in planes that are mostly zero."""


def _deflate(level: int) -> Filter:
    own = level < len(_SEARCHES)
    compress = partial(compress_planes, _SEARCHES[level]) if own else partial(_smallest, level + 3)
    sparse = compress_sparse if level < _UNSEARCHED else None
    return Filter(compress, _inflate, h5py.h5z.FILTER_DEFLATE, (level,), plugin=False, compress_sparse=sparse)


def _smallest(level: int, raw: memoryview, n_planes: int) -> bytes:
    return min(_libdeflate(level, raw, n_planes), compress_planes(_SEARCHES[-1], raw, n_planes), key=len)


def _libdeflate(level: int, raw: memoryview, _n_planes: int) -> bytes:
    return bytes(deflate.zlib_compress(raw, level))


def _inflate(stored: bytes, size: int) -> bytes:
    return isal_zlib.decompress(stored, zlib.MAX_WBITS, size)


def _zstd(level: int) -> Filter:
    def compress(raw: memoryview, _n_planes: int) -> bytes:
        packed: bytes = pa.Codec("zstd", level).compress(raw, asbytes=True)
        return packed

    def decompress(stored: bytes, size: int) -> bytes:
        raw: bytes = pa.Codec("zstd").decompress(stored, size, asbytes=True)
        return raw

    return Filter(compress, decompress, _ZSTD, (level & 0xFFFFFFFF,), plugin=True)


def _lz4(level: int) -> Filter:
    """Make frames of the filter's own format: sizes big-endian, 8 bytes of all, 4 of a block, 4 of it compressed."""

    def compress(raw: memoryview, _n_planes: int) -> bytes:
        size = len(raw)
        packed: bytes = pa.Codec("lz4_raw", level or None).compress(raw, asbytes=True)
        if len(packed) >= size:  # the filter's mark for a block that is stored as it is
            packed = bytes(raw)
        return size.to_bytes(8, "big") + size.to_bytes(4, "big") + len(packed).to_bytes(4, "big") + packed

    def decompress(stored: bytes, size: int) -> bytes:
        packed = memoryview(stored)[16:]
        if len(packed) == size:
            return bytes(packed)
        raw: bytes = pa.Codec("lz4_raw").decompress(packed, size, asbytes=True)
        return raw

    return Filter(compress, decompress, _LZ4, (0,), plugin=True)


TEXT = Filter(partial(_libdeflate, 6), _inflate, h5py.h5z.FILTER_DEFLATE, (6,), plugin=False)
"""For texts and for the small numbers of obs and var: a Blosc or zstd of texts kills some readers."""
