"""The seam to what an archive is made of: rows of a source, stored entries as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.load.memmap.names import FileNames

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.load.memmap.archive import ArrayFiles

__all__ = ["LossyCast", "Place", "RowSource", "Written", "loss_text", "worse_of"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Place:
    """Which rows of a source, and where they go."""

    first_row: int
    n_rows: int
    row_at: int
    """Row of the archive that the first becomes."""
    entry_at: int
    """Entry of the archive that the first row's first becomes."""


@dataclass(frozen=True, slots=True)
class LossyCast:
    """The entry that the cast to the archive's type changes most, by more than is tolerated."""

    row: int
    """Of the source."""
    value: str
    """As numpy prints it."""
    difference: str
    """Between it and what is stored, as numpy prints it: ``nan`` where one of them is."""
    size: float
    """The same as a number."""


@dataclass(frozen=True, slots=True)
class Written:
    """What has been written."""

    n_rows: int
    n_entries: int
    lossy: LossyCast | None = None


class RowSource(Protocol):
    """An open source of rows. Not pickled, not shared between processes; `close` lets go of files."""

    @property
    def label(self) -> str:
        """What the rows are said to be of, in feature indices."""
        ...

    @property
    def n_rows(self) -> int:
        """Rows."""
        ...

    @property
    def n_columns(self) -> int:
        """Columns."""
        ...

    @property
    def n_entries(self) -> int:
        """Stored entries."""
        ...

    def entries_before(self, rows: Int64) -> Int64:
        """Return how many stored entries stand before each of some rows, int64; `rows` ascend, up to `n_rows`."""
        ...

    def write(
        self, place: Place, into: ArrayFiles, *, tolerance: float = 1e-8, reached: Callable[[int], None] | None = None
    ) -> Written:
        """Write values, columns and row ends of some rows, cast to the types of `into`, in bounded memory.

        Parameters
        ----------
        tolerance
            How far a stored value may be from the source's before it is reported: as numpy's ``allclose`` with
            ``rtol=0``, so that NaN is near nothing.
        reached
            Is told now and then how many of the rows are written.

        Raises
        ------
        IngestError
            The source is damaged, has changed, or cannot be reached; what has been written of this place is worthless.
        """
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


def loss_text(lossy: LossyCast, of: str = "Full Dataset") -> str:
    """Return what bionemo-scdl warns of such a cast."""
    return (
        f"{of}: Downcasted data values for '{FileNames.DATA.value}' are not close to original values. "
        f"Max abs diff: {lossy.difference}"
    )


def worse_of(one: LossyCast | None, other: LossyCast | None) -> LossyCast | None:
    """Return the cast that changes more; NaN is worse than any number."""
    if one is None or other is None:
        return one or other
    return one if math.isnan(one.size) or other.size <= one.size else other
