"""From what a source hands out (coordinate tables, CSR slabs, dense rows, CSC columns) to checked CSR rows.

All ways end alike: rows sorted where they do not ascend, duplicates refused, stored zeros dropped. Values keep
the source's type until `ingest.fetch.values.convert_counts`, where one that does not fit is named with its cell.
Row positions are int32: at most 2**31 - 1 rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.errors import HostileFileError, SourceChangedError, SourceError
from ingest.fetch import kernels
from ingest.validate import check_indptr

if TYPE_CHECKING:
    from ingest.genes import Genes

__all__ = [
    "Assembled",
    "CooAssembler",
    "CscAssembler",
    "GeneMap",
    "RowPositions",
    "csr_rows",
    "dense_rows",
    "empty_rows",
    "reorder_rows",
    "without_zeros",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class GeneMap:
    """Where each source column goes in the matrix delivered."""

    columns: np.ndarray[Any, np.dtype[np.int32]]
    """int32 ``(n_source,)``, target column or ``ABSENT``; empty for the identity."""
    n_source: int
    """Columns of the source."""
    n_target: int
    """Columns delivered."""

    @classmethod
    def between(cls, source: Genes, target: Genes) -> GeneMap:
        """Map the columns of `source` onto those of `target` by gene id."""
        columns = source.map_onto(target)
        return cls(np.empty(0, np.int32) if columns is None else columns, len(source), len(target))

    def targets(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the target columns of source columns ``[start, stop)``."""
        return self.columns[start:stop] if len(self.columns) else np.arange(start, stop, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """CSR rows in the order asked for, values still of the source's type."""

    counts: Counts
    """``(n_rows, n_target)``; indices ascend, no duplicates, no stored zeros."""
    was_unsorted: bool
    """The source's own order within rows (CSR) or columns (CSC) did not ascend."""
    zeros_dropped: int
    """Stored zeros that the source held among the entries wanted."""


def csr_rows(indptr: Array, indices: Array, data: Array, rows: Array, genes: GeneMap, *, source: str) -> Assembled:
    """Take rows out of a CSR slab.

    Parameters
    ----------
    indptr, indices, data
        A slab of consecutive rows; int ``(m + 1,)`` from 0, `plain_indices` and `plain_values` ``(nnz,)``.
    rows
        int64 ``(k,)`` in ``[0, m)``: rows of the slab, in the order wanted.
    genes
        Source columns to target columns.

    Raises
    ------
    HostileFileError
        ``indptr-…``, ``index-range``, ``duplicate-entry``; row numbers in the message are the slab's.
    """
    indptr = np.ascontiguousarray(indptr, np.int64)
    check_indptr(indptr, min(len(indices), len(data)), source=source)
    counts = np.empty(len(rows), np.int64)
    bad = kernels.count_csr(indptr, indices, rows, genes.columns, genes.n_source, counts)
    if bad >= 0:
        row = int(np.searchsorted(indptr, bad, side="right")) - 1
        raise _out_of_range(source, f"row {row} of the slab: column", indices[bad], genes.n_source)
    out = empty_rows(counts, data.dtype)
    unsorted = kernels.fill_csr(indptr, indices, data, rows, genes.columns, *out)
    return _finish(*out, genes.n_target, was_unsorted=bool(unsorted), rows=rows, source=source)


def dense_rows(block: Array, rows: Array, genes: GeneMap, *, source: str) -> Assembled:
    """Take rows out of dense consecutive rows ``(m, n_source)`` of `plain_values`; `rows` as in `csr_rows`.

    Raises
    ------
    HostileFileError
        ``matrix-shape``: the block has another width than the gene map.
    """
    if block.ndim != 2 or block.shape[1] != genes.n_source:
        message = f"{source}: rows of shape {block.shape} for {genes.n_source} genes"
        raise HostileFileError(message, kind="matrix-shape", source=source)
    block = np.ascontiguousarray(block)
    counts = np.empty(len(rows), np.int64)
    kernels.count_dense(block, rows, genes.columns, counts)
    out = empty_rows(counts, block.dtype)
    kernels.fill_dense(block, rows, genes.columns, *out)
    return _finish(*out, genes.n_target, was_unsorted=False, rows=rows, source=source)


def empty_rows(counts: Array, dtype: Any) -> tuple[Array, Array, Array]:
    """Return indptr, and room for indices and values, of rows with so many entries each."""
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], dtype)


