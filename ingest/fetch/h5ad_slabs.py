"""Read rows of a CSR or dense matrix by slabs bounded in bytes: which slabs is planned first, then they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.errors import HostileFileError
from ingest.fetch.assemble import Assembled, CooAssembler, csr_rows, dense_rows
from ingest.fetch.values import plain_indices, plain_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    import h5py

    from ingest.fetch.assemble import GeneMap
    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = [
    "CsrReader",
    "DenseReader",
    "Entries",
    "H5Entries",
    "Pointers",
    "RowReader",
    "Slab",
    "plan_runs",
    "read_slice",
]

Array = np.ndarray[Any, Any]

_MERGE_BYTES = 128 << 10
_REMOTE_MERGE_BYTES = 1 << 20
_MERGE_ROWS = 1 << 16
_POINTERS = 1 << 20
_WORKING_BYTES = 12
"""Per entry: the copies that type conversion and assembly make of a slab."""


@dataclass(frozen=True, slots=True)
class Slab:
    """Wanted rows ``[first, last)`` of an ascending list, read together."""

    first: int
    last: int


def plan_runs(starts: Array, ends: Array, rows: Array, *, merge: int, most: int) -> list[Slab]:
    """Cut ascending rows into slabs of at most `most` entries, bridging gaps of up to `merge` entries.

    Pure. A single row may exceed `most`.

    Parameters
    ----------
    starts, ends
        int64 ``(n,)``: the entries of each row, ascending.
    rows
        int64 ``(n,)``: their numbers; gaps of very many empty rows are not bridged.
    """
    cuts = np.flatnonzero((starts[1:] - ends[:-1] > merge) | (np.diff(rows) > _MERGE_ROWS)) + 1
    slabs = []
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True):
        at = first
        while at < last:
            fits = int(np.searchsorted(ends[at:last], starts[at] + most, side="right"))
            slabs.append(Slab(at, at + max(fits, 1)))
            at += max(fits, 1)
    return slabs


def read_slice(file: OpenH5ad, path: str, dataset: h5py.Dataset, where: Any) -> Array:
    """Read a slice of the dataset at `path` as a numpy array, library faults turned into the project's errors."""
    with file.reading(path):
        values: Array = dataset[where]
    return values


class Entries(Protocol):
    """Where the entries of a CSR or CSC matrix lie."""

    merge: int
    """Entries worth reading over rather than reading twice."""

    def indices(self, start: int, stop: int) -> Array:
        """Return int32 or int64 indices of entries ``[start, stop)``."""
        ...

    def data(self, start: int, stop: int) -> Array:
        """Return the values of entries ``[start, stop)`` in one of the kernels' types."""
        ...


