"""What a worker will hold, before it holds it. All sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from ingest.profile import Profile

__all__ = ["MIB", "MemoryPlan", "entry_bytes", "plan_memory"]

MIB = 1 << 20

BASE = 560 * MIB
"""A worker that has read nothing: Python, Ray, TileDB, HDF5, numba."""

_ENCODED_PER_NNZ = 4
"""The compressed file in memory while it grows; 2 to 3 bytes in the file itself."""

_CELL = 400
"""obs, names, row lookup of one cell."""

_LEAST_SLAB = 96 * MIB

_USUAL_SLAB = 256 * MIB
"""Larger reads are no faster (design.md: buffers of 32 to 128 MB do); smaller ones cost a call each."""

_TRIPLE = 20
"""An entry as SOMA delivers it: two int64 coordinates and a float32."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How one worker's memory is divided."""

    chunk: int
    """For the largest chunk, its counts and its file."""
    slab: int
    """For reading: buffers and assembled counts of one slab."""

    @property
    def projected(self) -> int:
        """Peak resident memory of a worker."""
        return BASE + self.chunk + self.slab


def plan_memory(profile: Profile, *, cells_per_chunk: int, value_bytes: int, limit: int) -> MemoryPlan:
    """Divide a worker's memory.

    Parameters
    ----------
    profile
        The plan's chunks.
    value_bytes
        Of one count.
    limit
        Most that a worker may hold.

    Raises
    ------
    ConfigError
        The largest chunk does not fit; the message has the numbers that would do.
    """
    largest = int(profile.nnz.max(initial=0))
    chunk = largest * (value_bytes + 4 + _ENCODED_PER_NNZ) + cells_per_chunk * _CELL
    least = max(_LEAST_SLAB, profile.largest_band_nnz * entry_bytes(value_bytes))
    room = limit - BASE - chunk
    if room < least:
        needed = -(-(BASE + chunk + least) // MIB)
        fits = max(0, limit - BASE - least) * cells_per_chunk // max(1, chunk)
        smaller = f", or -c {fits}" if fits else ""
        raise ConfigError(
            f"a chunk of {cells_per_chunk:,} cells with {largest:,} non-zeros needs {needed:,} MiB in a worker; "
            f"--memory allows {limit // MIB:,}",
            kind="memory",
            hint=f"--memory {needed}M{smaller} would do",
        )
    return MemoryPlan(chunk, max(least, min(room, _USUAL_SLAB)))


def entry_bytes(value_bytes: int) -> int:
    """Return what one entry costs while its slab is read: as it is delivered, and as it is put into rows."""
    return _TRIPLE + 4 + value_bytes
