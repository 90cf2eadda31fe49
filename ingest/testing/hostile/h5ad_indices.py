"""Trees and arrays by which HDF5 finds names and blocks, leading in circles or telling of what there is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py

__all__ = ["INDICES", "add_tall_trees", "add_todays_indices"]

_GROUPS, _BLOCKS = 0, 1
_KEYS = {_GROUPS: 8, _BLOCKS: 24}
"""Bytes between the addresses in a node: of names, and of blocks of one dimension."""


def add_tall_trees(file: h5py.File) -> None:
    """Have names and blocks of an open file of the usual format found by trees with nodes above nodes."""
    values, attributes = file["X/data"][()], dict(file["X/data"].attrs)
    del file["X/data"]
    file["X"].create_dataset("data", data=values, chunks=(1,)).attrs.update(attributes)
    for number in range(600):
        file["uns"].create_group(f"g{number}")


def add_todays_indices(file: h5py.File) -> None:
    """Have an open file of the latest format use each of its indices, of some size."""
    group = file.create_group("uns/many")
    for number in range(3000):
        group[f"a-name-that-is-long-enough-{number}"] = file["obs"]
    values = np.arange(1500, dtype=np.int32)
    file.create_dataset("uns/tree", data=values[:, None], chunks=(1, 1), maxshape=(None, None))
    file.create_dataset("uns/extensible", data=values, chunks=(1,), maxshape=(None,))
    file.create_dataset("uns/fixed", data=values, chunks=(1,))


def _nodes(data: bytes, leads_to: int) -> tuple[int, list[int]]:
    """Return where the one node above others of that kind lies, and those below it."""
    found, at = [], data.find(b"TREE")
    while at >= 0:
        found.append(at)
        at = data.find(b"TREE", at + 1)
    tops = [at for at in found if data[at + 4] == leads_to and data[at + 5]]
    if not tops:
        raise ValueError("no tree of the file has a node above others")
    top = tops[0]
    n, step = int.from_bytes(data[top + 6 : top + 8], "little"), _KEYS[leads_to] + 8
    places = range(top + 32 + _KEYS[leads_to] - 8, top + 24 + n * step, step)
    return top, [int.from_bytes(data[at : at + 8], "little") for at in places]


def _leading(leads_to: int, target: Callable[[int, list[int]], int]) -> Callable[[bytes], bytes]:
    """Let the second entry of the upper node lead elsewhere."""

    def spoil(good: bytes) -> bytes:
        top, below = _nodes(good, leads_to)
        at = top + 24 + 2 * _KEYS[leads_to] + 8
        return good[:at] + target(top, below).to_bytes(8, "little") + good[at + 8 :]

    return spoil


def _beside(leads_to: int, target: Callable[[int, list[int]], int]) -> Callable[[bytes], bytes]:
    """Let the upper node have a neighbour."""

    def spoil(good: bytes) -> bytes:
        at, below = _nodes(good, leads_to)
        return good[: at + 16] + target(at, below).to_bytes(8, "little") + good[at + 24 :]

    return spoil


INDICES: dict[str, Callable[[bytes], bytes]] = {
    "index-blocks-itself": _leading(_BLOCKS, lambda top, _: top),
    "index-names-itself": _leading(_GROUPS, lambda top, _: top),
    "index-blocks-twice": _leading(_BLOCKS, lambda _, below: below[0]),
    "index-names-twice": _leading(_GROUPS, lambda _, below: below[0]),
    "index-blocks-beside-itself": _beside(_BLOCKS, lambda top, _: top),
    "index-names-beside-itself": _beside(_GROUPS, lambda top, _: top),
}
"""Of the bytes of a good file with tall trees."""
