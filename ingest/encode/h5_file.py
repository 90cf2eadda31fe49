"""Write HDF5 in memory through its low-level calls: many small objects a file, where h5py's comfortable ones cost most.

Object headers are those of HDF5 1.10 (2016): small, checksummed, without timestamps. Chunked datasets take blocks that
were compressed elsewhere, so that nothing is compressed under HDF5's lock.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5o, h5p, h5s, h5t

from ingest.encode.base import Offsets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.encode.filters import Filter

__all__ = ["H5File"]

Array = np.ndarray[Any, Any]

_TEXT = h5py.string_dtype()
_TEXT_TYPE = h5t.py_create(_TEXT, logical=True)
_TEXT_IN_MEMORY = h5t.py_create(_TEXT)  # references to Python's own
_SCALAR = h5s.create(h5s.SCALAR)


def _group_properties() -> h5p.PropGCID:
    plist = h5p.create(h5p.GROUP_CREATE)
    plist.set_obj_track_times(False)
    return plist


def _dataset_properties(layout: int, fill: int = h5d.FILL_TIME_NEVER) -> h5p.PropDCID:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    plist.set_layout(layout)
    plist.set_fill_time(fill)
    return plist


_GROUP = _group_properties()
_COMPACT = _dataset_properties(h5d.COMPACT)
_CONTIGUOUS = _dataset_properties(h5d.CONTIGUOUS)
_REFERENCES = _dataset_properties(h5d.CONTIGUOUS, h5d.FILL_TIME_IFSET)
"""For texts of any length, which lie elsewhere in the file: HDF5 wants their references filled."""
_COMPACT_BYTES = 1024
"""Arrays up to this size lie in their object's header: no seek to read them, and no gain from a filter."""


class H5File:
    """A file in the making.

    Parameters
    ----------
    template
        The bytes of a file to begin with.
    """

    def __init__(self, template: bytes | None = None) -> None:
        self._buffer = io.BytesIO(template or b"")
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
        access.set_fclose_degree(h5f.CLOSE_STRONG)  # else an object still in somebody's hands keeps the file open
        access.set_fileobj_driver(h5fd.fileobj_driver, self._buffer)
        if template is None:
            untimed = h5p.create(h5p.FILE_CREATE)
            untimed.set_obj_track_times(False)
            self._file = h5f.create(b"chunk", h5f.ACC_TRUNC, fcpl=untimed, fapl=access)
        else:
            self._file = h5f.open(b"chunk", h5f.ACC_RDWR, fapl=access)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file.valid:
            self._file.close()

    def image(self) -> memoryview:
        """Close the file and return its bytes."""
        self._file.close()
        return self._buffer.getbuffer()

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the file's root."""
        _describe(h5g.open(self._file, b"/"), attributes)

    def group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Create the group `path`."""
        _describe(h5g.create(self._file, path.encode(), gcpl=_GROUP), attributes)

    def link(self, path: str, new: str) -> None:
        """Give the object at `path` another name: a hard link, which nothing tells from the first."""
        h5o.link(h5o.open(self._file, path.encode()), self._file, new.encode())

    def array(self, path: str, values: Array, attributes: Mapping[str, Any]) -> None:
        """Create a dataset of `values` ``(n,)`` as they are, numbers or texts."""
        kind = _kind(values.dtype)
        small = 0 < values.nbytes <= _COMPACT_BYTES
        layout = _REFERENCES if values.dtype == _TEXT else _COMPACT if small else _CONTIGUOUS
        node = h5d.create(self._file, path.encode(), kind, h5s.create_simple(values.shape), layout)
        if len(values):
            node.write(h5s.ALL, h5s.ALL, values, None if layout is _REFERENCES else kind)
        _describe(node, attributes)

    def pieces(self, path: str, dtype: np.dtype[Any], pieces: Sequence[bytes]) -> Offsets:
        """Create a dataset of numbers without a filter from consecutive pieces of it, in one place of the file."""
        lengths = [len(piece) // dtype.itemsize for piece in pieces]
        total, kind = sum(lengths), _kind(dtype)
        place = h5s.create_simple((total,))
        node = h5d.create(self._file, path.encode(), kind, place, _CONTIGUOUS)
        start = 0
        for piece, length in zip(pieces, lengths, strict=True):
            place.select_hyperslab((start,), (length,))
            node.write(h5s.create_simple((length,)), place, np.frombuffer(piece, dtype), kind)
            start += length
        at = node.get_offset()  # None: an array of nothing has no place in the file
        whole = () if at is None else (int(at),)
        return Offsets(path, (max(total, 1),), whole, tuple(total * dtype.itemsize for _ in whole))

    def blocks(
        self,
        path: str,
        dtype: np.dtype[Any],
        shape: tuple[int, int],
        blocks: Sequence[bytes],
        how: Filter,
        attributes: Mapping[str, Any] | None = None,
    ) -> Offsets:
        """Create a chunked dataset from blocks compressed by `how`.

        Parameters
        ----------
        shape
            Values in all, more than 0, and values in a block, which the last one has too.
        """
        total, length = shape
        plist = _dataset_properties(h5d.CHUNKED)
        plist.set_chunk((length,))
        how.describe(plist)
        kind = _kind(dtype)
        node = h5d.create(self._file, path.encode(), kind, h5s.create_simple((total,)), plist)
        for at, block in enumerate(blocks):
            node.write_direct_chunk((at * length,), block)
        _describe(node, attributes or {})
        infos: list[Any] = []
        node.chunk_iter(infos.append)
        infos.sort(key=lambda info: info.chunk_offset)
        return Offsets(
            path, (length,), tuple(int(info.byte_offset) for info in infos), tuple(int(info.size) for info in infos)
        )


def _describe(node: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if isinstance(value, str):
            h5a.create(node, name.encode(), _TEXT_TYPE, _SCALAR).write(_text(value), mtype=_TEXT_IN_MEMORY)
        else:
            values = np.asarray(value)
            place = h5s.create_simple(values.shape) if values.shape else _SCALAR
            h5a.create(node, name.encode(), _kind(values.dtype), place).write(values)


@lru_cache(maxsize=64)  # the same few stand at every object
def _text(text: str) -> Array:
    return np.array(text, _TEXT)


@lru_cache(maxsize=256)
def _type_of(dtype: np.dtype[Any]) -> Any:
    return h5t.py_create(dtype, logical=True)


def _kind(dtype: np.dtype[Any]) -> Any:
    """Return HDF5's type; of texts it is told by metadata, which equal dtypes may differ in."""
    return h5t.py_create(dtype, logical=True) if dtype.metadata else _type_of(dtype)
