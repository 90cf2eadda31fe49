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

_CELL = 400
"""obs, names, row lookup of one cell."""

_GENES = 4 * MIB
"""The gene table, compressed, in every file; 600 kB for those of a Census."""

_LEAST_SLAB = 96 * MIB

_USUAL_SLAB = 256 * MIB
"""Larger reads are no faster (design.md: buffers of 32 to 128 MB do); smaller ones cost a call each."""

_USUAL_UPLOAD = 64 * MIB
_MOST_UPLOADS = 16
"""Small files under way: twice as many as are written at a time."""

_TRIPLE = 20
"""An entry as SOMA delivers it: two int64 coordinates and a float32."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How one worker's memory is divided."""

    chunk: int
    """For the chunk in the making: its compressed blocks, and the file that they become."""
    slab: int
    """For reading: buffers and assembled counts of one slab, and the one before it, being encoded."""
    upload: int
    """For finished files under way to the store."""

    @property
    def projected(self) -> int:
        """Peak resident memory of a worker."""
        return BASE + self.chunk + self.slab + self.upload


def plan_memory(
    profile: Profile, *, cells_per_chunk: int, value_bytes: int, limit: int, codec: str = "deflate"
) -> MemoryPlan:
    """Divide a worker's memory.

    Parameters
    ----------
    profile
        The plan's chunks.
    value_bytes
        Of one count.
    limit
        Most that a worker may hold.
    codec
        How chunks are compressed.

    Raises
    ------
    ConfigError
        The largest chunk does not fit; the message has the numbers that would do.
    """
    largest = int(profile.nnz.max(initial=0))
    file = largest * _encoded_bytes(codec, value_bytes) + cells_per_chunk * _CELL + _GENES
    upload = min(_USUAL_UPLOAD, _MOST_UPLOADS * file)
    # A file that alone exceeds the bound is under way by itself, while the next one's blocks are compressed.
    chunk, upload = 2 * file, max(0, upload - file)
    least = max(_LEAST_SLAB, profile.largest_band_nnz * entry_bytes(value_bytes))
    room = limit - BASE - chunk - upload
    if room < least:
        needed = -(-(BASE + chunk + upload + least) // MIB)
        fits = max(0, limit - BASE - least - _USUAL_UPLOAD) * cells_per_chunk // max(1, chunk)
        smaller = f", or -c {fits}" if fits else ""
        raise ConfigError(
            f"a chunk of {cells_per_chunk:,} cells with {largest:,} non-zeros needs {needed:,} MiB in a worker; "
            f"--memory allows {limit // MIB:,}",
            kind="memory",
            hint=f"--memory {needed}M{smaller} would do",
        )
    return MemoryPlan(chunk, max(least, min(room, _USUAL_SLAB)), upload)


def _encoded_bytes(codec: str, value_bytes: int) -> int:
    """Return what one non-zero takes in a file, at most: counts of a Census 1.65, of bulk-like cells nearly 3."""
    return value_bytes + 4 if codec == "none" else 3


def entry_bytes(value_bytes: int) -> int:
    """Return what one entry costs while its slab is read: as it is delivered, and as it is put into rows."""
    return _TRIPLE + 4 + value_bytes
