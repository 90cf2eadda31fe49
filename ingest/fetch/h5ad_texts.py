"""Texts of an h5ad file, read in pieces that fit: of what a header declares of them nothing tells their length.

A text of any length takes 16 bytes, which say where in a heap it lies, and a thousand rows may say the same place. How
long the longest of a heap is, is known as soon as HDF5 reads the heap (`ingest.fetch.h5ad_bytes`), before it copies
one. Texts of a fixed length are as long as their type, and shrink to nothing on the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import HostileFileError
from ingest.fetch.h5ad_bytes import LONG_TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["MOST_LABEL_BYTES", "decoded_bytes", "read_texts", "read_whole"]

T = TypeVar("T")

MOST_LABEL_BYTES = 512 << 20
"""Of what is held whole: the labels of a column, the names of all genes."""
_AT_ONCE_BYTES = 64 << 20
_SPARE_BYTES, _ROW_BYTES = 64 << 20, 1 << 10
"""What one reading may come to: so much, and so much a row."""


def read_texts(opened: OpenH5ad, path: str, view: Any, width: int, start: int, stop: int) -> pa.StringArray:
    """Return the texts of rows ``[start, stop)``.

    Parameters
    ----------
    view
        What is sliced by rows: a dataset, or a field of one.
    width
        Bytes of each; 0 where each has its own length.

    Raises
    ------
    HostileFileError
        ``decoded-size``: they are longer than is believed of so many rows. Damaged, or not UTF-8.
    """
    parts: list[pa.StringArray] = []
    left = _SPARE_BYTES + _ROW_BYTES * (stop - start)
    while start < stop or not parts:
        step = min(stop - start, max(1, _AT_ONCE_BYTES // max(width or opened.longest_text, 1)))
        try:
            with opened.reading(path, texts=step):
                parts.append(_to_arrow(view[start : start + step]))
        except HostileFileError as error:
            if error.kind != LONG_TEXTS:
                raise
            continue  # it is known now how long they are, and fewer are read
        start += step
        left -= parts[-1].nbytes
        if left < 0:
            raise opened.error(path, "texts of more than a kilobyte a row", "decoded-size")
    return pa.concat_arrays(parts)


def decoded_bytes(values: pa.Array) -> int:
    """Return how long texts, or dictionary-encoded ones, are as they stand in rows."""
    if pa.types.is_dictionary(values.type):
        if not pa.types.is_string(values.dictionary.type):
            return int(values.nbytes)
        lengths = pc.binary_length(values.dictionary).cast(pa.int64()).take(values.indices)
        return pc.sum(lengths).as_py() or 0
    return int(values.nbytes)


def _to_arrow(values: Any) -> pa.StringArray:
    try:
        return pa.array(values.tolist(), pa.binary()).cast(pa.string())
    except pa.ArrowInvalid as error:
        raise UnicodeError(str(error)) from error


def read_whole(opened: OpenH5ad, path: str, read: Callable[[], T]) -> T:
    """Return what `read` makes of all that is at `path`, whose texts are looked at first where they may be long.

    Raises
    ------
    HostileFileError
        As of `read_texts`, for each of the arrays of texts; what `read` raises.
    """
    with opened.reading(path):
        sizes = {name: (int(node.size or 0), _width(node)) for name, node in _with_texts(opened.file[path], path)}
    most = max((n for n, _ in sizes.values()), default=0)
    if not any(n * max(width, opened.longest_text) > _AT_ONCE_BYTES for n, width in sizes.values()):
        try:
            with opened.reading(path, texts=most):
                return read()
        except HostileFileError as error:
            if error.kind != LONG_TEXTS:
                raise
    for name, (n, width) in sizes.items():
        _weigh(opened, name, n, width)
    with opened.reading(path):
        return read()


def _with_texts(node: h5py.Group | h5py.Dataset, path: str) -> Iterator[tuple[str, h5py.Dataset]]:
    if isinstance(node, h5py.Group):
        for name in node:
            yield from _with_texts(node[name], f"{path}/{name}")
    elif isinstance(node, h5py.Dataset) and (node.dtype.hasobject or node.dtype.kind == "S"):
        yield path, node


def _width(node: h5py.Dataset) -> int:
    return int(node.dtype.itemsize) if node.dtype.kind == "S" else 0


def _weigh(opened: OpenH5ad, path: str, n: int, width: int) -> None:
    node = opened.dataset(path)
    if width > _ROW_BYTES and n * width > MOST_LABEL_BYTES:
        raise opened.error(path, f"{n:,} texts of {width:,} bytes each", "decoded-size")
    if node.ndim == 1 and (width or h5py.check_string_dtype(node.dtype)):
        read_texts(opened, path, node, width, 0, n)
    elif n > 1 and n * max(width, opened.longest_text) > _AT_ONCE_BYTES:
        raise opened.error(path, f"{n:,} values that may all be a long one", "decoded-size")
