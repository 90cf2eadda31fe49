"""Numbers put together from the bytes that HDF5 has shuffled: all first bytes, then all second bytes, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.inner import inner
from ingest.fetch.kernels import compiled

if TYPE_CHECKING:
    from ingest.fetch.h5ad_stored import Stored

__all__ = ["bits_of", "join", "join_planes", "plain_numbers"]

Array = np.ndarray[Any, Any]


@inner
def join(planes: Array, begin: int, bits: Array) -> None:
    """Put numbers from `begin` on together from their planes ``(width, n)``; `bits` is unsigned, of that width."""
    width = planes.shape[0]
    if width == 4:
        p0, p1 = planes[0, begin : begin + bits.size], planes[1, begin : begin + bits.size]
        p2, p3 = planes[2, begin : begin + bits.size], planes[3, begin : begin + bits.size]
        for at in range(bits.size):
            bits[at] = (
                np.uint32(p0[at])
                | (np.uint32(p1[at]) << np.uint32(8))
                | (np.uint32(p2[at]) << np.uint32(16))
                | (np.uint32(p3[at]) << np.uint32(24))
            )
    else:
        for at in range(bits.size):
            bits[at] = planes[0, begin + at]
        for plane in range(1, width):
            p = planes[plane, begin : begin + bits.size]
            for at in range(bits.size):
                bits[at] |= np.uint64(p[at]) << np.uint64(8 * plane)


@compiled
def join_planes(planes: Array, begin: int, bits: Array) -> None:
    """Put as many shuffled numbers together as `bits`, unsigned, takes, from number `begin` of ``(width, n)`` on."""
    join(planes, begin, bits)


def plain_numbers(stored: Stored, dtype: np.dtype[Any]) -> Array:
    """Return the wanted part of a block as an array of its numbers."""
    if stored.numbers.ndim == 1:
        return stored.numbers[stored.begin : stored.end]
    bits = np.empty(stored.end - stored.begin, bits_of(dtype))
    join_planes(stored.numbers, stored.begin, bits)
    return bits.view(dtype)


def bits_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the unsigned type of the same width: one compiled pass for all types of a width."""
    return np.dtype(f"u{dtype.itemsize}")
