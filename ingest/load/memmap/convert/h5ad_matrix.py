"""The seam between a file's matrix, however it lies, and the rows of it that an archive takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.load.memmap.archive import ArchiveSpec
    from ingest.load.memmap.convert.base import Place, Written

__all__ = ["Arrays", "MatrixRows", "Reading"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One open file, and what reading it may take."""

    file: OpenH5ad
    threads: int
    memory_bytes: int
    """Of entries that are held at once: row pointers, slabs, transposed rows."""
    lock: Lock = field(default_factory=Lock)
    """Held while HDF5 reads."""


class Arrays(Protocol):
    """Where entries go; see `ingest.load.memmap.archive.ArrayFiles`."""

    @property
    def spec(self) -> ArchiveSpec:
        """Sizes and types."""
        ...

    def write_values(self, at: int, values: Array) -> None:
        """Write values from entry `at` on."""
        ...

    def write_columns(self, at: int, columns: Array) -> None:
        """Write columns from entry `at` on."""
        ...

    def write_row_ends(self, at: int, ends: Array) -> None:
        """Write where rows end, of the rows from `at` on."""
        ...


class MatrixRows(Protocol):
    """Rows of one matrix; see `ingest.load.memmap.convert.base.RowSource`."""

    @property
    def n_entries(self) -> int:
        """Stored entries; of a dense matrix those that are not zero."""
        ...

    def entries_before(self, rows: Array) -> Array:
        """Return how many entries stand before each of `rows`, int64, ascending."""
        ...

    def write(self, place: Place, into: Arrays, *, tolerance: float, reached: Callable[[int], None]) -> Written:
        """Write some rows."""
        ...
