"""Damage below HDF5: files cut, superblocks that lie, nodes of trees and heaps that say what is not so."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BYTES", "RAW"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda good: good[: int(len(good) * share)]


def _at(place: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda good: good[:place] + new + good[place + len(new) :]


def _node(
    signature: bytes, offset: int, new: bytes, *, which: int = 0, every: bool = False
) -> Callable[[bytes], bytes]:
    """Write `new` at `offset` of the node number `which` with that signature, or of all."""

    def change(good: bytes) -> bytes:
        data, places, at = bytearray(good), [], good.find(signature)
        while at >= 0:
            places.append(at)
            at = good.find(signature, at + 1)
        for place in places if every else places[which : which + 1]:
            data[place + offset : place + offset + len(new)] = new
        return bytes(data)

    return change


def _free_block_itself(good: bytes) -> bytes:
    """Let the first free block of each group's heap of names name itself as the next."""
    data, at = bytearray(good), good.find(b"HEAP\0\0\0\0")
    while at >= 0:
        free, address = struct.unpack_from("<QQ", good, at + 16)
        if free != 1:  # none
            data[address + free : address + free + 8] = free.to_bytes(8, "little")
        at = good.find(b"HEAP\0\0\0\0", at + 1)
    return bytes(data)


_TOP = b"\xff" * 8

BYTES: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut-{percent:02d}": _cut(percent / 100) for percent in (1, 5, 12, 25, 40, 55, 70, 85, 95, 99)},
    "cut-last-byte": lambda good: good[:-1],
    "cut-after-signature": lambda good: good[:8],
    "cut-in-superblock": lambda good: good[:50],
    "superblock-version": _at(8, b"\xff"),
    "superblock-version-2": _at(8, b"\x02"),
    "superblock-offset-size": _at(13, b"\x03"),
    "superblock-length-size": _at(14, b"\xff"),
    "superblock-leaf-zero": _at(16, b"\0\0\0\0"),
    "superblock-base": _at(24, b"\0\0\1\0\0\0\0\0"),
    "superblock-end-small": _at(40, b"\0\2\0\0\0\0\0\0"),
    "superblock-end-huge": _at(40, b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "superblock-driver-block": _at(48, b"\x60\0\0\0\0\0\0\0"),
    "root-beyond": _at(64, b"\xff\xff\xff\0\0\0\0\0"),
    "root-is-superblock": _at(64, bytes(8)),
    "root-tree-elsewhere": _at(80, b"\x20\0\0\0\0\0\0\0"),
    "tree-signature": _node(b"TREE", 0, b"TREX"),
    "tree-level": _node(b"TREE", 5, b"\xff"),
    "tree-count": _node(b"TREE", 6, b"\xff\xff", every=True),
    "tree-child-itself": _node(b"TREE", 32, (96 + 40).to_bytes(8, "little"), every=True),
    "tree-sibling": _node(b"TREE", 8, b"\x88\0\0\0\0\0\0\0", every=True),
    "tree-child-beyond": _node(b"TREE", 32, _TOP[:7] + b"\0", every=True),
    "symbols-count": _node(b"SNOD", 6, b"\xff\xff", every=True),
    "symbols-zero": _node(b"SNOD", 6, b"\0\0", every=True),
    "symbols-name-beyond": _node(b"SNOD", 8, b"\xff\xff\xff\0\0\0\0\0", every=True),
    "symbols-header-beyond": _node(b"SNOD", 16, b"\xff\xff\xff\0\0\0\0\0", every=True),
    "heap-size": _node(b"HEAP", 8, _TOP[:7] + b"\x0f", every=True),
    "heap-free-list": _node(b"HEAP", 16, b"\0\0\0\0\0\0\0\0", every=True),
    "heap-data-elsewhere": _node(b"HEAP", 24, b"\0\0\0\0\0\0\0\0", every=True),
    "heap-free-block-itself": _free_block_itself,
    "texts-size-zero": _node(b"GCOL", 8, bytes(8)),
    "texts-size-huge": _node(b"GCOL", 8, _TOP[:7] + b"\x0f"),
    "texts-object-zero": _node(b"GCOL", 24, bytes(8)),
    "texts-object-huge": _node(b"GCOL", 24, b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "texts-signature": _node(b"GCOL", 0, b"GCOX", every=True),
    "zeroed-middle": lambda good: good[: len(good) // 3] + bytes(len(good) // 3) + good[2 * len(good) // 3 :],
    "ones-middle": lambda good: good[: len(good) // 3] + b"\xff" * 256 + good[len(good) // 3 + 256 :],
    "followed": lambda good: good + b"\xa5" * 4096,
    "twice": lambda good: good + good,
    "user-block": lambda good: bytes(512) + good,
    "reversed": lambda good: good[::-1],
}
"""Of the good file's bytes."""

RAW: dict[str, bytes] = {
    "zeros": bytes(4096),
    "signature-alone": _SIGNATURE,
    "signature-and-zeros": _SIGNATURE + bytes(4096),
    "signature-at-2048": bytes(2048) + _SIGNATURE + bytes(2048),
    "signatures": _SIGNATURE * 512,
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3" + bytes(64),
    "zip": b"PK\3\4" + bytes(64),
    "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\5posix\x8c\6system\x93.",
}
"""Whatever the good file is."""
