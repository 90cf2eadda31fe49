"""Compiled passes over entries: what turns a source's own layout into CSR rows in the order asked for.

Inner loops run over slices from 0: an index that numba cannot prove non-negative costs it the vector instructions.

Kernels know arrays and nothing else; `ingest.fetch.assemble` feeds them and turns what they find into errors. Every
kernel checks an index before it is used as one and answers with a position instead of raising: -1 when all is well.

Types are few on purpose, since each combination is compiled once per machine: indices int32 or int64; values float32,
float64, int32 or int64; ``indptr`` and row numbers int64; positions and gene maps int32. An empty gene map stands for
the identity. Compiled code is cached beside this file or in ``NUMBA_CACHE_DIR``; the GIL is released throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "compact_coo",
    "compiled",
    "count_csc",
    "count_csr",
    "count_dense",
    "drop_zeros",
    "fill_csc",
    "fill_csr",
    "fill_dense",
    "map_rows",
    "order_rows",
    "position_of",
    "run_end",
    "scatter_coo",
    "take_rows",
]

Array = np.ndarray[Any, Any]
Function = TypeVar("Function", bound="Callable[..., Any]")

_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT = np.zeros(64, np.int64)
for _shift in range(64):
    _BIT[((0x03F79D71B4CB0A89 << _shift) & 0xFFFFFFFFFFFFFFFF) >> 58] = _shift


def compiled(function: Function) -> Function:
    """Compile `function` on first use for the types it meets, without the GIL, cached on disk where possible."""
    try:
        return cast("Function", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba's way to say that no cache folder is writable: slower to start, no reason to fail
        return cast("Function", numba.njit(nogil=True)(function))


@compiled
def map_rows(rows: Array, low: int, lookup: Array) -> int:
    """Write each row's position into `lookup` (int32 ``(span,)``, filled with -1): ``lookup[rows[i] - low] = i``.

    Return the position of the first row that stands twice, or -1. All rows lie in ``[low, low + span)``.
    """
    for i in range(rows.size):
        slot = rows[i] - low
        if lookup[slot] >= 0:
            return i
        lookup[slot] = i
    return -1


@compiled
def run_end(values: Array, begin: int) -> int:
    """Return where the equal values from `begin` on end; by sixteen at a time, which are compared at once."""
    value, end = values[begin], begin + 1
    while end + 16 <= values.size:
        same, block = True, values[end : end + 16]
        for i in range(16):
            same &= block[i] == value
        if not same:
            break
        end += 16
    while end < values.size and values[end] == value:
        end += 1
    return end


@compiled
def position_of(row: int, low: int, lookup: Array, sorted_rows: Array, order: Array) -> int:
    """Return where `row` goes, or -1 if nobody wants it.

    Row ``low + i`` goes to position ``lookup[i]`` (int32; -1 and rows beyond are unwanted). Where `lookup` is empty,
    ascending rows, `sorted_rows`, are searched, whose positions are `order`: int64 and int32 ``(n_rows,)``.
    """
    if lookup.size:
        if low <= row < low + lookup.size:
            return int(lookup[row - low])
        return -1
    at = np.searchsorted(sorted_rows, row)
    if at < sorted_rows.size and sorted_rows[at] == row:
        return int(order[at])
    return -1


@compiled
def _keep_all(columns: Array, values: Array, genes: Array, kept_data: Array) -> tuple[int, int, bool]:
    """Copy a run; return its length, its zeros and whether its columns ascend."""
    zeros, falls, last = np.int32(0), False, columns.size - 1
    for i in range(last):
        genes[i] = columns[i]
        kept_data[i] = values[i]
        zeros += np.int32(values[i] == 0)
        falls |= columns[i + 1] <= columns[i]
    genes[last] = columns[last]
    kept_data[last] = values[last]
    return columns.size, int(zeros) + (values[last] == 0), not falls


@compiled
def _keep_mapped(
    columns: Array, values: Array, gene_map: Array, genes: Array, kept_data: Array
) -> tuple[int, int, bool]:
    """Copy what `gene_map` wants of a run; return how much that is, its zeros and whether its genes ascend."""
    length = 0
    for i in range(columns.size):
        # Written always and kept only where wanted: cheaper than a branch that is guessed wrong.
        gene = gene_map[columns[i]]
        genes[length] = gene
        kept_data[length] = values[i]
        length += gene >= 0
    zeros, falls = 0, False
    for i in range(length):
        zeros += kept_data[i] == 0
    for i in range(length - 1):
        falls |= genes[i + 1] <= genes[i]
    return length, zeros, not falls


@compiled
def compact_coo(
    dim0: Array,
    dim1: Array,
    data: Array,
    low: int,
    lookup: Array,
    sorted_rows: Array,
    order: Array,
    gene_map: Array,
    n_source_genes: int,
    run_position: Array,
    run_length: Array,
    out_gene: Array,
    out_data: Array,
    counts: Array,
) -> tuple[int, int, int, bool, int]:
    """Keep the wanted entries of one coordinate table as runs of one row each, count them by row, and look them over.

    A row's entries lie together within a tile, so that a run is long and costs one look-up; any order is right.

    Parameters
    ----------
    dim0, dim1, data
        int64, int64, value ``(n,)``: row, column, value, in any order.
    low, lookup, sorted_rows, order
        See `position_of`.
    gene_map, n_source_genes
        Column to target column or -1; the columns of wanted rows are below `n_source_genes`.
    run_position, run_length
        int32 ``(>= n,)``: filled from the start, one entry a run.
    out_gene, out_data
        int32, value ``(>= n,)``: filled from the start, run after run.
    counts
        int64 ``(n_rows,)``: incremented by the kept entries of each position.

    Returns
    -------
    tuple
        Runs; entries kept; zeros among them; whether genes ascend within every run; -1, or the first entry whose
        column is out of range.
    """
    runs, kept, zeros, ascend, begin = 0, 0, 0, True, 0
    while begin < dim0.size:
        end = run_end(dim0, begin)
        position = position_of(dim0[begin], low, lookup, sorted_rows, order)
        if position >= 0:
            columns, values = dim1[begin:end], data[begin:end]
            genes, kept_data = out_gene[kept : kept + columns.size], out_data[kept : kept + columns.size]
            if gene_map.size == 0:
                length, run_zeros, run_ascends = _keep_all(columns, values, genes, kept_data)
                in_order = run_ascends
            else:
                length, in_order = 0, False
            # Of columns that ascend the first and the last tell of all.
            if not in_order or columns[0] < 0 or columns[columns.size - 1] >= n_source_genes:
                for i in range(columns.size):
                    if columns[i] < 0 or columns[i] >= n_source_genes:
                        return runs, kept, zeros, ascend, begin + i
            if gene_map.size:
                length, run_zeros, run_ascends = _keep_mapped(columns, values, gene_map, genes, kept_data)
            if length > 0:
                run_position[runs] = position
                run_length[runs] = length
                counts[position] += length
                zeros += run_zeros
                ascend &= run_ascends
                kept += length
                runs += 1
        begin = end
    return runs, kept, zeros, ascend, -1


@compiled
def scatter_coo(
    run_position: Array,
    run_length: Array,
    gene: Array,
    data: Array,
    out_indptr: Array,
    cursor: Array,
    out_indices: Array,
    out_data: Array,
) -> bool:
    """Put runs into their rows; `cursor` (int64 ``(n_rows,)``) is each row's next free place.

    Tell whether each run begins after the last gene that its row had before.
    """
    begin, ascend = 0, True
    for run in range(run_position.size):
        position, length = run_position[run], run_length[run]
        place = cursor[position]
        ascend &= place == out_indptr[position] or gene[begin] > out_indices[place - 1]
        genes, values = gene[begin : begin + length], data[begin : begin + length]
        row_indices, row_data = out_indices[place : place + length], out_data[place : place + length]
        for i in range(genes.size):
            row_indices[i] = genes[i]
            row_data[i] = values[i]
        cursor[position] = place + length
        begin += length
    return ascend


@compiled
def count_csr(indptr: Array, indices: Array, rows: Array, gene_map: Array, n_source_genes: int, counts: Array) -> int:
    """Count the wanted entries of `rows` of a CSR slab, checking every index that `fill_csr` will use.

    `indptr` is int64 ``(m + 1,)`` relative to the slab, `indices` int32/int64 ``(nnz,)``, `rows` int64 ``(k,)`` within
    the slab in any order, `counts` int64 ``(k,)``. Return the place of the first index out of range, or -1.
    """
    identity = gene_map.size == 0
    for i in range(rows.size):
        begin, end = indptr[rows[i]], indptr[rows[i] + 1]
        kept = 0
        for at in range(begin, end):
            if indices[at] < 0 or indices[at] >= n_source_genes:
                return at
            kept += identity or gene_map[indices[at]] >= 0
        counts[i] = kept
    return -1


@compiled
def fill_csr(
    indptr: Array,
    indices: Array,
    data: Array,
    rows: Array,
    gene_map: Array,
    out_indptr: Array,
    out_indices: Array,
    out_data: Array,
) -> bool:
    """Copy the rows counted by `count_csr` to ``out_indptr[i]``; tell whether a source row did not ascend."""
    identity = gene_map.size == 0
    unsorted = False
    for i in range(rows.size):
        place = out_indptr[i]
        last = np.int64(-1)
        for at in range(indptr[rows[i]], indptr[rows[i] + 1]):
            column = np.int64(indices[at])
            if column < last:
                unsorted = True
            last = column
            gene = np.int32(column) if identity else gene_map[column]
            if gene >= 0:
                out_indices[place] = gene
                out_data[place] = data[at]
                place += 1
    return unsorted


@compiled
def count_dense(block: Array, rows: Array, gene_map: Array, counts: Array) -> None:
    """Count the wanted non-zeros of `rows` (int64 ``(k,)``) of a dense C-ordered block ``(m, n_source_genes)``."""
    for i in range(rows.size):
        kept = 0
        for column in range(block.shape[1]):
            kept += block[rows[i], column] != 0 and (gene_map.size == 0 or gene_map[column] >= 0)
        counts[i] = kept


@compiled
def fill_dense(
    block: Array, rows: Array, gene_map: Array, out_indptr: Array, out_indices: Array, out_data: Array
) -> None:
    """Copy what `count_dense` counted; columns come in source order."""
    for i in range(rows.size):
        place = out_indptr[i]
        for column in range(block.shape[1]):
            value = block[rows[i], column]
            gene = np.int32(column) if gene_map.size == 0 else gene_map[column]
            if value != 0 and gene >= 0:
                out_indices[place] = gene
                out_data[place] = value
                place += 1


@compiled
def count_csc(indptr: Array, indices: Array, positions: Array, genes: Array, counts: Array) -> int:
    """Add the wanted entries of a block of columns to `counts` (int64 ``(n_rows,)``), checking every row number.

    `indptr` is int64 ``(m + 1,)`` relative to the block, `indices` the row numbers ``(nnz,)``, `positions` int32
    ``(n_obs,)`` row to position or -1, `genes` int32 ``(m,)`` the block's columns in the target or -1. Unwanted
    columns are checked as well. Return the place of the first row number out of range, or -1.
    """
    for column in range(genes.size):
        for at in range(indptr[column], indptr[column + 1]):
            row = indices[at]
            if row < 0 or row >= positions.size:
                return at
            if genes[column] >= 0 and positions[row] >= 0:
                counts[positions[row]] += 1
    return -1


@compiled
def fill_csc(
    indptr: Array,
    indices: Array,
    data: Array,
    positions: Array,
    genes: Array,
    cursor: Array,
    out_indptr: Array,
    out_indices: Array,
    out_data: Array,
) -> tuple[int, bool]:
    """Put the block's entries, counted before, into their rows at `cursor` (int64 ``(n_rows,)``, advanced).

    The block is read from its source a second time, so nothing is believed of it. Return the place of the first entry
    that was not counted (or -1), and whether a column's rows did not ascend.
    """
    unsorted = False
    for column in range(genes.size):
        gene = genes[column]
        last = np.int64(-1)
        for at in range(indptr[column], indptr[column + 1]):
            row = np.int64(indices[at])
            if row < 0 or row >= positions.size:
                return at, unsorted
            if row < last:
                unsorted = True
            last = row
            position = positions[row]
            if gene >= 0 and position >= 0:
                place = cursor[position]
                if place >= out_indptr[position + 1]:
                    return at, unsorted
                cursor[position] = place + 1
                out_indices[place] = gene
                out_data[place] = data[at]
    return -1, unsorted


@compiled
def order_rows(indptr: Array, indices: Array, data: Array, n_genes: int) -> tuple[int, int]:
    """Sort the rows of a CSR matrix that do not ascend, in place, by one bit per gene instead of comparisons.

    Indices lie in ``[0, n_genes)``. Return (rows sorted, place of the first duplicate or -1); after a duplicate
    the matrix is half done and to be thrown away. Scratch: ``n_genes`` values and bits.
    """
    values = np.empty(n_genes, data.dtype)
    bits = np.zeros(n_genes // 64 + 1, np.uint64)
    n_sorted = 0
    for row in range(indptr.size - 1):
        begin, end = indptr[row], indptr[row + 1]
        at = begin + 1
        while at < end and indices[at] > indices[at - 1]:
            at += 1
        if at >= end:
            continue
        n_sorted += 1
        for at in range(begin, end):
            gene = np.int64(indices[at])
            bit = np.uint64(1) << np.uint64(gene & 63)
            if bits[gene >> 6] & bit:
                return n_sorted, at
            bits[gene >> 6] |= bit
            values[gene] = data[at]
        at = begin
        for word in range(indices[begin:end].min() >> 6, bits.size):
            left = bits[word]
            bits[word] = np.uint64(0)
            while left:
                lowest = left & (~left + np.uint64(1))
                gene = (np.int64(word) << 6) + _BIT[np.int64((lowest * _DEBRUIJN) >> np.uint64(58))]
                indices[at] = gene
                data[at] = values[gene]
                at += 1
                left ^= lowest
            if at == end:
                break
    return n_sorted, -1


@compiled
def drop_zeros(indptr: Array, indices: Array, data: Array) -> int:
    """Remove stored zeros in place, closing the gaps; `indptr` follows. Return the entries that are left."""
    place = 0
    begin = indptr[0]
    for row in range(indptr.size - 1):
        end = indptr[row + 1]
        for at in range(begin, end):
            if data[at] != 0:
                indices[place] = indices[at]
                data[place] = data[at]
                place += 1
        begin = end
        indptr[row + 1] = place
    return place


@compiled
def take_rows(
    indptr: Array, indices: Array, data: Array, rows: Array, out_indptr: Array, out_indices: Array, out_data: Array
) -> None:
    """Copy `rows` (int64 ``(k,)``, in range) of a checked CSR matrix, in that order, to where `out_indptr` says."""
    for i in range(rows.size):
        begin, end = indptr[rows[i]], indptr[rows[i] + 1]
        genes, values = indices[begin:end], data[begin:end]
        row_indices, row_data = out_indices[out_indptr[i] :], out_data[out_indptr[i] :]
        for at in range(genes.size):  # numba takes seconds to compile the assignment of a slice
            row_indices[at] = genes[at]
            row_data[at] = values[at]
