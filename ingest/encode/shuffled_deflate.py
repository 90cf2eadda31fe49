"""zlib streams of byte-shuffled counts, plane by plane: what is fast and small for one is neither for another.

The planes of shuffled counts have nothing in common, and most hold no repeated strings worth looking for: a Huffman
code of their own and runs make them smaller than a general compressor does, in less time. Where that gains little (the
low bytes of gene numbers), ISA-L or zlib looks for strings.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from typing import Any, cast

import deflate
import numpy as np
from isal import isal_zlib

from ingest.encode.plane_deflate import STORED_MOST, put_bytes, put_end, put_head, put_planes

__all__ = ["NEVER", "Search", "compress_planes"]

_SMALL = 2048
"""Planes shorter than that share one code: those of several would outweigh them."""


@dataclass(frozen=True, slots=True)
class Search:
    """Where repeated strings are looked for, and by whom."""

    least: float
    """In planes that keep more than this part of their length without."""
    library: Any
    """``isal.isal_zlib`` or ``zlib``."""
    levels: tuple[int, ...]
    """The library's; the smallest outcome is taken, since for shuffled bytes more effort is not always less."""
    worth: float = 1.0
    """What a sample must shrink to, against the plane's own code, for the whole to be searched; 1: none is taken."""


NEVER = Search(1.0, None, ())


class _Scratch(threading.local):
    """A thread's memory to work in: fresh pages for each block would cost as much as compressing it."""

    def __init__(self) -> None:
        self.out = np.empty(0, np.uint64)
        self.work = np.empty(0, np.uint16), np.empty(0, np.int32)

    def fit(self, n_planes: int, length: int) -> None:
        words = n_planes * (length + 16 + 6 * (1 + length // STORED_MOST)) // 8 + 8
        if len(self.out) < words:
            self.out = np.empty(words, np.uint64)
        if len(self.work[0]) < length:
            self.work = np.empty(length, np.uint16), np.empty(length + 2, np.int32)


_SCRATCH = _Scratch()


def compress_planes(search: Search, raw: memoryview, n_planes: int) -> bytes:
    """Return the zlib stream of `raw`, `n_planes` byte planes of equal length, above 0, behind each other."""
    planes = np.frombuffer(raw, np.uint8).reshape(n_planes, -1)
    if planes.shape[1] < _SMALL:
        return isal_zlib.compress(raw, 1)
    _SCRATCH.fit(*planes.shape)
    out, work, state = _SCRATCH.out, _SCRATCH.work, np.zeros(3, np.uint64)
    put_head(out, state)
    number, size = put_planes(planes, 0, search.least, search.least, work, out, state)
    while number < n_planes:
        strings = _search(planes[number].data, size, search)
        if strings is None:
            number, size = put_planes(planes, number, search.least, 1.0, work, out, state)
        else:
            put_bytes(np.frombuffer(strings, np.uint8), out, state)
            number, size = put_planes(planes, number + 1, search.least, search.least, work, out, state)
    size = put_end(out, state)
    return out.view(np.uint8)[:size].tobytes() + deflate.adler32(raw).to_bytes(4, "big")


def _search(plane: memoryview, size: int, search: Search) -> bytes | None:
    """Return raw deflate of `plane` that ends at a whole byte, or None where it is not below `size` bytes."""
    if search.worth < 1:
        sample = plane[: len(plane) // 4]
        found = search.library.compress(sample, search.levels[0], -zlib.MAX_WBITS)
        if len(found) * len(plane) > search.worth * size * len(sample):
            return None
    found = _strings(plane, search)
    return found if len(found) < size else None


def _strings(plane: memoryview, search: Search) -> bytes:
    return min((_deflated(plane, search.library, level) for level in search.levels), key=len)


def _deflated(plane: memoryview, library: Any, level: int) -> bytes:
    packer = library.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return cast("bytes", packer.compress(plane) + packer.flush(zlib.Z_SYNC_FLUSH))
