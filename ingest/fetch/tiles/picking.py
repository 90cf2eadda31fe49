"""Which tiles rows need, and which bytes tiles are. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ingest.fetch.tiles.fragment import Fragment

__all__ = ["byte_ranges", "pick_tiles"]

Numbers = np.ndarray[Any, np.dtype[np.int64]]


def pick_tiles(fragment: Fragment, rows: Numbers, columns: Numbers | None) -> Numbers:
    """Return the tiles that may hold an entry of the wanted rows and columns, int64, ascending.

    Parameters
    ----------
    rows
        int64 ``(n, 2)``: inclusive ranges, ascending and apart from each other.
    columns
        The same of columns; None for all.
    """
    picked = _touched(fragment.rows, rows)
    return picked if columns is None else picked[_touched(fragment.columns[picked], columns)]


def _touched(boxes: Numbers, ranges: Numbers) -> Numbers:
    """Return which of the inclusive `boxes` ``(m, 2)`` meet any of `ranges`."""
    if not len(ranges):
        return np.empty(0, np.int64)
    # The first range that ends at or after the box's begin is the only one that has to be looked at.
    first = np.searchsorted(ranges[:, 1], boxes[:, 0])
    begins = np.append(ranges[:, 0], np.iinfo(np.int64).max)[first]
    return np.flatnonzero(begins <= boxes[:, 1])


def byte_ranges(starts: Numbers, tiles: Numbers, *, most_gap_bytes: int, most_bytes: int) -> Numbers:
    """Return the byte ranges to ask for, int64 ``(n, 4)``: first byte, end, first and last position in `tiles`.

    Parameters
    ----------
    starts
        int64 ``(n_tiles + 1,)`` of one file.
    tiles
        int64, ascending.
    most_gap_bytes
        What lies between two tiles is read as well, up to so much.
    most_bytes
        A range ends where it would become longer, but never inside a tile.
    """
    if not len(tiles):
        return np.empty((0, 4), np.int64)
    ranges: list[list[int]] = []
    begins, ends = starts[tiles].tolist(), starts[tiles + 1].tolist()
    for position, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        last = ranges[-1] if ranges else None
        if last is not None and begin - last[1] <= most_gap_bytes and end - last[0] <= most_bytes:
            last[1], last[3] = end, position
        else:
            ranges.append([begin, end, position, position])
    return np.array(ranges, np.int64)
