"""Texts that are a thousand times what they take: all rows say the same place, or are of one wide type."""

from __future__ import annotations

import shutil
import zlib
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["TEXTS", "WIDE"]

_TEXT = h5py.string_dtype()
_REFERENCE_BYTES = 16
"""Of a text in its rows: length, address of the heap, number in it."""


def _shared(name: str, n: int, length: int) -> Callable[[Path, Path], None]:
    """Let all of `n` rows be one text of `length`."""

    def make(good: Path, path: Path) -> None:
        shutil.copyfile(good, path)
        with h5py.File(path, "r+") as file:
            attributes = dict(file[name].attrs)
            del file[name]
            texts = file.create_dataset(name, (n,), _TEXT)
            texts[...] = ["x" * length, *["y"] * (n - 1)]
            texts.attrs.update(attributes)
            at = texts.id.get_offset()
        _repeat(path, at, n)

    return make


def _shared_attribute(good: Path, path: Path) -> None:
    shutil.copyfile(good, path)
    n, length = 64, 16 << 20
    with h5py.File(path, "r+") as file:
        file["obs"].attrs["column-order"] = ["x" * length, *["yyy"] * (n - 1)]
    data, size = path.read_bytes(), length.to_bytes(4, "little")
    at = data.find(size)
    while data[at + _REFERENCE_BYTES : at + _REFERENCE_BYTES + 4] != b"\3\0\0\0":
        at = data.index(size, at + 1)
    _repeat(path, at, n)


def _repeat(path: Path, at: int, n: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        first = file.read(_REFERENCE_BYTES)
        file.seek(at)
        file.write(first * n)


def _wide(name: str, n: int, width: int) -> Callable[[Path, Path], None]:
    """Let `n` rows be of `width` bytes, all of them zeros, and deflated."""

    def make(good: Path, path: Path) -> None:
        shutil.copyfile(good, path)
        packed = zlib.compress(bytes(width), 9)
        with h5py.File(path, "r+") as file:
            attributes = dict(file[name].attrs)
            del file[name]
            texts = file.create_dataset(name, (n,), f"S{width}", chunks=(1,), compression="gzip")
            for row in range(n):
                texts.id.write_direct_chunk((row,), packed)
            texts.attrs.update(attributes)

    return make


TEXTS: dict[str, Callable[[Path, Path], None]] = {
    "texts-shared-names": _shared("obs/_index", 24, 32 << 20),
    "texts-shared-genes": _shared("var/_index", 40, 32 << 20),
    "texts-shared-labels": _shared("obs/cell_type/categories", 1 << 12, 1 << 20),
    "texts-shared-attribute": _shared_attribute,
}
"""Made of the good file: called with both paths."""
WIDE: dict[str, Callable[[Path, Path], None]] = {"texts-wide-labels": _wide("obs/cell_type/categories", 34, 16 << 20)}
"""As well, where what a header declares is not believed up to a gigabyte."""
