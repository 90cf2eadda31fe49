"""Write a CSR or CSC matrix, or a dense one, as its lines come: deflated on threads, into HDF5 as they are."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.array_stream import BLOCK
from ingest.encode.elements import encoding
from ingest.encode.shuffle import shuffle
from ingest.stream.matrix.lines import index_type

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    import h5py

    from ingest.stream.hdf5 import WritableFile
    from ingest.stream.matrix.lines import Lines
    from ingest.stream.matrix.work import Work

__all__ = ["write_dense", "write_lines"]

Array = np.ndarray[Any, Any]

_DENSE_BLOCK_BYTES = 1 << 20


def write_lines(
    file: WritableFile,
    path: str,
    layout: str,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    blocks: Iterable[Lines],
    work: Work,
    *,
    nnz: int | None = None,
) -> int:
    """Write a sparse matrix; return how many entries it has.

    Parameters
    ----------
    layout
        ``csr`` or ``csc``: what the lines are.
    dtype
        Of values; those of `blocks` have its width.
    nnz
        How many entries come, where that is known.
    """
    group = file.create_group(path)
    group.attrs.update({**encoding(f"{layout}_matrix", "0.1.0"), "shape": np.array(shape, np.int64)})
    n_lines, n_places = shape if layout == "csr" else shape[::-1]
    data = _Array(group, "data", dtype, work, nnz)
    indices = _Array(group, "indices", index_type(n_places), work, nnz)
    lengths = [np.zeros(1, np.int64)]
    for block in blocks:
        lengths.append(np.diff(block.indptr))
        data.add(block.data)
        indices.add(block.indices)
        file.check()
    for array in (data, indices):
        array.finish()
    indptr = np.cumsum(np.concatenate(lengths))
    if len(indptr) != n_lines + 1:
        raise ValueError(f"{len(indptr) - 1} lines of {n_lines}")
    # int32 as scipy has it: it would widen the indices to match wider pointers.
    kind = index_type(int(indptr[-1]))
    pointers = _Array(group, "indptr", kind, work, len(indptr))
    pointers.add(indptr.astype(kind))
    pointers.finish()
    return int(indptr[-1])


def write_dense(
    file: WritableFile, path: str, shape: tuple[int, int], dtype: np.dtype[Any], blocks: Iterable[Array], work: Work
) -> None:
    """Write a dense matrix of `blocks` of rows, each ``(n, n_columns)``."""
    if 0 in shape:
        file.create_dataset(path, shape, dtype).attrs.update(encoding("array"))
        return
    columns = min(shape[1], _DENSE_BLOCK_BYTES // dtype.itemsize)
    rows = max(min(_DENSE_BLOCK_BYTES // (columns * dtype.itemsize), shape[0]), 1)
    dataset = file.create_dataset(
        path, shape, dtype, chunks=(rows, columns), compression="gzip", compression_opts=work.level, shuffle=True
    )
    dataset.attrs.update(encoding("array"))
    pending, rest, at = _Pending(dataset, work), np.empty((0, shape[1]), dtype), 0
    for block in blocks:
        held = np.concatenate([rest, block]) if len(rest) else block
        whole = len(held) // rows * rows
        for start in range(0, whole, rows):
            _put_band(pending, held[start : start + rows], at + start, rows, columns)
        at, rest = at + whole, held[whole:].copy()
        file.check()
    if len(rest):
        _put_band(pending, rest, at, rows, columns)
    pending.finish()


def _put_band(pending: _Pending, band: Array, at: int, rows: int, columns: int) -> None:
    for column in range(0, band.shape[1], columns):
        part = np.zeros((rows, columns), band.dtype)
        inside = band[:, column : column + columns]
        part[: len(inside), : inside.shape[1]] = inside
        pending.put((at, column), part.reshape(-1), rows * columns)


class _Array:
    """One array of one dimension in the making: full blocks are compressed and written, the rest is kept."""

    def __init__(self, group: h5py.Group, name: str, dtype: np.dtype[Any], work: Work, n: int | None) -> None:
        self._length = BLOCK if n is None else max(min(BLOCK, n), 1)
        self._n, self._done = n, 0
        # Where nothing comes, an array without chunks: HDF5 has no use for a filter then.
        if n == 0:
            self._dataset = group.create_dataset(name, (0,), dtype)
        else:
            self._dataset = group.create_dataset(
                name,
                (n or 0,),
                dtype,
                chunks=(self._length,),
                maxshape=(n,),
                compression="gzip",
                compression_opts=work.level,
                shuffle=True,
            )
        self._dataset.attrs.update(encoding("array"))
        self._pending = _Pending(self._dataset, work)
        self._rest: list[Array] = []
        self._n_rest = 0

    def add(self, values: Array) -> None:
        """Take the next values, which must not change any more."""
        start = 0
        if self._n_rest:
            start = min(self._length - self._n_rest, len(values))
            self._keep(values[:start])
        while len(values) - start >= self._length:
            self._put(values[start : start + self._length])
            start += self._length
        self._keep(values[start:])

    def _keep(self, values: Array) -> None:
        if not len(values):
            return
        self._rest.append(values.copy())  # a view would keep all of a block
        self._n_rest += len(values)
        if self._n_rest == self._length:
            self._put(np.concatenate(self._rest))
            self._rest, self._n_rest = [], 0

    def _put(self, values: Array) -> None:
        at, self._done = self._done, self._done + len(values)
        if self._n is None:
            self._dataset.resize((self._done,))
        self._pending.put((at,), values, self._length)

    def finish(self) -> None:
        """Write what is left."""
        if self._n_rest:
            self._put(np.concatenate(self._rest))
        self._pending.finish()
        if self._n is not None and self._done != self._n:
            raise ValueError(f"{self._done:,} values of {self._n:,} for {self._dataset.name}")


class _Pending:
    """Blocks of one dataset being compressed, written in order."""

    def __init__(self, dataset: h5py.Dataset, work: Work) -> None:
        self._dataset, self._work = dataset, work
        self._under_way: deque[tuple[tuple[int, ...], Future[bytes]]] = deque()

    def put(self, at: tuple[int, ...], values: Array, length: int) -> None:
        """Take a block of up to `length` values; zeros follow."""
        while len(self._under_way) > 2 * self._work.threads:
            self._write()
        self._under_way.append((at, self._work.pool.submit(self._compressed, values, length)))

    def finish(self) -> None:
        """Wait for all."""
        while self._under_way:
            self._write()

    def _compressed(self, values: Array, length: int) -> bytes:
        numbers = values.view(np.uint8) if values.dtype == np.bool_ else values
        return self._work.filter.compress(shuffle(numbers, length).data, values.itemsize)

    def _write(self) -> None:
        at, block = self._under_way.popleft()
        self._dataset.id.write_direct_chunk(at, block.result())
