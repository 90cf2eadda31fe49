"""Compiled passes over the entries of a window.

``indptr`` is int64 ``(n_cells + 1,)``, ``data`` any number type ``(nnz,)``. ``out`` has the length of `data` and may be
the same memory seen as another type of the same size: numba assumes nothing about what two arrays share, and every
kernel reads an entry before it writes it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = [
    "TABLE",
    "add_rows",
    "direct",
    "edge_tokens",
    "log1p_rows",
    "no_count",
    "quantile_bins",
    "rank_rows",
    "scale_rows",
    "uniform_bins",
]

Array = np.ndarray[Any, Any]

TABLE = 256
"""Whole counts below this less one are looked up: a cell has thousands of entries and few different counts."""


@compiled
def add_rows(indptr: Array, data: Array, totals: Array) -> None:
    """Write each row's sum into `totals`, float64 ``(n_cells,)``; exact for whole counts below ``2**53``."""
    for row in range(indptr.size - 1):
        values = data[indptr[row] : indptr[row + 1]]
        first, second, third, fourth, at = 0.0, 0.0, 0.0, 0.0, 0
        while at + 4 <= values.size:  # four sums at a time: each addition waits for the one before it
            first += values[at]
            second += values[at + 1]
            third += values[at + 2]
            fourth += values[at + 3]
            at += 4
        while at < values.size:
            first += values[at]
            at += 1
        totals[row] = (first + second) + (third + fourth)


@compiled
def scale_rows(indptr: Array, data: Array, factors: Array, out: Array) -> None:
    """Write each entry times its row's factor, float64 ``(n_cells,)``, into `out`, float32."""
    for row in range(indptr.size - 1):
        values, result = data[indptr[row] : indptr[row + 1]], out[indptr[row] : indptr[row + 1]]
        factor = factors[row]
        for at in range(values.size):
            result[at] = np.float32(np.float64(values[at]) * factor)


@compiled
def _slot(value: Any) -> int:
    """Return where a whole count below ``TABLE - 1`` stands in a table, the last place for any other value."""
    if 0 <= value < TABLE - 1 and np.int32(value) == value:
        return int(value)
    return TABLE - 1


@compiled
def log1p_rows(indptr: Array, data: Array, factors: Array, out: Array) -> None:
    """Write ``log1p(entry * factor)`` into `out`, float32; what `_slot` knows is computed once a row."""
    seen, known = np.zeros(TABLE, np.bool_), np.empty(TABLE, np.float32)
    for row in range(indptr.size - 1):
        values, result = data[indptr[row] : indptr[row + 1]], out[indptr[row] : indptr[row + 1]]
        factor = factors[row]
        for at in range(values.size):
            seen[_slot(values[at])] = True  # the last place of a table stands for what is not in it
        for slot in range(TABLE - 1):
            if seen[slot]:
                known[slot] = np.float32(math.log1p(slot * factor))
                seen[slot] = False
        for at in range(values.size):
            slot = _slot(values[at])
            if slot < TABLE - 1:
                result[at] = known[slot]
            else:
                result[at] = np.float32(math.log1p(np.float64(values[at]) * factor))


@compiled
def no_count(data: Array) -> int:
    """Return the place of the first value that is negative, not whole or not a number, or -1."""
    for at in range(data.size):
        if not data[at] >= 0 or np.floor(data[at]) != data[at]:
            return at
    return -1


@compiled
def direct(data: Array, last: int, out: Array) -> None:
    """Write ``min(count, last)`` into `out`, int32; counts are checked by `no_count`."""
    for at in range(data.size):
        out[at] = np.int32(data[at]) if data[at] < last else np.int32(last)


@compiled
def edge_tokens(data: Array, table: Array, edges: Array, out: Array) -> None:
    """Write 1 + the number of edges that a value reaches, 0 for what is not above zero, into `out`, int32.

    Parameters
    ----------
    table
        int32 ``(TABLE,)``: what whole counts become; the last one is not looked at.
    edges
        float64, ascending.
    """
    for at in range(data.size):
        value = np.float64(data[at])
        slot = _slot(value)
        if slot < TABLE - 1:
            out[at] = table[slot]
        elif value > 0:
            out[at] = np.int32(1 + np.searchsorted(edges, value, side="right"))
        else:
            out[at] = np.int32(0)


@compiled
def uniform_bins(indptr: Array, data: Array, n_bins: int, out: Array) -> None:
    """Write the bin of each value between zero and its row's largest, from 1 to ``n_bins - 1``, into `out`, int32."""
    last = np.float64(n_bins - 1)
    for row in range(indptr.size - 1):
        most = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            most = max(most, np.float64(data[at]))
        for at in range(indptr[row], indptr[row + 1]):
            value = np.float64(data[at])
            share = value * last / most if value > 0 else 0.0
            out[at] = np.int32(math.ceil(share)) if share < last else np.int32(last)


@compiled
def _quantile_bin(reached: int, n_values: int, n_bins: int) -> int:
    """Return the bin of a value that `reached` of the row's values do not exceed; see `quantile_bins`."""
    if n_values == 1:
        return n_bins - 1
    return 1 + (reached - 1) * (n_bins - 2) // (n_values - 1)


