"""Arrays on the disk as arrays in memory; none is read before somebody looks at it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.load.memmap.names import FileNames, Mode

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["create_array", "entries_of", "map_array"]

Array = np.ndarray[Any, Any]

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def map_array(folder: Path, name: FileNames, dtype: str, mode: Mode = Mode.READ_APPEND) -> np.memmap[Any, Any]:
    """Map one array of an archive, for writing where `mode` and the disk allow it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    CorruptError
        It is no whole number of entries (kind ``scdl-array``).
    """
    path = folder / name.value
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"The mmap file at {path} is missing") from None
    if size < 2 and np.dtype(dtype).itemsize > 1:  # neighbours where no cell has any: numpy writes one byte of nothing
        size = 0
    length = entries_of(path, size, dtype)
    if not size:
        return np.empty(0, dtype).view(np.memmap)
    try:
        return np.memmap(path, dtype, "r" if mode is Mode.READ else "r+", shape=(length,))
    except OSError as error:
        if error.errno not in _READ_ONLY or mode is Mode.READ:
            raise
        return np.memmap(path, dtype, "r", shape=(length,))


def entries_of(path: Path, size: int, dtype: str) -> int:
    """Return how many entries a file of `size` bytes has.

    Raises
    ------
    CorruptError
        No whole number of them (kind ``scdl-array``).
    """
    length, over = divmod(size, np.dtype(dtype).itemsize)
    if over:
        said = f"{path} has {size:,} bytes, which is no whole number of {dtype} entries"
        raise CorruptError(
            said, kind="scdl-array", hint="convert it again: the file was cut or its header is another's"
        )
    return length


def create_array(folder: Path, name: FileNames, dtype: str, length: int) -> np.memmap[Any, Any]:
    """Make an array, all zero."""
    return np.memmap(folder / name.value, dtype, Mode.CREATE_APPEND.value, shape=(length,))
