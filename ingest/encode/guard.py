"""What a chunk file must not do to its reader, whatever its format: lead elsewhere, or grow beyond all measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py

from ingest.fetch.h5ad_bytes import LONG_TEXTS

if TYPE_CHECKING:
    from ingest.fetch.h5ad_bytes import SourceBytes

__all__ = ["ChunkTexts", "load_filters", "most_bytes", "refuse_bombs", "refuse_detours"]

_LEAST_TEXT_BYTES = 64 << 20
"""Texts together may have so much of any chunk."""
_TEXT_BYTES_AT_ONCE = 32 << 20
"""What is read at once of them, were each the longest."""
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


def load_filters(*datasets: h5py.Dataset) -> None:
    """Let HDF5 find the filters of the counts, where they are not its own."""
    for dataset in datasets:
        plist = dataset.id.get_create_plist()
        for at in range(plist.get_nfilters()):
            if plist.get_filter(at)[0] in _PLUGIN_FILTERS:
                import hdf5plugin  # noqa: F401 # importing registers them


class ChunkTexts:
    """Reads the arrays of texts of one chunk.

    A text that has its own length takes 16 bytes, which say where it lies, and all rows may name the same long one. In
    what is honest each stands there once, so that together they are no longer than the file.

    Parameters
    ----------
    stream
        What HDF5 reads the chunk from: it knows how long the longest text of a heap is.
    """

    def __init__(self, stream: SourceBytes) -> None:
        self._stream = stream
        self._left = max(stream.size, _LEAST_TEXT_BYTES)

    def __call__(self, dataset: h5py.Dataset) -> list[str]:
        """Return an array of texts, of fixed or of any length.

        Raises
        ------
        ValueError
            All that were read are longer together than the chunk has room for.
        """
        values = self._in_pieces(dataset) if dataset.dtype.hasobject and dataset.ndim == 1 else dataset[()]
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

    def _in_pieces(self, dataset: h5py.Dataset) -> list[Any]:
        values: list[Any] = []
        while len(values) < len(dataset):
            n = min(len(dataset) - len(values), max(1, _TEXT_BYTES_AT_ONCE // max(self._stream.longest_text, 1)))
            piece = self._piece(dataset, len(values), n)
            self._left -= sum(map(len, piece))
            if self._left < 0:
                raise ValueError(f"{dataset.name} has texts longer than the chunk has room for")
            values += piece
        return values

    def _piece(self, dataset: h5py.Dataset, start: int, n: int) -> list[Any]:
        """Return `n` texts, or none where it is known only now that so many may be too long."""
        self._stream.texts_at_once = n
        try:
            return list(dataset[start : start + n])
        except Exception:
            failure, self._stream.failure = self._stream.failure, None
            if failure is None or failure.kind != LONG_TEXTS:
                raise
            return []
        finally:
            self._stream.texts_at_once = 1