@compiled
def quantile_bins(indptr: Array, data: Array, n_bins: int, out: Array) -> None:
    """Write each value's bin among its row's values above zero, from 1 to ``n_bins - 1``, into `out`, int32.

    A bin is the number of edges that the value reaches, the edges being the row's quantiles at ``n_bins - 1`` equal
    steps from 0 to 1, interpolated linearly. Edge j lies at position ``j * (m - 1) / (n_bins - 2)`` of the m ascending
    values, so that a value reaches it just when ``j * (m - 1) <= (r - 1) * (n_bins - 2)``, where r values do not exceed
    it: whole numbers, and no edge is ever computed.
    """
    most = 0
    for row in range(indptr.size - 1):
        most = max(most, indptr[row + 1] - indptr[row])
    seen, others = np.zeros(TABLE, np.int64), np.empty(most, np.float64)
    for row in range(indptr.size - 1):
        values, bins = data[indptr[row] : indptr[row + 1]], out[indptr[row] : indptr[row + 1]]
        n_values, n_others, whole = 0, 0, True
        for at in range(values.size):
            value = np.float64(values[at])
            if not value > 0:
                continue
            n_values += 1
            whole &= np.floor(value) == value
            if value < TABLE and whole:
                seen[np.int64(value)] += 1
            else:
                others[n_others] = value
                n_others += 1
        if not whole:  # counts that were taken for whole ones are among fractions now: all are sorted
            n_others = 0
            for at in range(values.size):
                if values[at] > 0:
                    others[n_others] = values[at]
                    n_others += 1
        ordered = others[:n_others]
        ordered.sort()
        reached = 0
        for slot in range(TABLE):
            if seen[slot]:
                reached += seen[slot]
                seen[slot] = _quantile_bin(reached, n_values, n_bins)
        for at in range(values.size):
            value = np.float64(values[at])
            if not value > 0:
                bins[at] = 0
            elif whole and value < TABLE:
                bins[at] = seen[np.int64(value)]
            else:
                smaller = n_values - n_others + int(np.searchsorted(ordered, value, side="right"))
                bins[at] = _quantile_bin(smaller, n_values, n_bins)
        seen[:] = 0


@compiled
def _sort_falling(keys: Array, genes: Array, n: int, other_keys: Array, other_genes: Array, digits: Array) -> bool:
    """Sort n pairs by key from high to low, equal keys as they stand; tell whether the result is in the other arrays.

    Digit by digit of eight bits from the lowest on, leaving out digits in which no two keys differ: of whole numbers
    in float64 five of eight. `digits` is scratch, int32 ``(8, 256)``.
    """
    digits[:] = 0
    for i in range(n):
        left = ~keys[i]
        for digit in range(8):
            digits[digit, left & np.uint64(255)] += 1
            left >>= np.uint64(8)
    swapped = False
    for digit in range(8):
        shift = np.uint64(8 * digit)
        starts = digits[digit]
        if starts[(~keys[0] >> shift) & np.uint64(255)] == n:
            continue
        total = np.int32(0)
        for value in range(256):
            total, starts[value] = total + starts[value], total
        for i in range(n):
            value = (~keys[i] >> shift) & np.uint64(255)
            to = starts[value]
            starts[value] = to + 1
            other_keys[to], other_genes[to] = keys[i], genes[i]
        keys, other_keys = other_keys, keys
        genes, other_genes = other_genes, genes
        swapped = not swapped
    return swapped


@compiled
def rank_rows(
    indptr: Array,
    indices: Array,
    data: Array,
    n_genes: int,
    scale: Array,
    tokens: Array,
    length: int,
    out_indptr: Array,
    out_indices: Array,
    out_data: Array,
) -> int:
    """Write each row's genes by value over scale, from high to low and of equal ones the lower column first.

    Parameters
    ----------
    scale
        float64 ``(n_genes,)``, above zero; empty: all 1.
    tokens
        int32 ``(n_genes,)``: written into `out_data`; genes below zero are left out. Empty: ranks from 1 on.
    length
        At most so many genes a row.
    out_indptr, out_indices, out_data
        int64 ``(n_cells + 1,)``, int32 and int32 ``(nnz,)``, filled from the start. They may be those of the input.

    Returns
    -------
    int
        The place of the first index that is no column, or -1. The row that has it is not written any more.
    """
    most = 1
    for row in range(indptr.size - 1):
        most = max(most, indptr[row + 1] - indptr[row])
    values, genes = np.empty(most, np.float64), np.empty(most, np.int32)
    keys = values.view(np.uint64)  # numbers above zero are in the order of their bits
    other_keys, other_genes, digits = np.empty(most, np.uint64), np.empty(most, np.int32), np.empty((8, 256), np.int32)
    place, begin = 0, indptr[0]
    for row in range(indptr.size - 1):
        end, n = indptr[row + 1], 0
        for at in range(begin, end):
            gene = indices[at]
            if gene < 0 or gene >= n_genes:
                return at
            if data[at] > 0 and (tokens.size == 0 or tokens[gene] >= 0):
                values[n] = data[at] / scale[gene] if scale.size else np.float64(data[at])
                genes[n] = gene
                n += 1
        swapped = _sort_falling(keys, genes, n, other_keys, other_genes, digits) if n > 1 else False
        ranked = other_genes if swapped else genes
        for i in range(min(n, length)):
            out_indices[place] = ranked[i]
            out_data[place] = tokens[ranked[i]] if tokens.size else i + 1
            place += 1
        begin = end
        out_indptr[row + 1] = place
    out_indptr[0] = 0
    return -1
