"""Huffman codes of limited length, in deflate's canonical order (RFC 1951, 3.2.2). Compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.encode.inner import inner
from ingest.fetch.kernels import compiled

__all__ = ["code_lengths", "reversed_codes"]

Array = np.ndarray[Any, Any]


@compiled
def code_lengths(frequency: Array, limit: Any, lengths: Array) -> None:
    """Write the length of each symbol's code, at most `limit`, to `lengths` (zeros before); 0: it does not occur.

    Two symbols at least occur. Compiled callers say int64 for `limit`: numba would compile for each written number.
    """
    n: Any = np.int64(0)  # said so, or what follows is compiled for a written 0 as well
    keys = np.empty(frequency.size, np.int64)
    for symbol in range(frequency.size):
        if frequency[symbol] > 0:
            keys[n] = frequency[symbol] * 512 + symbol
            n += 1
    _sort(keys, n)
    shortest_first = _lengths_in_use(keys, n, limit)
    at = n
    for length in range(1, limit + 1):
        for _ in range(shortest_first[length]):
            at -= 1
            lengths[keys[at] & 511] = length


@inner
def _sort(keys: Array, n: int) -> None:
    """Sort the first `n` of `keys`, which all differ: Shell's way, for numpy's takes a second to compile."""
    gap = 301
    while gap > 0:
        for at in range(gap, n):
            key, to = keys[at], at
            while to >= gap and keys[to - gap] > key:
                keys[to] = keys[to - gap]
                to -= gap
            keys[to] = key
        gap = gap * 3 // 7


@inner
def _lengths_in_use(keys: Array, n: int, limit: int) -> Array:
    """Return how many codes have each length, ``(limit + 1,)``, for the weights of `n` ascending `keys`."""
    parent = np.empty(2 * n, np.int64)
    joined = np.empty(n, np.int64)
    leaf, inner = 0, 0
    for node in range(n - 1):
        total = 0
        for _ in range(2):
            if leaf < n and (inner >= node or keys[leaf] >> 9 <= joined[inner]):
                total += keys[leaf] >> 9
                parent[leaf] = n + node
                leaf += 1
            else:
                total += joined[inner]
                parent[n + inner] = n + node
                inner += 1
        joined[node] = total
    depth = np.zeros(2 * n, np.int64)
    for node in range(2 * n - 3, n - 1, -1):
        depth[node] = depth[parent[node]] + 1
    counts = np.zeros(limit + 1, np.int64)
    for node in range(n):
        counts[min(depth[parent[node]] + 1, limit)] += 1
    _fit(counts, limit)
    return counts


@inner
def _fit(counts: Array, limit: int) -> None:
    """Lengthen short codes until those that were cut to `limit` have room: the code is complete then."""
    room = 0
    for length in range(1, limit + 1):
        room += counts[length] << (limit - length)
    while room > 1 << limit:
        length = limit - 1
        while counts[length] == 0:
            length -= 1
        counts[length] -= 1
        counts[length + 1] += 2
        counts[limit] -= 1
        room -= 1


@compiled
def reversed_codes(lengths: Array) -> Array:
    """Return the canonical code of each symbol, first bit lowest, as deflate packs it."""
    following = np.zeros(17, np.int64)
    for symbol in range(lengths.size):
        following[lengths[symbol] + 1] += 1
    following[1] = 0  # symbols that do not occur have no code
    for length in range(1, 16):  # from how many codes are one bit shorter to the first code of this length
        following[length] = (following[length - 1] + following[length]) << 1
    codes = np.zeros(lengths.size, np.int64)
    for symbol in range(lengths.size):
        length = lengths[symbol]
        if length:
            codes[symbol] = _reversed(following[length], length)
            following[length] += 1
    return codes


@inner
def _reversed(code: int, length: int) -> int:
    """Return the lowest `length` bits of `code`, up to 16, in the other order."""
    code = ((code & 0x5555) << 1) | ((code >> 1) & 0x5555)
    code = ((code & 0x3333) << 2) | ((code >> 2) & 0x3333)
    code = ((code & 0x0F0F) << 4) | ((code >> 4) & 0x0F0F)
    code = ((code & 0x00FF) << 8) | ((code >> 8) & 0x00FF)
    return code >> (16 - length)
