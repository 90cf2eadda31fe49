"""Rows and columns as ranges: what lies closely together is read as one. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["coordinate_of", "ranges_of", "split_rows"]

Rows = np.ndarray[Any, np.dtype[np.int64]]


def ranges_of(values: Rows, gap: int) -> Rows:
    """Join ascending distinct `values` into inclusive ranges, int64 ``(n, 2)``, bridging up to `gap` values between."""
    if not len(values):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(values) > gap + 1)
    first = values[np.concatenate([[0], breaks + 1])]
    last = values[np.concatenate([breaks, [len(values) - 1]])]
    return np.stack([first, last], axis=1)


def split_rows(rows: Rows, band_rows: int, most_rows: int) -> list[Rows]:
    """Cut ascending `rows` where bands end, into pieces of at most `most_rows`, or of one band if that has more."""
    edges = [*(np.flatnonzero(np.diff(rows // max(1, band_rows))) + 1).tolist(), len(rows)]
    pieces, begin, last = [], 0, 0
    for edge in edges:
        if edge - begin > most_rows and last > begin:
            pieces.append(rows[begin:last])
            begin = last
        last = edge
    return [*pieces, rows[begin:]]


def coordinate_of(ranges: Rows) -> slice | Rows:
    """Return `ranges` as SOMA takes them: one as a slice, several as points, which TileDB joins again."""
    if len(ranges) == 1:
        return slice(int(ranges[0, 0]), int(ranges[0, 1]))
    lengths = ranges[:, 1] - ranges[:, 0] + 1
    ends = np.cumsum(lengths)
    points: Rows = np.arange(ends[-1]) + np.repeat(ranges[:, 0] - (ends - lengths), lengths)
    return points
