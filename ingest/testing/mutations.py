"""Changes of bytes that know nothing of what the bytes mean. Pure: a generator of numbers decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["mutate"]

_MOST_CHANGES = 8
_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    2**63 - 1,
    2**64 - 1,
)
"""Where counts, offsets and sizes go wrong."""


def mutate(draw: random.Random, data: bytes) -> bytes:
    """Return other bytes: one or several changes of `data`."""
    changed = bytearray(data)
    for _ in range(1 if draw.random() < 0.5 else draw.randint(2, _MOST_CHANGES)):
        if not changed:
            break
        draw.choice(_CHANGES)(draw, changed)
    return bytes(changed)


def _flip(draw: random.Random, data: bytearray) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _byte(draw: random.Random, data: bytearray) -> None:
    data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _number(draw: random.Random, data: bytearray) -> None:
    width = draw.choice((1, 2, 4, 8))
    at = draw.randrange(len(data)) // width * width
    value = draw.choice((*_NUMBERS, len(data), len(data) - 1))
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, draw.choice(("little", "little", "big")))


def _more_or_less(draw: random.Random, data: bytearray) -> None:
    """Add a little to a number that stands there."""
    width = draw.choice((2, 4, 8))
    at = draw.randrange(len(data)) // width * width
    value = int.from_bytes(data[at : at + width], "little") + draw.randint(-4, 4)
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


def _lead_elsewhere(draw: random.Random, data: bytearray) -> None:
    """Let what may be an address lead to where another one leads, be it back to where it stands."""
    words = np.frombuffer(data, "<u8", len(data) // 8)
    found = np.flatnonzero((words > 0) & (words < len(data)))
    if not found.size:
        return
    first = draw.choice(found.tolist())
    other = int(words[draw.choice(found.tolist())])
    del words  # it holds the bytes
    data[8 * first : 8 * first + 8] = other.to_bytes(8, "little")


def _fill(draw: random.Random, data: bytearray) -> None:
    at, size = _span(draw, data)
    data[at : at + size] = bytes([draw.choice((0, 0xFF, draw.randrange(256)))]) * size


def _cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def _drop(draw: random.Random, data: bytearray) -> None:
    at, size = _span(draw, data)
    del data[at : at + size]


def _repeat(draw: random.Random, data: bytearray) -> None:
    at, size = _span(draw, data)
    data[at:at] = data[at : at + size]


def _move(draw: random.Random, data: bytearray) -> None:
    at, size = _span(draw, data)
    to = draw.randrange(len(data))
    piece = data[at : at + size]
    data[to : to + len(piece)] = piece


def _span(draw: random.Random, data: bytearray) -> tuple[int, int]:
    at = draw.randrange(len(data))
    return at, min(len(data) - at, draw.choice((1, 4, 8, 16, 64, 512, 4096)))


_CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip,
    _flip,
    _byte,
    _byte,
    _number,
    _number,
    _number,
    _more_or_less,
    _more_or_less,
    _lead_elsewhere,
    _lead_elsewhere,
    _fill,
    _cut,
    _drop,
    _repeat,
    _move,
)
