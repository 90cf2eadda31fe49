"""The seam to a source: open it at its surveyed version, read rows of it in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ingest.bandwidth import Line

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from ingest.block import Counts

__all__ = ["FetchLimits", "FetchOptions", "Fetched", "Fetcher"]


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetcher may use; a worker's share, not the machine's."""

    memory_bytes: int
    """Upper bound for what one `read` holds beside its result, and for a transposition in memory."""
    threads: int
    """TileDB, numba and decompression threads."""
    scratch: Path
    """Where a transposition larger than memory goes; the fetcher removes what it put there."""
    line: Line = field(default_factory=Line, compare=False)
    """What all bytes from a network pass."""


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What shapes the data; part of the plan's identity."""

    dtype: str = "float32"
    """Value type delivered; a count that it cannot hold exactly is refused."""
    allow_noninteger: bool = False
    """Deliver fractional values (then in their own float type) instead of refusing them."""


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """Rows of one source, in the order asked for."""

    counts: Counts
    """``(n_rows, n_genes)`` over the dataset's genes."""
    names: pa.StringArray | None
    """The source's own obs names ``(n_rows,)``; None for SOMA, whose names are the joinids."""
    bytes_read: int
    """Stored bytes taken from the source for this read; 0 where the library does not tell."""
    was_unsorted: bool
    """Indices within a row did not ascend in the source and were sorted here."""


class Fetcher(Protocol):
    """One open source. Not pickled, not shared between threads; `close` releases handles and scratch."""

    def read(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Fetched:
        """Return the counts of `rows`: int64 ``(n_rows,)`` joinids or row numbers, distinct, in any order.

        Raises
        ------
        SourceError
            Out-of-range rows, damaged or hostile structure, values that are no counts: nothing is delivered.
        SourceChangedError
            The source is no longer the surveyed version.
        TransientError
            The network; nothing was delivered.
        """
        ...

    def expect(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Hear what the `read` after the next one will most likely be given, which may be loaded meanwhile."""
        ...

    def close(self) -> None:
        """Release handles and scratch files."""
        ...
