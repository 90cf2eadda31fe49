"""Deflate blocks of literals and runs alone, one for each byte plane, with a Huffman code of its own. Compiled.

Written from `RFC 1950`_ and `RFC 1951`_: any inflater reads them.

.. _RFC 1950: https://www.rfc-editor.org/rfc/rfc1950
.. _RFC 1951: https://www.rfc-editor.org/rfc/rfc1951
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.encode.huffman import code_lengths, reversed_codes
from ingest.encode.inner import inner
from ingest.fetch.kernels import compiled

__all__ = [
    "END",
    "EXTRA",
    "EXTRA_BITS",
    "LIMIT",
    "N_SYMBOLS",
    "RUN_LEAST",
    "RUN_MOST",
    "SYMBOL",
    "put_bits",
    "put_code",
    "put_planes",
    "repeated_part",
]

Array = np.ndarray[Any, Any]

_U = np.uint64
END = 256
N_SYMBOLS = 286
LIMIT = 14  # RFC 1951 allows 15; four codes of 14 bits fit the bit buffer at once
_CODE_BYTES = 200  # at most, to send a block's code
RUN_LEAST = 4  # shorter runs are cheaper as literals
RUN_MOST = 258
_LENGTH_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])
"""RFC 1951, 3.2.7: the order in which the lengths of the code of code lengths are sent."""


def _length_codes() -> tuple[Array, Array, Array]:
    """Return symbol, number of extra bits and their value for each run length up to 258 (RFC 1951, 3.2.5)."""
    symbols, bits, values = (np.zeros(RUN_MOST + 1, np.int64) for _ in range(3))
    length = 3
    for symbol in range(257, 285):
        n_bits = max(0, (symbol - 261) // 4)
        for value in range(1 << n_bits):
            if length < RUN_MOST:
                symbols[length], bits[length], values[length] = symbol, n_bits, value
                length += 1
    symbols[RUN_MOST] = 285
    return symbols, bits, values


SYMBOL, EXTRA_BITS, EXTRA = _length_codes()


@inner
def put_bits(out: Array, state: Array, code: np.uint64, n_bits: np.uint64) -> None:
    """Append `n_bits` (up to 57) to `out` (uint64); `state` is (word, bits in the buffer, buffer).

    Callers say uint64 themselves: each other type, and each number written out, would be compiled on its own.
    """
    used = state[1]
    low = state[2] | (code << used)
    out[state[0]] = low
    total = used + n_bits
    if total >= _U(64):
        state[0] += _U(1)
        state[2] = code >> _U(1) >> (_U(63) - used)
    else:
        state[2] = low
    state[1] = total & _U(63)


@inner
def _count(plane: Array, frequency: Array) -> None:
    lanes = np.zeros((8, 256), np.int32)  # in a single one, a byte that follows itself would wait for its own count
    whole = plane.size & ~7
    for at in range(0, whole, 8):
        for lane in range(8):
            lanes[lane, plane[at + lane]] += 1
    for at in range(whole, plane.size):
        lanes[0, plane[at]] += 1
    for value in range(256):
        for lane in range(8):
            frequency[value] += lanes[lane, value]


@inner
def _is_constant(plane: Array) -> bool:
    value, differing = plane[0], np.uint8(0)
    for at in range(plane.size):
        differing |= plane[at] ^ value
    return bool(differing == 0)


@inner
def _looks_random(plane: Array) -> bool:
    """Return whether a code would gain less than a fiftieth, judged by how often two bytes of a sample are equal."""
    lanes = np.zeros((4, 256), np.int64)
    n_sampled = plane.size // 32 * 4
    for at in range(0, n_sampled, 4):
        for lane in range(4):
            lanes[lane, plane[8 * (at + lane)]] += 1
    pairs = 0
    for value in range(256):
        count = lanes[0, value] + lanes[1, value] + lanes[2, value] + lanes[3, value]
        pairs += count * (count - 1)
    # 231: 2**7.85, 7.85 bits of entropy a byte
    return bool(n_sampled > 1024 and pairs * 231 < n_sampled * (n_sampled - 1))


@inner
def _find_starts(plane: Array, starts: Array) -> int:
    """Write where runs of equal bytes start, and the end, to `starts` ``(n + 2,)``; return the number of runs.

    -1: there are so many that they are not worth it.
    """
    before, after = plane[: plane.size - 1], plane[1:]
    changes = 0
    for at in range(before.size):
        changes += before[at] != after[at]
    if changes * 5 > plane.size:
        return -1
    n_runs = _U(1)  # unsigned: an index that may be negative costs a test at each byte
    starts[0] = 0
    for group in range(0, before.size, 64):
        one, other = before[group : group + 64], after[group : group + 64]
        changes = 0
        for at in range(one.size):
            changes += one[at] != other[at]
        if changes == 0:
            continue
        for at in range(one.size):
            starts[n_runs] = group + at + 1
            n_runs += _U(one[at] != other[at])
    starts[n_runs] = plane.size
    return int(n_runs)


@inner
def _find_runs(plane: Array, starts: Array, n_runs: int, tokens: Array, frequency: Array) -> int:
    """Write literals (0 to 255) and runs of the byte before (256 + length) to `tokens`; return their number."""
    n_tokens = 0
    for number in range(n_runs):
        value = plane[starts[number]]
        rest = starts[number + 1] - starts[number] - 1
        literals = 1
        if rest < RUN_LEAST:
            literals, rest = 1 + rest, 0
        elif rest > RUN_MOST and rest % RUN_MOST < 3:  # no run of 1 or 2 can be said
            literals += rest % RUN_MOST
            rest -= rest % RUN_MOST
        frequency[value] += literals
        tokens[n_tokens] = value
        for at in range(1, literals):
            tokens[n_tokens + at] = value
        n_tokens += literals
        while rest > 0:
            length = min(rest, RUN_MOST)
            tokens[n_tokens] = 256 + length
            n_tokens += 1
            frequency[SYMBOL[length]] += 1
            rest -= length
    return n_tokens


@inner
def put_code(out: Array, state: Array, lengths: Array) -> None:
    """Append the head of a block with a code of its own (RFC 1951, 3.2.7); its one distance is 1, in one bit."""
    n_lengths = N_SYMBOLS
    while n_lengths > 257 and lengths[n_lengths - 1] == 0:
        n_lengths -= 1
    # Symbols 0 to 15 are lengths, 17 and 18 runs of zeros; extra bits stand above the lowest five.
    items = np.empty(N_SYMBOLS + 1, np.int64)
    frequency = np.zeros(19, np.int64)
    n_items, at = 0, 0
    while at < n_lengths:
        stop = at
        while stop < n_lengths and lengths[stop] == 0 and stop - at < 138:
            stop += 1
        zeros = stop - at
        if zeros >= 11:
            items[n_items] = 18 | ((zeros - 11) << 5)
        elif zeros >= 3:
            items[n_items] = 17 | ((zeros - 3) << 5)
        else:
            items[n_items] = lengths[at]
            stop = at + 1
        frequency[items[n_items] & 31] += 1
        n_items += 1
        at = stop
    items[n_items] = 1
    frequency[1] += 1
    n_items += 1
    small = np.zeros(19, np.int64)
    code_lengths(frequency, np.int64(7), small)
    codes = reversed_codes(small)
    n_small = 19
    while n_small > 4 and small[_LENGTH_ORDER[n_small - 1]] == 0:
        n_small -= 1
    head = 0b100 | ((n_lengths - 257) << 3) | ((n_small - 4) << 13)
    put_bits(out, state, _U(head), _U(17))
    for place in range(n_small):
        put_bits(out, state, _U(small[_LENGTH_ORDER[place]]), _U(3))
    for place in range(n_items):
        symbol = items[place] & 31
        n_extra = 0 if symbol <= 16 else 7 if symbol == 18 else 3
        value = codes[symbol] | ((items[place] >> 5) << small[symbol])
        put_bits(out, state, _U(value), _U(small[symbol] + n_extra))


@inner
def _put_literals(plane: Array, codes: Array, lengths: Array, out: Array, state: Array) -> None:
    """Append the codes of all bytes, four at a time, without a branch."""
    table = np.empty(256, np.uint64)
    for value in range(256):
        table[value] = _U(codes[value]) | (_U(lengths[value]) << _U(16))
    mask, sixteen = _U(0xFFFF), _U(16)
    word, used, buffer = state[0], state[1], state[2]
    whole = plane.size & ~3
    for at in range(0, whole, 4):
        a, b, c, d = table[plane[at]], table[plane[at + 1]], table[plane[at + 2]], table[plane[at + 3]]
        first = (a & mask) | ((b & mask) << (a >> sixteen))
        n_first = (a >> sixteen) + (b >> sixteen)
        second = (c & mask) | ((d & mask) << (c >> sixteen))
        code = first | (second << n_first)
        low = buffer | (code << used)
        out[word] = low
        total = used + n_first + (c >> sixteen) + (d >> sixteen)
        full = total >> _U(6)
        word += full
        buffer = (code >> _U(1) >> (_U(63) - used)) if full else low
        used = total & _U(63)
    state[0], state[1], state[2] = word, used, buffer
    for at in range(whole, plane.size):
        put_bits(out, state, _U(codes[plane[at]]), _U(lengths[plane[at]]))


@inner
def _put_tokens(tokens: Array, codes: Array, lengths: Array, out: Array, state: Array) -> None:
    for token in tokens:
        if token < 256:
            put_bits(out, state, _U(codes[token]), _U(lengths[token]))
            continue
        run = token - 256
        symbol, n_extra = SYMBOL[run], EXTRA_BITS[run]
        # The code of the length, its extra bits and the one bit of distance 1, which is 0.
        value = codes[symbol] | (EXTRA[run] << lengths[symbol])
        put_bits(out, state, _U(value), _U(lengths[symbol] + n_extra + 1))


@inner
def _coded_bits(frequency: Array, lengths: Array) -> int:
    """Return the bits of a block, at most: with the longest extra bits, and a code that is hard to send."""
    bits = 8 * _CODE_BYTES
    for symbol in range(N_SYMBOLS):
        bits += frequency[symbol] * (lengths[symbol] + (6 if symbol > END else 0))
    return bits


@compiled
def put_planes(
    planes: Array, first: int, hard: float, hard_first: float, work: tuple[Array, Array], out: Array, state: Array
) -> tuple[int, int]:
    """Append planes from `first`; return the number of the first that is too hard, and its size, or (all, 0).

    A plane that no code makes smaller is always too hard, and its size is its length.

    Parameters
    ----------
    planes
        uint8 ``(n_planes, length)``.
    hard, hard_first
        The part of a plane's length above which it is not coded here; for `first`, `hard_first`.
    work
        uint16 ``(length,)`` and int32 ``(length + 2,)``, to work in.
    out
        uint64; large enough for all planes stored.
    state
        uint64 ``(3,)``: words written, bits in the buffer, the buffer.
    """
    tokens, starts = work
    for number in range(first, planes.shape[0]):
        plane = planes[number]
        frequency = np.zeros(N_SYMBOLS, np.int64)
        n_runs, n_tokens = 1, 0
        if _is_constant(plane):  # as half of all planes are
            starts[0], starts[1] = 0, plane.size
        elif _looks_random(plane):
            return number, int(plane.size)
        else:
            n_runs = _find_starts(plane, starts)
        if n_runs >= 0:
            n_tokens = _find_runs(plane, starts, n_runs, tokens, frequency)
        else:
            _count(plane, frequency)
        frequency[END] = 1
        lengths = np.zeros(N_SYMBOLS, np.int64)
        code_lengths(frequency, np.int64(LIMIT), lengths)
        size = min(_coded_bits(frequency, lengths) // 8, plane.size)
        if size == plane.size or size > (hard_first if number == first else hard) * plane.size:
            return number, size
        codes = reversed_codes(lengths)
        put_code(out, state, lengths)
        if n_runs >= 0:
            _put_tokens(tokens[:n_tokens], codes, lengths, out, state)
        else:
            _put_literals(plane, codes, lengths, out, state)
        put_bits(out, state, _U(codes[END]), _U(lengths[END]))
    return planes.shape[0], 0


@compiled
def repeated_part(plane: Array) -> float:
    """Return which part of `plane` (uint8) stands in it before, in strings of four bytes or more, roughly.

    Greedy: a string is looked for where the latest with the same first four bytes stands (of 4,096 that are
    remembered), and followed as far as it goes.
    """
    latest = np.zeros(4096, np.int64)
    at, repeated, end = 0, 0, plane.size - 4
    while at < end:
        four = _U(plane[at]) | _U(plane[at + 1]) << _U(8) | _U(plane[at + 2]) << _U(16) | _U(plane[at + 3]) << _U(24)
        place = np.int64(((four * _U(2654435761)) & _U(0xFFFFFFFF)) >> _U(20))
        earlier = latest[place] - 1
        latest[place] = at + 1
        length = 0
        if earlier >= 0:
            while at + length < plane.size and plane[earlier + length] == plane[at + length]:
                length += 1
        if length >= 4:
            repeated += length
            at += length
        else:
            at += 1
    return repeated / plane.size