def _finish(
    indptr: Array, indices: Array, data: Array, n_genes: int, *, was_unsorted: bool, rows: Array, source: str
) -> Assembled:
    _order(indptr, indices, data, n_genes, rows=rows, source=source)
    zeros = len(data) - int(np.count_nonzero(data))
    return Assembled(without_zeros(Counts(indptr, indices, data, n_genes), zeros), was_unsorted, zeros)


def _order(indptr: Array, indices: Array, data: Array, n_genes: int, *, rows: Array, source: str) -> None:
    _, double = kernels.order_rows(indptr, indices, data, n_genes)
    if double >= 0:
        row = rows[int(np.searchsorted(indptr, double, side="right")) - 1]
        message = f"{source}: row {row} holds gene column {indices[double]} of the result twice"
        raise HostileFileError(message, kind="duplicate-entry", source=source)


def without_zeros(counts: Counts, zeros: int) -> Counts:
    """Drop the stored zeros, of which there are `zeros`, in place."""
    if not zeros:
        return counts
    left = kernels.drop_zeros(counts.indptr, counts.indices, counts.data)
    return Counts(counts.indptr, counts.indices[:left], counts.data[:left], counts.n_genes)


def _out_of_range(source: str, what: str, found: Any, limit: int) -> HostileFileError:
    return HostileFileError(f"{source}: {what} {found} of {limit}", kind="index-range", source=source)


class RowPositions:
    """Where each wanted row goes.

    Parameters
    ----------
    rows
        int64 ``(n_rows,)`` row numbers (joinids), distinct, in the order wanted.
    source
        Named in errors.

    Raises
    ------
    SourceError
        ``duplicate-row``: a row is asked for twice.
    """

    def __init__(self, rows: Array, *, source: str) -> None:
        order = np.argsort(rows, kind="stable")
        self.ascending: Array = rows[order]
        """int64 ``(n_rows,)``."""
        if (double := np.flatnonzero(np.diff(self.ascending) == 0)).size:
            message = f"{source}: row {self.ascending[double[0]]} is asked for twice"
            raise SourceError(message, kind="duplicate-row", source=source)
        low = int(self.ascending[0]) if len(rows) else 0
        self.arrays: tuple[int, Array, Array, Array] = (
            low,
            self._table(rows, low),
            self.ascending,
            order.astype(np.int32),
        )
        """As `ingest.fetch.kernels.position_of` takes them."""

    def _table(self, rows: Array, low: int) -> Array:
        # A table of the whole span is fastest, but scattered rows of a Census would make one of 160 million entries.
        span = int(self.ascending[-1]) - low + 1 if len(rows) else 0
        if span > max(4 * len(rows), 1 << 20):
            return np.empty(0, np.int32)
        table = np.full(span, -1, np.int32)
        kernels.map_rows(rows, low, table)
        return table


