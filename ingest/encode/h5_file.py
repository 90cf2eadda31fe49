"""Write HDF5 in memory through its low-level calls: many small objects a file, where h5py's comfortable ones cost most.

Object headers are those of HDF5 1.10 (2016): small, checksummed, without timestamps. Chunked datasets take blocks that
were compressed elsewhere, so that nothing is compressed under HDF5's lock.
"""

from __future__ import annotations

import io
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5o, h5p, h5s, h5t

from ingest.encode.base import Offsets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ingest.encode.filters import Filter

__all__ = ["COMPACT_BYTES", "H5File"]

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
COMPACT_BYTES = 1024
"""Arrays up to this size lie in their object's header: no seek to read them, and no gain from a filter."""


class H5File:
    """A file in the making.

    Parameters
    ----------
    template
        The bytes of a file to begin with.
    patches
        Bytes in it to replace, by their place.
    """

    def __init__(self, template: bytes | None = None, patches: Mapping[int, bytes] | None = None) -> None:
        self._buffer = io.BytesIO(template or b"")
        for place, raw in (patches or {}).items():
            self._buffer.seek(place)
            self._buffer.write(raw)
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
        access.set_fclose_degree(h5f.CLOSE_STRONG)  # else an object still in somebody's hands keeps the file open
        access.set_fileobj_driver(h5fd.fileobj_driver, self._buffer)
        try:
            if template is None:
                untimed = h5p.create(h5p.FILE_CREATE)
                untimed.set_obj_track_times(False)
                self._file = h5f.create(b"chunk", h5f.ACC_TRUNC, fcpl=untimed, fapl=access)
            else:
                self._file = h5f.open(b"chunk", h5f.ACC_RDWR, fapl=access)
        finally:
            access.close()  # it keeps the buffer (`ingest.fetch.h5ad_bytes`)

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

    def room(self, path: str, n: int, dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> int:
        """Create a dataset of `n` numbers, more than 0, that are zeros for now; return where in the file they lie.

        There they may be overwritten without HDF5: nothing sums over them.
        """
        node = h5d.create(self._file, path.encode(), _kind(dtype), _place((n,)), _CONTIGUOUS)
        node.write(h5s.ALL, h5s.ALL, np.zeros(n, dtype), _kind(dtype))
        _describe(node, attributes)
        return int(node.get_offset())

    def group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Create the group `path`."""
        _describe(h5g.create(self._file, path.encode(), gcpl=_GROUP), attributes)

    def link(self, path: str, new: str) -> None:
        """Give the object at `path` another name: a hard link, which nothing tells from the first."""
        h5o.link(h5o.open(self._file, path.encode()), self._file, new.encode())

    def array(self, path: str, values: Array, attributes: Mapping[str, Any]) -> None:
        """Create a dataset of `values` ``(n,)`` as they are, numbers or texts."""
        kind = _kind(values.dtype)
        small = 0 < values.nbytes <= COMPACT_BYTES
        layout = _REFERENCES if values.dtype == _TEXT else _COMPACT if small else _CONTIGUOUS
        node = h5d.create(self._file, path.encode(), kind, _place(values.shape), layout)
        if len(values):
            node.write(h5s.ALL, h5s.ALL, values, None if layout is _REFERENCES else kind)
        _describe(node, attributes)

    def pieces(self, path: str, dtype: np.dtype[Any], shape: tuple[int, ...], pieces: Iterable[bytes]) -> Offsets:
        """Create a dataset of numbers without a filter, in one place of the file.

        Parameters
        ----------
        pieces
            Its rows (entries, where it has one dimension), whole, in order.
        """
        kind, place = _kind(dtype), h5s.create_simple(shape)
        node = h5d.create(self._file, path.encode(), kind, place, _CONTIGUOUS)
        start, rest = 0, shape[1:]
        for piece in pieces:
            values = np.frombuffer(piece, dtype).reshape(-1, *rest)
            place.select_hyperslab((start, *(0 for _ in rest)), values.shape)
            node.write(h5s.create_simple(values.shape), place, values, kind)
            start += len(values)
        at = node.get_offset()  # None: an array of nothing has no place in the file
        whole = () if at is None else (int(at),)
        sizes = tuple(prod(shape) * dtype.itemsize for _ in whole)
        return Offsets(path, (max(shape[0], 1), *rest), whole, sizes)

    def blocks(
        self,
        path: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        length: int,
        blocks: Iterable[bytes],
        how: Filter,
        attributes: Mapping[str, Any] | None = None,
    ) -> Offsets:
        """Create a chunked dataset from blocks compressed by `how`.

        Parameters
        ----------
        shape
            Of the whole, which is not empty.
        length
            Rows (entries, where it has one dimension) in a block, which the last one has too.
        """
        chunk = (length, *shape[1:])
        node = h5d.create(self._file, path.encode(), _kind(dtype), _place(shape), _chunked(chunk, how))
        for at, block in enumerate(blocks):
            node.write_direct_chunk((at * length, *(0 for _ in shape[1:])), block)
        _describe(node, attributes or {})
        return _offsets(path, chunk, node)

    def blocks_in_turn(
        self, arrays: Mapping[str, tuple[np.dtype[Any], Iterable[bytes]]], n: int, length: int, how: Filter
    ) -> list[Offsets]:
        """Create chunked datasets of `n` entries each, from blocks of `length` that are written in turn.

        What the arrays hold of the same entries then lies together in the file: one read, one request.

        Parameters
        ----------
        arrays
            Path to type and compressed blocks, equally many of each.
        """
        nodes = {
            path: h5d.create(self._file, path.encode(), _kind(dtype), _place((n,)), _chunked((length,), how))
            for path, (dtype, _) in arrays.items()
        }
        for at, blocks in enumerate(zip(*(blocks for _, blocks in arrays.values()), strict=True)):
            for node, block in zip(nodes.values(), blocks, strict=True):
                node.write_direct_chunk((at * length,), block)
        return [_offsets(path, (length,), node) for path, node in nodes.items()]


def _offsets(path: str, chunk: tuple[int, ...], node: h5d.DatasetID) -> Offsets:
    infos: list[Any] = []
    node.chunk_iter(infos.append)
    infos.sort(key=lambda info: info.chunk_offset)
    return Offsets(path, chunk, tuple(int(info.byte_offset) for info in infos), tuple(int(info.size) for info in infos))


def _describe(node: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if isinstance(value, str):
            h5a.create(node, name.encode(), _TEXT_TYPE, _SCALAR).write(_text(value), mtype=_TEXT_IN_MEMORY)
        else:
            values = np.asarray(value)
            h5a.create(node, name.encode(), _kind(values.dtype), _place(values.shape)).write(values)


@lru_cache(maxsize=64)
def _place(shape: tuple[int, ...]) -> Any:
    """Return HDF5's dataspace: shared, so nobody may select in it."""
    return h5s.create_simple(shape) if shape else _SCALAR


@lru_cache(maxsize=64)
def _chunked(shape: tuple[int, ...], how: Filter) -> h5p.PropDCID:
    plist = _dataset_properties(h5d.CHUNKED)
    plist.set_chunk(shape)
    how.describe(plist)
    return plist


@lru_cache(maxsize=64)  # the same few stand at every object
def _text(text: str) -> Array:
    return np.array(text, _TEXT)


@lru_cache(maxsize=256)
def _type_of(dtype: np.dtype[Any]) -> Any:
    return h5t.py_create(dtype, logical=True)


@lru_cache(maxsize=256)
def _text_type(encoding: str, length: int | None) -> Any:
    return h5t.py_create(h5py.string_dtype(encoding, length), logical=True)


def _kind(dtype: np.dtype[Any]) -> Any:
    """Return HDF5's type; of texts it is told by metadata, which equal dtypes may differ in."""
    text = h5py.check_string_dtype(dtype) if dtype.metadata else None
    return _type_of(dtype) if text is None else _text_type(*text)
