"""Whether the trees by which HDF5 finds names and blocks are trees, told from their nodes before HDF5 follows them.

HDF5 (2.0, tried) goes down a tree of version 1 by whatever level its nodes say: where one leads back to itself, until
the stack is full, which ends the process; where two lead to one, as often as there are ways. It goes along a level from
neighbour to neighbour, in a circle for ever. Of a tree of version 2 it takes memory for as many records as the header
says and believes that as many came: with fewer, it follows whatever that memory held. Of an array of blocks it asks for
each of as many as the array's header says. Format: "Version 1 B-trees", "Version 2 B-trees", "Fixed Array Index" and
"Extensible Array Index" in the HDF5 file format specification.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["INDICES", "Trees", "fault_of_array", "fault_of_tree_2"]

INDICES = re.compile(rb"TREE|BTHD\0|FAHD\0|EAHD\0")
"""How a node of version 1 begins, and the header of a tree of version 2, of a fixed and of an extensible array."""
_NODE = struct.Struct("<4sBBHQQ")
"""Signature, what it leads to, level, entries used, left and right neighbour."""
_GROUPS = 0
_NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
_ADDRESS = struct.Struct("<Q")

_HEADER = struct.Struct("<4sBBIHHBBQHQ")
"""Signature, version, type, bytes of a node and of a record, depth, two shares, root, its records, all records."""
_INNER = b"BTIN\0"
_AROUND_RECORDS = 10
"""Bytes of a node that are not for records: signature, version, type, checksum."""
_MOST_DEPTH = 16

_LENGTHS = {b"FAHD": 8, b"EAHD": 44}
"""Where the header of an array says of how many blocks it tells."""
_BLOCKS_UNWRITTEN = 1 << 24
"""An array may tell of so many more than have room in the file: those never written take none."""


class Trees:
    """What the nodes of version 1 that HDF5 has read so far say of each other.

    Parameters
    ----------
    rank
        Half the entries that a node of blocks has room for, as the file's superblock has it.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._own: dict[int, tuple[int, int]] = {}
        """By address, of the nodes read: what they lead to, level."""
        self._due: dict[int, tuple[int, int]] = {}
        """Of the nodes that were named by one above: the same."""
        self._beyond: dict[int, int] = {}
        """Of the nodes read: one further along their level, the last known where it was asked for."""

    def fault(self, address: int, node: memoryview) -> str | None:
        """Return what is wrong with a node that is about to be followed, or None; asked again, None.

        Parameters
        ----------
        address
            As others name it.
        node
            All of its bytes.
        """
        if len(node) < _NODE.size or address in self._own:
            return None
        _, leads_to, level, n, _, right = _NODE.unpack_from(node)
        self._own[address] = mine = leads_to, level
        if self._due.get(address, mine) != mine:
            return f"is of level {level}, and not the one below the node that leads to it"
        if right != _NOWHERE and self._leads_back(address, right):
            return "has neighbours in a circle"
        return self._fault_below(address, node, n) if level else None

    def _leads_back(self, address: int, right: int) -> bool:
        passed, end = [], right
        while end in self._beyond:
            passed.append(end)
            end = self._beyond[end]
        self._beyond.update(dict.fromkeys([*passed, address], end))
        return end == address

    def _fault_below(self, address: int, node: memoryview, n: int) -> str | None:
        leads_to, level = self._own[address]
        key = 8 if leads_to == _GROUPS else self._key_bytes(len(node))
        if key is None:
            return f"is {len(node):,} bytes long, which nobody writes"
        step, below = key + _ADDRESS.size, (leads_to, level - 1)
        for at in range(_NODE.size + key, min(len(node), _NODE.size + key + n * step) - _ADDRESS.size + 1, step):
            (child,) = _ADDRESS.unpack_from(node, at)
            if child in self._due:
                return "leads to one that another leads to, too"
            if self._own.get(child, below) != below:
                return "leads to one that is not below it"
            self._due[child] = below
        return None

    def _key_bytes(self, node_bytes: int) -> int | None:
        """Return how long what stands between the entries of a node of blocks is: 8 bytes, and 8 a dimension."""
        key, odd = divmod(node_bytes - _NODE.size - 2 * self._rank * _ADDRESS.size, 2 * self._rank + 1)
        return None if odd or key < 16 or key % 8 else key


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the nodes of a tree of version 2 are laid out."""

    node_bytes: int
    record_bytes: int
    most: list[int]
    """By height above the leaves: records of a node."""
    total_bytes: list[int]
    """By height: of the number of all records of a node and below it, as one above says it; 0 of leaves."""
    count_bytes: int
    """Of the number of a node's own."""

    @classmethod
    def of(cls, node_bytes: int, record_bytes: int, depth: int) -> _Shape:
        most = [max(0, node_bytes - _AROUND_RECORDS) // record_bytes]
        count_bytes, totals, total_bytes = _bytes_of(most[0]), [most[0]], [0]
        for height in range(1, depth + 1):
            pointer = _ADDRESS.size + count_bytes + total_bytes[height - 1]
            most.append(max(0, node_bytes - _AROUND_RECORDS - pointer) // (record_bytes + pointer))
            totals.append((most[height] + 1) * totals[height - 1] + most[height])
            total_bytes.append(_bytes_of(totals[height]))
        return cls(node_bytes, record_bytes, most, total_bytes, count_bytes)

    def below(self, node: bytes | bytearray, n: int, height: int) -> Iterator[tuple[int, int, int]]:
        """Yield of each node below one of `n` records: address, its records, all of them."""
        at = 6 + n * self.record_bytes
        for _ in range(n + 1):
            (address,) = _ADDRESS.unpack_from(node, at)
            at += _ADDRESS.size
            own = int.from_bytes(node[at : at + self.count_bytes], "little")
            at += self.count_bytes
            width = self.total_bytes[height - 1]
            total = int.from_bytes(node[at : at + width], "little") if width else own
            at += width
            yield address, own, total


def fault_of_tree_2(header: memoryview, peek: Callable[[int, int], bytes | bytearray], size_bytes: int) -> str | None:
    """Return what is wrong with a tree of version 2, or None: as many records as it says, each node in one place.

    Leaves are not read: what is above says how many records they have.

    Parameters
    ----------
    peek
        Returns so many bytes of the file at an address, fewer where it ends.
    size_bytes
        Of the file: its nodes have room in it.
    """
    if len(header) < _HEADER.size:
        return None
    _, _, _, node_bytes, record_bytes, depth, _, _, root, n, total = _HEADER.unpack_from(header)
    if root == _NOWHERE:
        return f"has no nodes, but {total:,} records" if n or total else None
    if not record_bytes or depth > _MOST_DEPTH:
        return f"has records of {record_bytes:,} bytes at a depth of {depth:,}"
    shape = _Shape.of(node_bytes, record_bytes, depth)
    seen: set[int] = set()
    left = [(root, n, total, depth)]
    while left:
        address, own, all_of_it, height = left.pop()
        if own > shape.most[height] or address in seen or len(seen) * node_bytes > size_bytes:
            return f"has nodes in two places, or one of {own:,} records"
        seen.add(address)
        if not height:
            if own != all_of_it:
                return f"has {own:,} of {all_of_it:,} records"
            continue
        node = peek(address, node_bytes)
        if len(node) < node_bytes or not node.startswith(_INNER):
            return None  # HDF5 refuses it by itself
        below = [(*found, height - 1) for found in shape.below(node, own, height)]
        if own + sum(part for _, _, part, _ in below) != all_of_it:
            return f"says that a node has {all_of_it:,} records, which it has not"
        left += below
    return None


def fault_of_array(header: memoryview, size_bytes: int) -> str | None:
    """Return what is wrong with an array of blocks of a file of that size, or None."""
    at = _LENGTHS[bytes(header[:4])]
    n = int.from_bytes(header[at : at + 8], "little")
    most = _BLOCKS_UNWRITTEN + size_bytes // _ADDRESS.size
    return f"tells of {n:,} blocks, more than a file of this size can hold" if n > most else None


def _bytes_of(number: int) -> int:
    """Return in how many bytes HDF5 writes numbers up to this one."""
    return (max(number, 1).bit_length() - 1) // 8 + 1