class CooAssembler:
    """Rows out of coordinate tables that come in any order, as TileDB's unordered reads give them.

    Memory: each table is compacted to 8 bytes an entry kept (float32) and 8 a run of one row as it comes, and can then
    be freed; `finish` adds the result's 8 an entry. So the peak beside the result is 8 bytes an entry kept where rows
    lie together, as they do within a tile, at worst 16; and one table of 20 bytes an entry with its scratch of 16.

    Parameters
    ----------
    rows
        int64 ``(n_rows,)`` row numbers (joinids), distinct, in the order wanted.
    genes
        Source columns to target columns.
    dtype
        Of the values: float32, float64, int32 or int64.
    source
        Named in errors.

    Raises
    ------
    SourceError
        ``duplicate-row``: a row is asked for twice.
    """

    def __init__(self, rows: Array, genes: GeneMap, *, dtype: Any, source: str) -> None:
        self._rows = np.ascontiguousarray(rows, np.int64)
        self._genes, self._dtype, self._source = genes, np.dtype(dtype), source
        self._counts = np.zeros(len(rows), np.int64)
        self._parts: list[tuple[Array, Array, Array, Array]] = []
        self._zeros, self._ascend = 0, True
        none = np.empty(0, np.int32)
        self._scratch: tuple[Array, Array, Array, Array] = (none, none, none, np.empty(0, self._dtype))
        self._positions = RowPositions(self._rows, source=source)

    @property
    def nbytes(self) -> int:
        """Bytes held by the entries added so far."""
        return sum(array.nbytes for part in self._parts for array in part)

    def add(self, dim0: Array, dim1: Array, data: Array) -> None:
        """Take one table: int64 row numbers, int64 columns, values, each ``(n,)``; unwanted rows and genes are skipped.

        Raises
        ------
        HostileFileError
            ``index-range``: a column the source's gene table does not have.
        """
        if not len(self._rows):
            return
        scratch = self._scratch_of(len(dim0))
        runs, kept, zeros, ascend, bad = kernels.compact_coo(
            dim0,
            dim1,
            data,
            *self._positions.arrays,
            self._genes.columns,
            self._genes.n_source,
            *scratch,
            self._counts,
        )
        if bad >= 0:
            raise _out_of_range(self._source, f"row {dim0[bad]}: column", dim1[bad], self._genes.n_source)
        position, length, gene, value = scratch
        if kept > len(gene) * 7 // 8:  # nearly full: kept as it is, and the next table gets another
            self._scratch = (position, length, np.empty(0, np.int32), np.empty(0, self._dtype))
            entries = gene[:kept], value[:kept]
        else:
            entries = gene[:kept].copy(), value[:kept].copy()
        self._parts.append((position[:runs].copy(), length[:runs].copy(), *entries))
        self._zeros += zeros
        self._ascend &= ascend

    def _scratch_of(self, n: int) -> tuple[Array, Array, Array, Array]:
        """Return room for `n` entries: what earlier tables left, where that is enough."""
        position, length, gene, value = (
            array if len(array) >= n else np.empty(n, array.dtype) for array in self._scratch
        )
        self._scratch = (position, length, gene, value)
        return self._scratch

    def finish(self) -> Assembled:
        """Return the rows; those without entries are empty. The assembler is spent.

        Raises
        ------
        HostileFileError
            ``duplicate-entry``: a coordinate stands twice in the source.
        """
        del self._scratch
        indptr, indices, data = empty_rows(self._counts, self._dtype)
        cursor = indptr[:-1].copy()
        while self._parts:
            self._ascend &= kernels.scatter_coo(*self._parts.pop(0), indptr, cursor, indices, data)
        # Seen on the way, as a Census has it: strictly ascending means neither sorting nor looking for duplicates.
        if not self._ascend:
            _order(indptr, indices, data, self._genes.n_target, rows=self._rows, source=self._source)
        counts = without_zeros(Counts(indptr, indices, data, self._genes.n_target), self._zeros)
        return Assembled(counts, was_unsorted=False, zeros_dropped=self._zeros)


