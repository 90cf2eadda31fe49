"""Compiled passes over lines: checks, choices, and entries dealt out to other lines.

Values are passed as unsigned numbers of their width, so that few combinations are compiled; indices are int32 or int64,
pointers int64. Every index is checked (`outside`) before another kernel uses it as one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = [
    "choose_entries",
    "count_chosen",
    "deal",
    "outside",
    "place_dealt",
    "sort_lines",
    "spread",
    "take_lines",
    "transpose",
]

Array = np.ndarray[Any, Any]


@compiled
def outside(indices: Array, n: int) -> int:
    """Return the position of the first index that is not within ``[0, n)``, or -1."""
    step = 4096
    for begin in range(0, indices.size, step):
        part, wrong = indices[begin : begin + step], False
        for at in range(part.size):
            wrong |= (part[at] < 0) | (part[at] >= n)
        if wrong:
            for at in range(part.size):
                if part[at] < 0 or part[at] >= n:
                    return begin + at
    return -1


@compiled
def take_lines(indptr: Array, indices: Array, values: Array, wanted: Array, to: Array, into: Array) -> None:
    """Copy the entries of some lines, one line after the other, to `to` and `into`."""
    place = 0
    for line in wanted:
        start, n = indptr[line], indptr[line + 1] - indptr[line]
        to[place : place + n] = indices[start : start + n]
        into[place : place + n] = values[start : start + n]
        place += n


@compiled
def count_chosen(indptr: Array, indices: Array, places: Array, counts: Array) -> None:
    """Count the entries of each line that have a place, int64 ``(n_lines,)``; see `choose_entries`."""
    for line in range(counts.size):
        n = 0
        for at in range(indptr[line], indptr[line + 1]):
            n += places[indices[at]] >= 0
        counts[line] = n


@compiled
def choose_entries(indptr: Array, indices: Array, values: Array, places: Array, to: Array, into: Array) -> bool:
    """Keep entries whose index has a place, under its number; tell whether places fall within a line.

    Parameters
    ----------
    places
        int32 or int64 ``(n,)``: the new number of each index; -1: it goes.
    to, into
        With room for one entry more than are kept.
    """
    at, falls = 0, False
    for line in range(indptr.size - 1):
        before = np.int64(-1)
        for entry in range(indptr[line], indptr[line + 1]):
            place = places[indices[entry]]
            # Written always and kept where it counts: cheaper than a branch that is guessed wrong.
            to[at], into[at] = place, values[entry]
            kept = place >= 0
            falls |= kept & (place < before)
            before = np.int64(place) if kept else before
            at += kept
    return falls


@compiled
def spread(indptr: Array, numbers: Array, out: Array) -> None:
    """Write each line's number for each of its entries."""
    for line in range(indptr.size - 1):
        out[indptr[line] : indptr[line + 1]] = numbers[line]


@compiled
def transpose(
    numbers: Array, indptr: Array, indices: Array, values: Array, ends: Array, to: Array, into: Array
) -> None:
    """Deal the entries of lines out to the lines that their indices say, in the order they come.

    Parameters
    ----------
    numbers
        ``(n_lines,)``: what each line is called, in `to`.
    ends
        int64 ``(n_new + 1,)`` of zeros, filled: pointers of the new lines.
    """
    for at in range(indices.size):
        ends[indices[at] + 1] += 1
    for line in range(1, ends.size):
        ends[line] += ends[line - 1]
    cursor = ends[:-1].copy()
    for line in range(indptr.size - 1):
        number = numbers[line]
        for at in range(indptr[line], indptr[line + 1]):
            index = indices[at]
            place = cursor[index]
            to[place], into[place] = number, values[at]
            cursor[index] = place + 1


@compiled
def deal(
    lines: Array, places: Array, values: Array, shift: int, ends: Array, nears: Array, to: Array, into: Array
) -> None:
    """Sort entries by bundles of ``2**shift`` lines, in the order they come.

    Parameters
    ----------
    lines
        int64 ``(n,)``: to which line each goes.
    places, values
        ``(n,)``.
    ends
        int64 ``(n_bundles + 1,)`` of zeros, filled: where each bundle begins.
    nears, to, into
        ``(n,)``: the line within its bundle, uint16; place; value.
    """
    for at in range(lines.size):
        ends[(lines[at] >> shift) + 1] += 1
    for bundle in range(1, ends.size):
        ends[bundle] += ends[bundle - 1]
    cursor = ends[:-1].copy()
    for at in range(lines.size):
        bundle = lines[at] >> shift
        slot = cursor[bundle]
        nears[slot] = lines[at] - (bundle << shift)
        to[slot], into[slot] = places[at], values[at]
        cursor[bundle] = slot + 1


@compiled
def place_dealt(
    nears: Array, bases: Array, starts: Array, places: Array, values: Array, ends: Array, to: Array, into: Array
) -> None:
    """Put entries that were dealt out into their lines, in the order they come.

    Parameters
    ----------
    nears, places, values
        ``(n,)``: the line within its bundle, place, value.
    bases, starts
        int64 ``(n_stretches,)``, ``(n_stretches + 1,)``: the first line, counted from that of `ends`, of the bundle
        that a stretch of entries belongs to, and where it begins.
    ends
        int64 ``(n_lines + 1,)`` of zeros, filled: pointers.
    """
    for stretch in range(bases.size):
        base = bases[stretch] + 1
        for at in range(starts[stretch], starts[stretch + 1]):
            ends[base + nears[at]] += 1
    for line in range(1, ends.size):
        ends[line] += ends[line - 1]
    cursor = ends[:-1].copy()
    for stretch in range(bases.size):
        base = bases[stretch]
        for at in range(starts[stretch], starts[stretch + 1]):
            line = base + nears[at]
            slot = cursor[line]
            to[slot], into[slot] = places[at], values[at]
            cursor[line] = slot + 1


@compiled
def sort_lines(indptr: Array, indices: Array, values: Array) -> None:
    """Sort the entries of each line by index, in place; those of one index keep their order."""
    for line in range(indptr.size - 1):
        start, stop = indptr[line], indptr[line + 1]
        falls = False
        for at in range(start + 1, stop):
            falls |= indices[at] < indices[at - 1]
        if falls:
            order = np.argsort(indices[start:stop], kind="mergesort")
            indices[start:stop] = indices[start:stop][order]
            values[start:stop] = values[start:stop][order]
