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

from ingest.encode.plane_deflate import put_planes, repeated_part

__all__ = ["HEAD", "NEVER", "Search", "compress_planes", "ended"]

_SMALL = 2048
"""Planes shorter than that share one code: those of several would outweigh them."""
_STORED_MOST = 65_535
"""Bytes of a stored block."""
HEAD = 0, 16, 0x0178
"""A stream of 16 bits: zlib's head for a window of 32 KiB, fast compression, no dictionary (RFC 1950, 2.2)."""
_LAST = 0b011
"""Ten bits: an empty last block of the fixed code."""

Array = np.ndarray[Any, Any]


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
    repeats: float = 0.0
    """Which part of a sample must have stood in it before, in strings of four bytes or more: it costs a sixth of
    having the library try. Of real cells' gene numbers it is a quarter or more where searching saves a twelfth or
    more, and a twentieth or less where it saves less."""


NEVER = Search(1.0, None, ())


class _Scratch(threading.local):
    """A thread's memory to work in: fresh pages for each block would cost as much as compressing it."""

    def __init__(self) -> None:
        self.out = np.empty(0, np.uint64)
        self.work = np.empty(0, np.uint16), np.empty(0, np.int32)

    def fit(self, n_planes: int, length: int) -> None:
        words = n_planes * (length + 16 + 6 * (1 + length // _STORED_MOST)) // 8 + 8
        if len(self.out) < words:
            self.out = np.empty(words, np.uint64)
        if len(self.work[0]) < length:
            self.work = np.empty(length, np.uint16), np.empty(length + 2, np.int32)


_SCRATCH = _Scratch()


def compress_planes(search: Search, raw: memoryview, n_planes: int) -> bytes:
    """Return the zlib stream of `raw`, `n_planes` byte planes of equal length, above 0, behind each other."""
    planes = np.frombuffer(raw, np.uint8).reshape(n_planes, -1)
    length = planes.shape[1]
    if length < _SMALL:
        return isal_zlib.compress(raw, 1)
    _SCRATCH.fit(n_planes, length)
    out, work = _SCRATCH.out, _SCRATCH.work
    state = np.array(HEAD, np.uint64)
    number, size = put_planes(planes, 0, search.least, search.least, work, out, state)
    while number < n_planes:
        plane, limit = planes[number].data, search.least
        strings = _search(plane, size, search) if size > limit * length else None
        if strings is not None:
            _append(b"", out, state)
            _append_at_byte(strings, out, state)
        elif size == length:
            for start in range(0, length, _STORED_MOST):
                _append(plane[start : start + _STORED_MOST], out, state)
        else:
            number, limit = number - 1, 1.0
        number, size = put_planes(planes, number + 1, search.least, limit, work, out, state)
    return ended(out, state) + deflate.adler32(raw).to_bytes(4, "big")


def _append(raw: bytes | memoryview, out: Array, state: Array) -> None:
    """Append a stored block of up to 65,535 bytes; one of none leaves the stream at a whole byte."""
    word, used, buffer = state.tolist()
    head = buffer.to_bytes((used + 3 + 7) // 8, "little")  # three bits that are 0, and as many as fill the byte
    state[:] = word, 0, 0
    length = len(raw)
    _append_at_byte(head + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little"), out, state)
    _append_at_byte(raw, out, state)


def _append_at_byte(raw: bytes | memoryview, out: Array, state: Array) -> None:
    """Append whole bytes to a stream that is at one."""
    word, used, buffer = state.tolist()
    out[word] = buffer
    start = word * 8 + used // 8
    word, rest = divmod(start + len(raw), 8)
    whole = out.view(np.uint8).data
    whole[start : start + len(raw)] = raw
    state[:] = word, rest * 8, int.from_bytes(whole[word * 8 : word * 8 + rest], "little")


def ended(out: Array, state: Array) -> bytes:
    """Return the stream with an empty last block, to the last whole byte; a checksum follows."""
    word, used, buffer = state.tolist()
    end: bytes = (buffer | (_LAST << used)).to_bytes((used + 10 + 7) // 8, "little")
    return out[:word].tobytes() + end


def _search(plane: memoryview, size: int, search: Search) -> bytes | None:
    """Return raw deflate of `plane` that ends at a whole byte, or None where it is not below `size` bytes."""
    if search.repeats > 0 and repeated_part(np.frombuffer(plane[: len(plane) // 8], np.uint8)) < search.repeats:
        return None
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