class CscAssembler:
    """Rows out of blocks of CSC columns, in two passes over the same blocks: `count` all, then `fill` all, ascending.

    Memory: the result and 12 bytes a row of the source, whatever the size of the blocks.

    Parameters
    ----------
    rows
        int64 ``(n_rows,)`` row numbers, distinct, in the order wanted.
    n_obs
        Rows of the source.
    genes
        Source columns to target columns.
    dtype
        Of the values: float32, float64, int32 or int64.
    source
        Named in errors.

    Raises
    ------
    SourceError
        ``row-range`` or ``duplicate-row``.
    """

    def __init__(self, rows: Array, n_obs: int, genes: GeneMap, *, dtype: Any, source: str) -> None:
        self._rows, self._genes, self._source = np.ascontiguousarray(rows, np.int64), genes, source
        if len(rows) and (rows.min() < 0 or rows.max() >= n_obs):
            raise SourceError(f"{source}: row {rows.max()} of {n_obs}", kind="row-range", source=source)
        self._positions = np.full(n_obs, -1, np.int32)
        if (double := kernels.map_rows(self._rows, 0, self._positions)) >= 0:
            raise SourceError(f"{source}: row {rows[double]} is asked for twice", kind="duplicate-row", source=source)
        self._counts = np.zeros(len(rows), np.int64)
        self._dtype = np.dtype(dtype)
        self._filling: tuple[Array, Array, Array, Array] | None = None
        self._unsorted = False

    def count(self, first_column: int, indptr: Array, indices: Array) -> None:
        """Count the block of columns from `first_column`: `indptr` int64 ``(m + 1,)`` from 0, `indices` row numbers.

        Raises
        ------
        HostileFileError
            ``indptr-…`` or ``index-range``.
        """
        indptr = np.ascontiguousarray(indptr, np.int64)
        check_indptr(indptr, len(indices), source=self._source)
        genes = self._genes.targets(first_column, first_column + len(indptr) - 1)
        bad = kernels.count_csc(indptr, indices, self._positions, genes, self._counts)
        if bad >= 0:
            column = first_column + int(np.searchsorted(indptr, bad, side="right")) - 1
            raise _out_of_range(self._source, f"column {column}: row", indices[bad], len(self._positions))

    def fill(self, first_column: int, indptr: Array, indices: Array, data: Array) -> None:
        """Place the entries of a block counted before; the same arguments, and the values.

        Raises
        ------
        HostileFileError
            ``indptr-…``.
        SourceChangedError
            The block is not the one that was counted.
        """
        indptr = np.ascontiguousarray(indptr, np.int64)
        check_indptr(indptr, min(len(indices), len(data)), source=self._source)
        if self._filling is None:
            out = empty_rows(self._counts, self._dtype)
            self._filling = (out[0][:-1].copy(), *out)
        genes = self._genes.targets(first_column, first_column + len(indptr) - 1)
        bad, unsorted = kernels.fill_csc(indptr, indices, data, self._positions, genes, *self._filling)
        self._unsorted |= bool(unsorted)
        if bad >= 0:
            raise self._changed()

    def finish(self) -> Assembled:
        """Return the rows; the assembler is spent.

        Raises
        ------
        HostileFileError
            ``duplicate-entry``.
        SourceChangedError
            Not all that was counted came to be filled.
        """
        cursor, indptr, indices, data = self._filling or (
            np.zeros(len(self._rows), np.int64),
            *empty_rows(self._counts, self._dtype),
        )
        self._filling = None
        if not np.array_equal(cursor, indptr[1:]):
            raise self._changed()
        return _finish(
            indptr,
            indices,
            data,
            self._genes.n_target,
            was_unsorted=self._unsorted,
            rows=self._rows,
            source=self._source,
        )

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(f"{self._source}: columns changed between counting and reading", source=self._source)


def reorder_rows(counts: Counts, rows: Array) -> Counts:
    """Return `rows` (int64 ``(k,)``, in range, any order) of a checked matrix as a new one."""
    out = empty_rows(np.diff(counts.indptr)[rows], counts.data.dtype)
    kernels.take_rows(counts.indptr, counts.indices, counts.data, rows, *out)
    return Counts(*out, counts.n_genes)