class H5Entries:
    """Entries in the ``data`` and ``indices`` of a sparse group of an HDF5 file."""

    def __init__(self, file: OpenH5ad, matrix: MatrixRef) -> None:
        self._file = file
        self._data = file.dataset(f"{matrix.path}/data")
        self._indices = file.dataset(f"{matrix.path}/indices")
        self._path = matrix.path
        self._label = f"{file.name}: {matrix.path}"
        entry = self._data.dtype.itemsize + self._indices.dtype.itemsize
        gap = _REMOTE_MERGE_BYTES if file.is_remote else _MERGE_BYTES
        # A chunk is decoded whole: what lies in it between two rows is paid for already.
        self.merge = max(gap // entry, *(part.chunks[0] if part.chunks else 0 for part in (self._data, self._indices)))

    def indices(self, start: int, stop: int) -> Array:
        """Return int32 or int64 indices of entries ``[start, stop)``."""
        return plain_indices(self._read("indices", self._indices, start, stop), source=f"{self._label}/indices")

    def data(self, start: int, stop: int) -> Array:
        """Return the values of entries ``[start, stop)`` in one of the kernels' types."""
        return plain_values(self._read("data", self._data, start, stop), source=f"{self._label}/data")

    def _read(self, name: str, dataset: h5py.Dataset, start: int, stop: int) -> Array:
        return read_slice(self._file, f"{self._path}/{name}", dataset, slice(start, stop))


class Pointers:
    """An ``indptr``, checked whole once: from 0, never falling, to the number of entries.

    It is kept in memory when it fits into `most_bytes`, otherwise read again by pieces.
    """

    def __init__(self, file: OpenH5ad, path: str, n_entries: int, *, most_bytes: int) -> None:
        self._file, self._path = file, path
        self._dataset = file.dataset(path)
        self._kept: Array | None = None
        keep = len(self._dataset) * 8 <= most_bytes
        parts = [part for part in self._checked(n_entries) if keep]
        if keep:
            self._kept = np.concatenate(parts)

    def _checked(self, n_entries: int) -> Iterator[Array]:
        last = 0
        for start in range(0, len(self._dataset), _POINTERS):
            part = self._load(start, start + _POINTERS)
            if start == 0 and part[0] != 0:
                raise self._error(f"starts at {part[0]}, not 0", "indptr-start")
            falls = np.flatnonzero(np.diff(part, prepend=last) < 0)
            if len(falls):
                raise self._error(f"falls to {part[falls[0]]} at {start + falls[0]}", "indptr-order")
            last = int(part[-1])
            yield part
        if last != n_entries:
            raise self._error(f"ends at {last:,}, but {n_entries:,} entries are stored", "indptr-end")

    def _error(self, message: str, kind: str) -> HostileFileError:
        return self._file.error(self._path, message, kind)

    def _load(self, start: int, stop: int) -> Array:
        part = plain_indices(read_slice(self._file, self._path, self._dataset, slice(start, stop)), source=self._path)
        return part.astype(np.int64, copy=False)

    def between(self, first: int, last: int) -> Array:
        """Return pointers ``[first, last]``, both included, int64."""
        return self._load(first, last + 1) if self._kept is None else self._kept[first : last + 1]

    def bounds(self, ascending: Array) -> tuple[Array, Array]:
        """Return where each of the `ascending` rows starts and ends, int64."""
        if self._kept is not None:
            return self._kept[ascending], self._kept[ascending + 1]
        starts, ends = np.empty(len(ascending), np.int64), np.empty(len(ascending), np.int64)
        cuts = np.flatnonzero(np.diff(ascending // _POINTERS)) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ascending)], strict=True):
            group = ascending[first:last]
            part = self.between(int(group[0]), int(group[-1]) + 1)
            starts[first:last], ends[first:last] = part[group - group[0]], part[group - group[0] + 1]
        return starts, ends


class RowReader(Protocol):
    """Rows of one matrix in ascending order, in parts bounded in bytes."""

    def parts(self, ascending: Array) -> Iterator[tuple[int, int, Assembled]]:
        """Yield ``(first, last, rows)``: the rows ``ascending[first:last]`` assembled, in that order."""
        ...


class CsrReader:
    """Rows of a CSR matrix: merged runs of entries, in slabs of at most `slab_bytes`."""

    def __init__(
        self, pointers: Pointers, entries: Entries, matrix: MatrixRef, genes: GeneMap, *, slab_bytes: int, label: str
    ) -> None:
        self._pointers, self._entries, self._genes, self._label = pointers, entries, genes, label
        self._n_vars = matrix.shape[1]
        entry = np.dtype(matrix.dtype).itemsize + np.dtype(matrix.index_dtype).itemsize + _WORKING_BYTES
        self._most = max(slab_bytes // entry, 1)

    def parts(self, ascending: Array) -> Iterator[tuple[int, int, Assembled]]:
        """Yield ``(first, last, rows)``: the rows ``ascending[first:last]`` assembled, in that order.

        Raises
        ------
        HostileFileError
            ``duplicate-entry``, ``index-range``: rows that break a rule.
        """
        starts, ends = self._pointers.bounds(ascending)
        if (wide := np.flatnonzero(ends - starts > self._n_vars)).size:
            message = f"{self._label}: row {ascending[wide[0]]} has more entries than there are genes"
            raise HostileFileError(message, kind="duplicate-entry")
        merge = min(self._entries.merge, self._most)
        for slab in plan_runs(starts, ends, ascending, merge=merge, most=self._most):
            rows = ascending[slab.first : slab.last]
            low, high = int(starts[slab.first]), int(ends[slab.last - 1])
            pointers = self._pointers.between(int(rows[0]), int(rows[-1]) + 1) - low
            label = f"{self._label}: rows from {rows[0]}"
            yield (
                slab.first,
                slab.last,
                csr_rows(
                    pointers,
                    self._entries.indices(low, high),
                    self._entries.data(low, high),
                    rows - rows[0],
                    self._genes,
                    source=label,
                ),
            )


class DenseReader:
    """Rows of a dense matrix by bands of HDF5 chunks.

    A band that is larger than a slab (chunks that are tall and narrow) is read by columns of chunks instead, so that
    no chunk is decoded twice; columns without a wanted gene are left out.
    """

    def __init__(self, file: OpenH5ad, matrix: MatrixRef, genes: GeneMap, *, slab_bytes: int) -> None:
        self._file, self._genes = file, genes
        self._dataset = file.dataset(matrix.path)
        self._path = matrix.path
        self._label = f"{file.name}: {matrix.path}"
        self._row_bytes = max(matrix.shape[1] * self._dataset.dtype.itemsize * 3, 1)
        self._chunk_rows = matrix.chunk_rows
        self._slab_rows = max(slab_bytes // self._row_bytes, 1)
        self._slab_bytes = slab_bytes
        self._tall = self._slab_rows < self._chunk_rows

    def parts(self, ascending: Array) -> Iterator[tuple[int, int, Assembled]]:
        """Yield ``(first, last, rows)``: the rows ``ascending[first:last]`` assembled, in that order."""
        band = self._chunk_rows if self._tall else self._slab_rows // self._chunk_rows * self._chunk_rows
        # Of a matrix that is not chunked, rows far apart are not read together.
        jumps = np.diff(ascending) > max(_MERGE_BYTES // self._row_bytes, self._chunk_rows)
        cuts = np.flatnonzero((np.diff(ascending // band) > 0) | jumps) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ascending)], strict=True):
            rows = ascending[first:last]
            if len(rows):
                yield first, last, (self._by_columns if self._tall else self._by_rows)(rows)

    def _by_rows(self, rows: Array) -> Assembled:
        low, high = int(rows[0]), int(rows[-1]) + 1
        block = plain_values(read_slice(self._file, self._path, self._dataset, slice(low, high)), source=self._label)
        return dense_rows(block, rows - low, self._genes, source=self._label)

    def _by_columns(self, rows: Array) -> Assembled:
        low, high = int(rows[0]), int(rows[-1]) + 1
        dtype = plain_values(np.empty(0, self._dataset.dtype), source=self._label).dtype
        assembler = CooAssembler(rows, self._genes, dtype=dtype, source=self._label)
        for start in range(0, self._genes.n_source, self._dataset.chunks[1]):
            stop = min(start + self._dataset.chunks[1], self._genes.n_source)
            if (self._genes.targets(start, stop) >= 0).any():
                block = read_slice(self._file, self._path, self._dataset, (slice(low, high), slice(start, stop)))
                self._add(assembler, plain_values(block, source=self._label), low, start)
        return assembler.finish()

    def _add(self, assembler: CooAssembler, block: Array, first_row: int, first_column: int) -> None:
        # np.nonzero answers with 16 bytes an entry, so a panel goes in by pieces.
        step = max(self._slab_bytes // max(block.shape[1] * 40, 1), 1)
        for at in range(0, len(block), step):
            piece = block[at : at + step]
            row, column = np.nonzero(piece)
            assembler.add(row + (first_row + at), column + first_column, piece[row, column])
