"""Undo LZF, the filter of h5py's that is fast to write: outside HDF5's lock, and faster than its C code.

`LZF`_ is runs of bytes and references to bytes before. A byte below 32 begins a run of so many bytes and one more. Any
other begins a reference: its upper three bits and 2 are how many bytes, where all three are set one more byte is added;
its lower five bits and the byte that follows are how far back, and 1. It has no checksum.

.. _LZF: http://software.schmorp.de/pkg/liblzf.html
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = ["undo_lzf"]

Array = np.ndarray[Any, Any]

_RUN, _LONG, _BACK = np.uint64(32), np.uint64(9), np.uint64(31)
_1, _2, _5, _8 = np.uint64(1), np.uint64(2), np.uint64(5), np.uint64(8)


def undo_lzf(packed: memoryview, size: int) -> Array | None:
    """Return the `size` bytes, uint8, that `packed` stands for; None where it stands for more, less or nothing."""
    source, out = np.frombuffer(packed, np.uint8), np.empty(size, np.uint8)
    source.flags.writeable = False  # numba compiles for read-only and writable arrays apart
    return out if _undo(source, out) == size else None


# Numbers are unsigned throughout, and no slices taken: of an index that may be negative, and of every slice, numba
# asks so much that it takes thrice the time.
@compiled
def _undo(packed: Array, out: Array) -> Any:
    """Fill `out`; return how many bytes that is, -1 where `packed` is damaged or `out` too small."""
    n, size = np.uint64(packed.size), np.uint64(out.size)
    at: Any = np.uint64(0)
    to: Any = np.uint64(0)
    while at < n:
        head = np.uint64(packed[at])
        at += _1
        if head < _RUN:
            length = head + _1
            if length > n - at or length > size - to:
                return -1
            for byte in range(length):
                out[to + np.uint64(byte)] = packed[at + np.uint64(byte)]
            at += length
        else:
            length = (head >> _5) + _2
            if length == _LONG:
                if at >= n:
                    return -1
                length += np.uint64(packed[at])
                at += _1
            if at >= n:
                return -1
            back = ((head & _BACK) << _8) + np.uint64(packed[at]) + _1
            at += _1
            if back > to or length > size - to:
                return -1
            begin = to - back
            for byte in range(length):  # of which later ones may be those that this writes
                out[to + np.uint64(byte)] = out[begin + np.uint64(byte)]
        to += length
    return np.int64(to)
