"""Undo the filters of HDF5 blocks outside HDF5, in whatever thread asks: each function lets go of the GIL.

Which library inflates fastest depends on what is inflated. Counts shrink to short codes, gene numbers to long ones:
ISA-L takes 2.7 ns for a count and 2.9 for a gene number, libdeflate 4.1 and 1.6, and of rows that are mostly zero
half of ISA-L's time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeAlias

import deflate
import pyarrow as pa
from isal import isal_zlib

__all__ = ["Inflate", "inflate_counts", "inflate_dense", "inflate_genes"]

Inflate: TypeAlias = Callable[[memoryview, int], bytes | memoryview]
"""Stored bytes and the size of what they become, to its shuffled bytes."""

_LZ4_HEAD = 16
"""Of the filter's frame: sizes of all and of the one block."""


def _isal(stored: memoryview, size: int) -> bytes:
    return isal_zlib.decompress(stored, zlib.MAX_WBITS, size)


def _libdeflate(stored: memoryview, size: int) -> bytes:
    return bytes(deflate.zlib_decompress(stored, size))


def _zstd(stored: memoryview, size: int) -> memoryview:
    return memoryview(pa.Codec("zstd").decompress(stored, size))


def _lz4(stored: memoryview, size: int) -> bytes | memoryview:
    packed = stored[_LZ4_HEAD:]
    return bytes(packed) if len(packed) == size else memoryview(pa.Codec("lz4_raw").decompress(packed, size))


_COUNTS: dict[str, Inflate] = {"deflate": _isal, "zstd": _zstd, "lz4": _lz4}
_GENES: dict[str, Inflate] = {**_COUNTS, "deflate": _libdeflate}


def inflate_counts(codec: str) -> Inflate:
    """Return what undoes `codec` over blocks of counts: stored bytes and size of the result to the shuffled bytes."""
    return _COUNTS[codec]


def inflate_genes(codec: str) -> Inflate:
    """Return what undoes `codec` over blocks of gene numbers."""
    return _GENES[codec]


def inflate_dense(codec: str) -> Inflate:
    """Return what undoes `codec` over blocks of rows that are mostly zero."""
    return _GENES[codec]
