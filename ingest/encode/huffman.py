"""Huffman codes of limited length, in deflate's canonical order (RFC 1951, 3.2.2). Compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = ["code_lengths", "reversed_codes"]

Array = np.ndarray[Any, Any]


@compiled
def code_lengths(frequency: Array, limit: int, lengths: Array) -> None:
    """Write the length of each symbol's code, at most `limit`, to `lengths` (zeros before); 0: it does not occur.

    Two symbols at least occur.
    """
    n = 0
    keys = np.empty(frequency.size, np.int64)
    for symbol in range(frequency.size):
        if frequency[symbol] > 0:
            keys[n] = frequency[symbol] * 512 + symbol
            n += 1
    order = np.sort(keys[:n])
    shortest_first = _lengths_in_use(order >> 9, limit)
    at = n
    for length in range(1, limit + 1):
        for _ in range(shortest_first[length]):
            at -= 1
            lengths[order[at] & 511] = length


@compiled
def _lengths_in_use(weights: Array, limit: int) -> Array:
    """Return how many codes have each length, ``(limit + 1,)``, for ascending `weights`."""
    n = weights.size
    parent = np.empty(2 * n, np.int64)
    joined = np.empty(n, np.int64)
    leaf, inner = 0, 0
    for node in range(n - 1):
        total = 0
        for _ in range(2):
            if leaf < n and (inner >= node or weights[leaf] <= joined[inner]):
                total += weights[leaf]
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


@compiled
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
    codes = np.zeros(lengths.size, np.int64)
    code = 0
    for length in range(1, 16):
        for symbol in range(lengths.size):
            if lengths[symbol] == length:
                bits, rest = 0, code
                for _ in range(length):
                    bits = (bits << 1) | (rest & 1)
                    rest >>= 1
                codes[symbol] = bits
                code += 1
        code <<= 1
    return codes
