"""What transforms share. The seam that they fill is `ingest.load.stream.Transform`.

A loader applies a transform to a whole window of cells at once, in a background thread or a worker process. A transform
treats each cell by itself, so that how cells are cut into windows makes no difference, and the window's arrays are
its own: it may write into them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError
from ingest.load.transform import kernels

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ingest.block import Counts

__all__ = ["Totals", "bad_transform", "goes_by_totals", "room", "totals_of"]

Array = np.ndarray[Any, Any]
Totals = np.ndarray[Any, np.dtype[np.float64]]


def goes_by_totals(transform: object) -> bool:
    """Tell whether a transform, or any callable in its place, has another result with other totals."""
    return bool(getattr(transform, "goes_by_totals", False))


def totals_of(counts: Counts, totals: Totals | None) -> Totals:
    """Return each cell's sum over all genes, float64 ``(n_cells,)``: those handed over, or else counted."""
    if totals is None:
        totals = np.empty(counts.n_cells, np.float64)
        kernels.add_rows(counts.indptr, counts.data, totals)
    if len(totals) != counts.n_cells:
        raise ValueError(f"{len(totals)} totals for {counts.n_cells} cells")
    return totals


def room(data: Array, dtype: DTypeLike) -> Array:
    """Return an array as long as `data` to write into: the same memory where an entry takes as many bytes.

    A kernel that writes there must have read an entry before it overwrites it. New pages for a window cost as much as
    the arithmetic does.
    """
    wanted = np.dtype(dtype)
    if data.dtype.itemsize == wanted.itemsize and data.flags.writeable and data.flags.c_contiguous:
        return data.view(wanted)
    return np.empty(len(data), wanted)


def bad_transform(message: str, hint: str | None = None) -> ConfigError:
    """Return the error of settings that make no sense, or do not go with the data."""
    return ConfigError(message, kind="bad-transform", hint=hint)
