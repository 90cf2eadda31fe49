"""zlib streams of byte-shuffled values that are mostly zero, made from those that are not.

What `ingest.encode.shuffled_deflate` makes of the dense bytes, without the dense bytes: the gaps between two values are
the runs, and zeros add nothing to a checksum but their number. The work is that of the values: one in twenty-five of a
Census.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ingest.encode.huffman import code_lengths, reversed_codes
from ingest.encode.inner import inner
from ingest.encode.plane_deflate import (
    END,
    EXTRA,
    EXTRA_BITS,
    LIMIT,
    N_SYMBOLS,
    RUN_LEAST,
    RUN_MOST,
    SYMBOL,
    put_bits,
    put_code,
)
from ingest.encode.shuffled_deflate import HEAD, ended
from ingest.fetch.kernels import compiled

__all__ = ["MOST_BYTES", "compress_sparse"]

_U = np.uint64
_ADLER = 65_521
"""The modulus of zlib's checksum (RFC 1950, 8.2)."""
_AT_ONCE = 57
"""Bits that `put_bits` takes at most."""

MOST_BYTES = 1 << 26
"""Of one stream: so many bytes' contributions to the checksum add up in 64 bits."""

Array = np.ndarray[Any, Any]


@inner
def _count(places: Array, words: Array, shift: int, length: int, frequency: Array, gaps: Array) -> tuple[Any, Any]:
    """Count the bytes at `shift` that are not zero, and the gaps between them; return their part in the checksum.

    A gap of zeros is ``1 + (gap - 1) % 258`` of them, counted in `gaps`, and whole runs of 258.

    Returns
    -------
    tuple
        The sum of the bytes, and of the bytes times their distance from the plane's end.
    """
    after, runs, low, high = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for at in range(words.size):
        value = np.int64((words[at] >> shift) & 0xFF)
        if value:
            gap = places[at] - after
            if gap > RUN_MOST:
                runs += (gap - 1) // RUN_MOST
                gap = 1 + (gap - 1) % RUN_MOST
            gaps[gap] += 1
            after = places[at] + 1
            frequency[value] += 1
            low += value
            high += (length - places[at]) * value
    gap = length - after
    if gap > RUN_MOST:
        runs += (gap - 1) // RUN_MOST
        gap = 1 + (gap - 1) % RUN_MOST
    gaps[gap] += 1
    frequency[SYMBOL[RUN_MOST]] += runs
    for gap in range(1, RUN_MOST + 1):
        if gap <= RUN_LEAST:
            frequency[0] += gap * gaps[gap]
        else:
            frequency[0] += gaps[gap]
            frequency[SYMBOL[gap - 1]] += gaps[gap]
    return low, high


@inner
def _gap_codes(codes: Array, lengths: Array, gap_codes: Array, gap_bits: Array) -> Any:
    """Write for each gap up to 258 what says it, and in how many bits: a zero and a run, or zeros; return the most."""
    most = np.int64(0)
    for gap in range(1, RUN_MOST + 1):
        code, bits = np.int64(0), np.int64(0)
        for _ in range(gap if gap <= RUN_LEAST else 1):
            code |= codes[0] << bits
            bits += lengths[0]
        if gap > RUN_LEAST:
            symbol = SYMBOL[gap - 1]
            code |= (codes[symbol] | (EXTRA[gap - 1] << lengths[symbol])) << bits
            bits += lengths[symbol] + EXTRA_BITS[gap - 1] + 1  # the one bit of distance 1 is 0
        gap_codes[gap], gap_bits[gap] = code, bits
        most = max(most, bits)
    return most


@inner
def _put_gap(gap: int, symbols: tuple[Array, Array], gaps: tuple[Array, Array], out: Array, state: Array) -> None:
    """Append a gap of zeros of any length but none."""
    first = 1 + (gap - 1) % RUN_MOST
    put_bits(out, state, _U(gaps[0][first]), _U(gaps[1][first]))
    symbol = SYMBOL[RUN_MOST]
    for _ in range((gap - 1) // RUN_MOST):
        put_bits(out, state, _U(symbols[0][symbol]), _U(symbols[1][symbol] + 1))


@inner
def _put_values(
    places: Array,
    words: Array,
    shift: int,
    symbols: tuple[Array, Array],
    gaps: tuple[Array, Array],
    joined: bool,
    out: Array,
    state: Array,
) -> Any:
    """Append all values, each after its gap, and return the place after the last."""
    after = np.int64(0)
    for at in range(words.size):
        value = np.int64((words[at] >> shift) & 0xFF)
        if value:
            gap = places[at] - after
            after = places[at] + 1
            code, bits = symbols[0][value], symbols[1][value]
            if joined and gap <= RUN_MOST:
                code, bits = gaps[0][gap] | (code << gaps[1][gap]), bits + gaps[1][gap]
            elif gap:
                _put_gap(gap, symbols, gaps, out, state)
            put_bits(out, state, _U(code), _U(bits))
    return after


@compiled
def _put_sparse_planes(
    places: Array, words: Array, n_planes: int, length: int, out: Array, state: Array
) -> tuple[Any, Any]:
    """Append a deflate block for each byte plane of `words`; return the two halves of the Adler-32 of all planes."""
    low, high = np.int64(1), np.int64(n_planes * length)
    for plane in range(n_planes):
        frequency, counted = np.zeros(N_SYMBOLS, np.int64), np.zeros(RUN_MOST + 1, np.int64)
        ones, weighted = _count(places, words, 8 * plane, length, frequency, counted)
        # What is behind the plane counts in full: all its bytes stand so much further from the end.
        high += weighted + ones * ((n_planes - 1 - plane) * length)
        low += ones
        frequency[END] = 1
        lengths = np.zeros(N_SYMBOLS, np.int64)
        code_lengths(frequency, np.int64(LIMIT), lengths)
        symbols = reversed_codes(lengths), lengths
        gaps = np.zeros(RUN_MOST + 1, np.int64), np.zeros(RUN_MOST + 1, np.int64)
        most = _gap_codes(symbols[0], symbols[1], gaps[0], gaps[1])
        put_code(out, state, lengths)
        after = _put_values(places, words, 8 * plane, symbols, gaps, most + LIMIT <= _AT_ONCE, out, state)
        if after < length:
            _put_gap(length - after, symbols, gaps, out, state)
        put_bits(out, state, _U(symbols[0][END]), _U(lengths[END]))
    return low % _ADLER, high % _ADLER


class _Scratch(threading.local):
    """A thread's memory to work in: fresh pages for each block would cost as much as compressing it."""

    def __init__(self) -> None:
        self.out = np.empty(0, np.uint64)

    def fit(self, n_planes: int, length: int) -> None:
        # A code is hardly longer than a byte on average, and a run's other bits stand for four bytes or more.
        words = n_planes * (2 * length + 512) // 8
        if len(self.out) < words:
            self.out = np.empty(words, np.uint64)


_SCRATCH = _Scratch()


def compress_sparse(places: Array, values: Array, length: int) -> bytes:
    """Return the zlib stream of the shuffled bytes of `length` numbers, of which those at `places` are not zero.

    Parameters
    ----------
    places
        int64 ``(n,)``, ascending.
    values
        Numbers ``(n,)``.
    length
        More than 0; its numbers have `MOST_BYTES` at most.
    """
    words = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    _SCRATCH.fit(words.itemsize, length)
    state = np.array(HEAD, np.uint64)
    low, high = _put_sparse_planes(places, words, words.itemsize, length, _SCRATCH.out, state)
    return ended(_SCRATCH.out, state) + (int(high) << 16 | int(low)).to_bytes(4, "big")
