"""What a chunk file must not do to its reader, whatever its format: lead elsewhere, or grow beyond all measure."""

from __future__ import annotations

from typing import Any

import h5py

__all__ = ["load_filters", "most_bytes", "most_texts", "refuse_bombs", "refuse_detours", "texts_of"]

_PLUGIN_FILTERS = frozenset({32004, 32015})
"""lz4 and zstd, as registered with HDF5."""

_FREE_BYTES = 1 << 30
_RATIO = 64
"""Counts take 3 to 8 bytes for each of the file; gzip alone could make it a thousand."""


def most_bytes(file_bytes: int) -> int:
    """Return what the arrays of a file of that size may come to: one of 1.4 kB can declare 9 PB."""
    return _FREE_BYTES + _RATIO * file_bytes


def refuse_bombs(file: h5py.File, most: int, *, streamed: str = "") -> None:
    """Refuse a file whose arrays declare more than `most` bytes, before any is read.

    Parameters
    ----------
    streamed
        An array that is never read whole.
    """
    total = 0

    def node(name: str, found: h5py.Group | h5py.Dataset) -> str | None:
        nonlocal total
        if isinstance(found, h5py.Dataset) and name != streamed:
            total += (found.size or 0) * found.dtype.itemsize
        return f"arrays up to {name} declare {total:,} bytes, {most:,} are believed" if total > most else None

    if fault := file.visititems(node):
        raise ValueError(fault)


def refuse_detours(file: h5py.File) -> None:
    """Refuse whatever would make HDF5 read another file: a chunk in DEST may have been put there by anybody."""

    # A callback returns what it found to end the walk; an exception inside one would lose its message in HDF5.
    def link(name: str, found: object) -> str | None:
        return None if isinstance(found, h5py.HardLink) else f"{name} is a {type(found).__name__}"

    def node(name: str, found: h5py.Group | h5py.Dataset) -> str | None:
        elsewhere = isinstance(found, h5py.Dataset) and (found.is_virtual or found.external)
        return f"{name} keeps its data in another file" if elsewhere else None

    detour = file.visititems_links(link) or file.visititems(node)
    if detour:
        raise ValueError(detour)


def most_texts(file: h5py.File) -> int:
    """Return how many texts of any length one array has at most: in 16 bytes, each may name the same long one."""
    sizes = [1]

    def note(_: str, found: h5py.Group | h5py.Dataset) -> None:
        if isinstance(found, h5py.Dataset) and found.dtype.hasobject:
            sizes.append(found.size or 0)

    file.visititems(note)
    return max(sizes)


def load_filters(*datasets: h5py.Dataset) -> None:
    """Let HDF5 find the filters of the counts, where they are not its own."""
    for dataset in datasets:
        plist = dataset.id.get_create_plist()
        for at in range(plist.get_nfilters()):
            if plist.get_filter(at)[0] in _PLUGIN_FILTERS:
                import hdf5plugin  # noqa: F401 # importing registers them


def texts_of(dataset: Any) -> list[str]:
    """Return an array of texts, of fixed or of any length."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[()]]
