"""Write some rows and columns of one matrix of a file into another: copied as it is stored where nothing changes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from scipy import sparse

from ingest.encode.elements import encoding
from ingest.stream.files import writing
from ingest.stream.matrix.choose import Choice
from ingest.stream.matrix.dense import DenseRows
from ingest.stream.matrix.lines import Lines
from ingest.stream.matrix.source import lines_of
from ingest.stream.matrix.writer import write_dense, write_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.hdf5 import WritableFile
    from ingest.stream.matrix.work import Work

__all__ = ["Target", "copy_object", "dense_rows_of", "put_matrix", "rebatched", "sparse_type", "to_scipy"]

Array = np.ndarray[Any, Any]
Layout = Literal["csr", "csc", "dense"]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A file in the making."""

    file: WritableFile
    scratch: Path
    """Folder for what does not fit in memory."""
    work: Work


def put_matrix(
    source: OpenH5ad,
    ref: MatrixRef,
    target: Target,
    *,
    layout: Layout | None = None,
    path: str | None = None,
    rows: Array | None = None,
    columns: Array | None = None,
    dtype: Any = None,
) -> None:
    """Write a matrix.

    Parameters
    ----------
    layout
        None: as it is.
    path
        In the target; None: the same.
    rows, columns
        int64, in the order wanted, none twice; None: all.
    dtype
        Of values in the target; None: as they are.
    """
    kind = np.dtype(ref.dtype if dtype is None else dtype)
    path, layout = path or ref.path, layout or ref.layout
    if layout != "dense":
        kind = sparse_type(kind)
    if rows is None and columns is None and (layout, kind.name) == (ref.layout, ref.dtype) and _is_todays(source, ref):
        copy_object(source, ref.path, target.file, path)
    elif layout == "dense":
        shape = (ref.shape[0] if rows is None else len(rows), ref.shape[1] if columns is None else len(columns))
        blocks = dense_rows_of(source, ref, target, rows=rows, columns=columns)
        cast = (block.astype(kind, copy=False) for block in blocks)
        write_dense(target.file, path, shape, kind, cast, target.work)
    else:
        found = lines_of(source, ref, layout, target.work, target.scratch, rows=rows, columns=columns)
        lines = (replace(block, data=block.data.astype(kind, copy=False)) for block in found.blocks)
        write_lines(target.file, path, layout, found.shape, kind, lines, target.work, nnz=found.nnz)


def copy_object(source: OpenH5ad, path: str, file: h5py.File, to: str | None = None) -> None:
    """Copy a group or dataset as it is stored, compressed blocks and all."""
    to = to or path
    parent = to.rpartition("/")[0]
    if parent and parent not in file:
        file.create_group(parent).attrs.update(encoding("dict", "0.1.0"))
    with source.reading(path):
        h5py.h5o.copy(source.file.id, path.encode(), file.id, to.encode())


def _is_todays(source: OpenH5ad, ref: MatrixRef) -> bool:
    node = source.get(ref.path)
    return node is not None and "encoding-type" in node.attrs


def dense_rows_of(
    source: OpenH5ad, ref: MatrixRef, target: Target, *, rows: Array | None = None, columns: Array | None = None
) -> Iterator[Array]:
    """Yield rows as dense blocks ``(n, n_columns)``, in the order wanted."""
    work = target.work
    n_columns = ref.shape[1] if columns is None else len(columns)
    row_bytes = max(n_columns * np.dtype(ref.dtype).itemsize, 1)
    most = max(work.block_bytes // row_bytes, 1)
    if ref.layout != "dense":
        found = lines_of(source, ref, "csr", work, target.scratch, rows=rows, columns=columns)
        for lines in rebatched(found.blocks, most):
            # Through scipy entries that stand twice are added up, as they are meant.
            yield to_scipy(lines, n_columns, "csr").toarray().astype(ref.dtype, copy=False)
        return
    choice = Choice(rows, ref.shape[0])
    blocks = (block for _, block in DenseRows(source, ref, work, target.scratch).rows(choice.ascending))
    if columns is not None:
        blocks = (np.ascontiguousarray(block[:, columns]) for block in blocks)
    if choice.ranks is None:
        yield from blocks
    else:
        yield from _reordered(blocks, choice.ranks, (choice.n, n_columns), np.dtype(ref.dtype), target)


def _reordered(
    blocks: Iterator[Array], ranks: Array, shape: tuple[int, int], dtype: np.dtype[Any], target: Target
) -> Iterator[Array]:
    """Yield rows in another order, by way of an unnamed file that has room for each."""
    row_bytes = shape[1] * dtype.itemsize
    with (
        writing(target.scratch / "scratch"),
        tempfile.TemporaryFile(dir=target.scratch, prefix=".cell-ingest-") as file,
    ):
        at = 0
        for block in blocks:
            order = np.argsort(ranks[at : at + len(block)], kind="stable")
            _put_rows(file.fileno(), block[order], ranks[at : at + len(block)][order], row_bytes)
            at += len(block)
        most = max(target.work.block_bytes // max(row_bytes, 1), 1)
        for first in range(0, shape[0], most):
            part = np.zeros((min(most, shape[0] - first), shape[1]), dtype)
            view, offset = part.reshape(-1).view(np.uint8).data, first * row_bytes
            while view:
                done = os.preadv(file.fileno(), [view], offset)
                if not done:
                    raise OSError("the scratch file is shorter than what was written to it")
                view, offset = view[done:], offset + done
            yield part


def _put_rows(descriptor: int, block: Array, places: Array, row_bytes: int) -> None:
    """Write rows to ascending places, neighbours at once."""
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(places)], strict=True):
        view = np.ascontiguousarray(block[first:last]).reshape(-1).view(np.uint8).data
        offset = int(places[first]) * row_bytes
        while view:
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done


def rebatched(blocks: Iterator[Lines], n_lines: int) -> Iterator[Lines]:
    """Yield blocks of exactly `n_lines`, the last perhaps of fewer."""
    held: list[Lines] = []
    n_held = 0
    for block in blocks:
        begin = 0
        while begin < len(block):
            end = min(begin + n_lines - n_held, len(block))
            held.append(block.part(begin, end))
            n_held, begin = n_held + end - begin, end
            if n_held == n_lines:
                yield _joined(held)
                held, n_held = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[Lines]) -> Lines:
    if len(held) == 1:
        return held[0]
    lengths = np.concatenate([np.diff(block.indptr) for block in held])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    parts = [np.concatenate([getattr(block, name) for block in held]) for name in ("indices", "data")]
    return Lines(held[0].first, indptr, *parts)


def sparse_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which values of `dtype` stand in a sparse matrix: scipy has none of half precision."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def to_scipy(lines: Lines, n_places: int, kind: str) -> Any:
    """Return lines as a CSR matrix of rows or a CSC one of columns."""
    shape = (len(lines), n_places) if kind == "csr" else (n_places, len(lines))
    arrays = lines.data.astype(sparse_type(lines.data.dtype), copy=False), lines.indices, lines.indptr
    return sparse.csr_matrix(arrays, shape) if kind == "csr" else sparse.csc_matrix(arrays, shape)
