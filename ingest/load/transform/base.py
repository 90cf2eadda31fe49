"""The seam: what a loader asks of a transform, and what it hands over.

A loader applies a transform to a whole window of cells at once, in a background thread or a worker process. A transform
treats each cell by itself, so that how cells are cut into windows makes no difference, and the window's arrays are
its own: it may write into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.block import Counts
from ingest.errors import ConfigError
from ingest.load.transform import kernels

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["SubsetCounts", "Transform", "bad_transform", "needs_totals", "room", "totals_of"]

Array = np.ndarray[Any, Any]


class Transform(Protocol):
    """Change the values of cells, which come as they are stored: float32, int32, uint16 and others."""

    @property
    def needs_totals(self) -> bool:
        """Whether it wants each cell's sum over all genes of the dataset, whatever genes are delivered.

        A loader that delivers only some genes then hands over `SubsetCounts`. A callable without this property is
        taken to need none.
        """
        ...

    def __call__(self, counts: Counts) -> Counts:
        """Return cells of the same number and order; `counts` are not to be used any more."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SubsetCounts(Counts):
    """`Counts` of some of the dataset's genes, together with the sums over all of them.

    Without the sums, normalising a cell by what is left of it would make the values of one gene depend on which others
    were asked for: where 2,000 genes hold a fifth of the counts, everything would come out five times too large.
    """

    totals: np.ndarray[Any, np.dtype[np.float64]]
    """float64 ``(n_cells,)``: each cell's sum over all genes of the dataset."""

    def __post_init__(self) -> None:
        if len(self.totals) != self.n_cells:
            raise ValueError(f"{len(self.totals)} totals for {self.n_cells} cells")

    def rows(self, start: int, stop: int) -> SubsetCounts:
        """Return cells ``[start, stop)``, as `Counts.rows` does."""
        rows = Counts.rows(self, start, stop)
        return SubsetCounts(rows.indptr, rows.indices, rows.data, rows.n_genes, self.totals[start:stop])


def needs_totals(transform: object) -> bool:
    """Tell whether a transform, or any callable in its place, wants the totals of `SubsetCounts`."""
    return bool(getattr(transform, "needs_totals", False))


def totals_of(counts: Counts) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each cell's sum over all genes, float64 ``(n_cells,)``: those handed over, or else counted."""
    if isinstance(counts, SubsetCounts):
        return counts.totals
    totals = np.empty(counts.n_cells, np.float64)
    kernels.add_rows(counts.indptr, counts.data, totals)
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
