"""Compiled passes from the inflated bytes of HDF5 blocks to the rows of a window.

A block's bytes are shuffled: planes of first bytes, second bytes, …. They are put together while their entries go to
where the window wants them: no array of a whole block is ever made. Every gene number is checked before anybody uses it
as an index, and the largest one found is the answer: below `n_genes` when all is well.

A **part** is what one block holds of one row: entries ``[begin, end)`` of the block go to place `dst` of the window.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.encode.inner import inner
from ingest.fetch.kernels import compiled

__all__ = ["keep_columns", "place_dense", "place_plain", "place_planes", "scatter_rows", "tighten"]

Array = np.ndarray[Any, Any]


@inner
def _join_values(planes: Array, begin: int, end: int, into: Array) -> None:
    """Put values together from their planes ``(width, n)``; `into` is unsigned and at least as wide."""
    width = planes.shape[0]
    if width == 4:
        p0, p1, p2, p3 = planes[0, begin:end], planes[1, begin:end], planes[2, begin:end], planes[3, begin:end]
        for at in range(into.size):
            into[at] = (
                np.uint32(p0[at])
                | (np.uint32(p1[at]) << np.uint32(8))
                | (np.uint32(p2[at]) << np.uint32(16))
                | (np.uint32(p3[at]) << np.uint32(24))
            )
    elif width == 2:
        p0, p1 = planes[0, begin:end], planes[1, begin:end]
        for at in range(into.size):
            into[at] = np.uint16(p0[at]) | (np.uint16(p1[at]) << np.uint16(8))
    else:
        for at in range(into.size):
            into[at] = planes[0, begin + at]
        for plane in range(1, width):
            p = planes[plane, begin:end]
            for at in range(into.size):
                into[at] |= np.uint64(p[at]) << np.uint64(8 * plane)


@inner
def _join_genes(planes: Array, begin: int, end: int, wide: bool, into: Array) -> Any:
    """Put gene numbers together; return the largest. Where `wide` is not set, the upper two planes are not looked at.

    A negative number, which only damage makes, counts as larger than any.
    """
    p0, p1 = planes[0, begin:end], planes[1, begin:end]
    largest = np.uint32(0)
    if not wide:
        for at in range(into.size):
            gene = np.uint32(p0[at]) | (np.uint32(p1[at]) << np.uint32(8))
            into[at] = gene
            largest = max(largest, gene)
        return np.int64(largest)
    p2, p3 = planes[2, begin:end], planes[3, begin:end]
    for at in range(into.size):
        gene = (
            np.uint32(p0[at])
            | (np.uint32(p1[at]) << np.uint32(8))
            | (np.uint32(p2[at]) << np.uint32(16))
            | (np.uint32(p3[at]) << np.uint32(24))
        )
        into[at] = np.int32(gene)
        largest = max(largest, gene)
    return np.int64(largest)


@compiled
def place_planes(
    values: Array, genes: Array, begin: Array, end: Array, dst: Array, wide: bool, data: Array, indices: Array
) -> Any:
    """Place parts of a block.

    Parameters
    ----------
    values, genes
        uint8 ``(width, n)`` and ``(4, n)``: planes.
    begin, end, dst
        int64 ``(n_parts,)``.
    wide
        Whether there may be more than 65,536 genes.
    data, indices
        The window's entries: unsigned of the values' width or wider, and int32.
    """
    largest: Any = np.int64(-1)
    for part in range(begin.size):
        low, high, at = begin[part], end[part], dst[part]
        _join_values(values, low, high, data[at : at + (high - low)])
        largest = max(largest, _join_genes(genes, low, high, wide, indices[at : at + (high - low)]))
    return largest


@compiled
def keep_columns(
    begin: Array, end: Array, gene_map: Array, data: Array, indices: Array, kept: Array, sums: Array
) -> None:
    """Keep the wanted entries of parts that have been placed, closely from where each begins, and add up all.

    Parameters
    ----------
    begin, end
        int64 ``(n_parts,)``: ranges of `data` and `indices`, whose gene numbers have been checked.
    gene_map
        int32 ``(n_genes,)``: column of the window or -1.
    kept, sums
        int64 and float64 ``(n_parts,)``, filled here: entries kept, and the sum of the part before.
    """
    for part in range(begin.size):
        values, genes = data[begin[part] : end[part]], indices[begin[part] : end[part]]
        written, total = 0, 0.0
        for entry in range(values.size):
            value, column = values[entry], gene_map[genes[entry]]
            total += value
            values[written] = value
            genes[written] = column
            written += column >= 0
        kept[part], sums[part] = written, total


@compiled
def place_plain(values: Array, genes: Array, begin: Array, end: Array, dst: Array, data: Array, indices: Array) -> Any:
    """Place parts of arrays that are stored as they are."""
    largest: Any = np.int64(-1)
    for part in range(begin.size):
        low, n, at = begin[part], end[part] - begin[part], dst[part]
        for entry in range(n):
            data[at + entry] = values[low + entry]
        for entry in range(n):
            gene = genes[low + entry]
            indices[at + entry] = gene
            largest = max(largest, np.int64(np.uint32(gene)))
    return largest


@compiled
def tighten(
    starts: Array, kept: Array, into: Array, data: Array, indices: Array, to_data: Array, to_indices: Array
) -> None:
    """Copy what parts hold, ``[starts, starts + kept)`` of `data` and `indices`, to `into` of tighter arrays."""
    for part in range(starts.size):
        low, n, at = starts[part], kept[part], into[part]
        for entry in range(n):
            to_data[at + entry] = data[low + entry]
            to_indices[at + entry] = indices[low + entry]


_BIT_STEPS = np.uint64(0x03F79D71B4CB0A89)
_LOWEST = np.zeros(64, np.int64)
"""Number of the lowest set bit, by the place that the sequence of de Bruijn shifts it to."""
for _shift in range(64):
    _LOWEST[((0x03F79D71B4CB0A89 << _shift) & 0xFFFFFFFFFFFFFFFF) >> 58] = _shift


@compiled
def place_dense(
    planes: Array, words: Array, n_genes: int, rows: Array, ends: Array, dst: Array, data: Array, indices: Array
) -> int:
    """Place the entries of dense rows that are not zero; return how many rows have another number of them than said.

    Parameters
    ----------
    planes
        uint8 ``(width, n_rows * n_genes)``.
    words
        uint64 ``(width, n_words)``: the same, 8 values each, with zeros behind them.
    n_genes
        Values of a row.
    rows, dst, ends
        int64 ``(n_parts,)``: row within the block, where its entries begin and end in the window.
    """
    wrong = 0
    width = planes.shape[0]
    low, high = words[0], words[width - 1]  # counts have two planes, or two that are looked at first
    for part in range(rows.size):
        first = rows[part] * n_genes
        last = first + n_genes
        at, stop = dst[part], ends[part]
        for word in range(first // 8, (last + 7) // 8):
            bits = low[word] | high[word]
            for plane in range(1, width - 1):
                bits |= words[plane, word]
            if bits == 0:
                continue
            base = word * 8
            if base < first:
                bits &= ~np.uint64(0) << np.uint64(8 * (first - base))
            if base + 8 > last:
                bits &= ~np.uint64(0) >> np.uint64(8 * (base + 8 - last))
            while bits != 0:
                lowest = bits & (~bits + np.uint64(1))
                byte = _LOWEST[(lowest * _BIT_STEPS) >> np.uint64(58)] >> 3
                bits &= ~(np.uint64(0xFF) << np.uint64(8 * byte))
                if at < stop:
                    value = np.uint64(0)
                    for plane in range(width):
                        value |= np.uint64(planes[plane, base + byte]) << np.uint64(8 * plane)
                    data[at] = value
                    indices[at] = base + byte - first
                at += 1
        wrong += at != stop
    return wrong


@compiled
def scatter_rows(indptr: Array, indices: Array, data: Array, out: Array) -> Any:
    """Write entries into `out` ``(n_cells, n_genes)``, which holds zeros; return the largest column."""
    largest = -1
    for row in range(out.shape[0]):
        target = out[row]
        for entry in range(indptr[row], indptr[row + 1]):
            column = indices[entry]
            if column < 0 or column >= out.shape[1]:
                return max(largest, out.shape[1])
            target[column] = data[entry]
    return largest
