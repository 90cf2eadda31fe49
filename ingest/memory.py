"""What a worker will hold, before it holds it. All sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.encode.sizes import FileKind
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from ingest.profile import Profile

__all__ = ["MIB", "MemoryPlan", "plan_memory", "slab_bytes", "slab_entries"]

MIB = 1 << 20

BASE = 448 * MIB
"""A worker that has read nothing: Python, Ray, TileDB, HDF5, numba and its compiled kernels, the rows of a unit.

With one malloc arena (`MALLOC_ARENA_MAX`), as a local Ray and the image have it; else it is 250 MiB more."""

_CELL = 400
"""obs, names, row lookup of one cell."""

_GENES = 4 * MIB
"""The gene table, compressed, in every file; 600 kB for those of a Census."""

_BUFFERS = 40 * MIB
"""For reading, whatever the slab: TileDB's buffers and tiles."""

_REMOTE_BUFFERS = 160 * MIB
"""The same over a network, beyond `_BUFFERS`: fewer and larger steps, since each waits (`ingest.fetch.soma_config`)."""

_NARROW_GENES = 1 << 16
"""So many columns, and no more, are numbered in two bytes."""

_LEAST_SLAB = 96 * MIB

_USUAL_SLAB = 112 * MIB
"""2.7 million entries: one band where half of a Census' cells are wanted; where all are, `plan_memory` makes it a whole
band, twice that. Small ones, since reading a unit's first slab and encoding its last overlap with nothing, and since
what was placed is still in the CPU's cache when it is encoded. Smaller ones would read the tiles at their seams twice
too often."""

_USUAL_FILE = FileKind("h5ad", "deflate", "float32")
_USUAL_UPLOAD = 64 * MIB
_MOST_UPLOADS = 16
"""Small files under way: twice as many as are written at a time."""

_FRACTION = 8
"""A value that is no whole number, at most."""

_WINDOW_CELL = 200
"""Name, place and pointers of a cell meanwhile."""

_BESIDE = 4
"""What an entry costs beside its values: runs of rows, and room that tables did not fill."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How one worker's memory is divided."""

    chunk: int
    """For the chunk in the making: its compressed blocks, and the file that they become."""
    slab: int
    """For reading: buffers and assembled counts of one slab, and the one before it, being encoded."""
    upload: int
    """For finished files under way to the store."""
    network: int = 0
    """For reading a Census over a network, beyond what reading a local one takes."""
    window: int = 0
    """For the rows of a window until all of them are read, and for those of the next that are read ahead."""

    @property
    def projected(self) -> int:
        """Peak resident memory of a worker."""
        return BASE + self.chunk + self.slab + self.upload + self.network + self.window


def plan_memory(
    profile: Profile,
    *,
    cells_per_chunk: int,
    value_bytes: int,
    limit: int,
    kind: FileKind = _USUAL_FILE,
    n_genes: int = 0,
    remote: bool = False,
    window_cells: int = 0,
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
    kind
        Of the chunks' files.
    n_genes
        Their columns: where zeros are stored, they count.
    remote
        Whether a Census is read over a network.
    window_cells
        Rows that are mixed with each other; 0 where they are not.

    Raises
    ------
    ConfigError
        The largest chunk, or window, does not fit; the message has the numbers that would do.
    """
    largest = int(profile.nnz.max(initial=0))
    file = kind.most_bytes(largest, cells_per_chunk, n_genes) + cells_per_chunk * _CELL + _GENES
    upload = min(_USUAL_UPLOAD, _MOST_UPLOADS * file)
    # A file that alone exceeds the bound is under way by itself, while the next one's blocks are compressed.
    chunk, upload = 2 * file, max(0, upload - file)
    least = max(_LEAST_SLAB, slab_bytes(profile.largest_band_nnz, value_bytes))
    network = _REMOTE_BUFFERS if remote else 0
    fixed = BASE + network
    room = limit - fixed - chunk - upload
    held = _held_bytes(kind, n_genes)
    window = profile.largest_window_nnz * held + window_cells * _WINDOW_CELL
    if least <= room < least + window:
        raise _window_error(window, window_cells, cells_per_chunk, room - least, limit)
    if room < least:
        needed = -(-(fixed + chunk + upload + least + window) // MIB)
        fits = max(0, limit - fixed - least - _USUAL_UPLOAD) * cells_per_chunk // max(1, chunk)
        smaller = f", or -c {fits}" if fits and not window else ""
        raise ConfigError(
            f"a chunk of {cells_per_chunk:,} cells with {largest:,} non-zeros needs {needed:,} MiB in a worker; "
            f"--memory allows {limit // MIB:,}",
            kind="memory",
            hint=f"--memory {needed}M{smaller} would do",
        )
    slab = max(least, min(room - window, _USUAL_SLAB))
    # The next window is read as the chunks of this one are encoded: the first of them makes no room until it is done.
    ahead = min(max(0, room - window - slab), largest * held + cells_per_chunk * _WINDOW_CELL) if window else 0
    return MemoryPlan(chunk, slab, upload, network, window + ahead)


def _held_bytes(kind: FileKind, n_genes: int) -> int:
    """Return what an entry takes that is read and not in its place yet; see `ingest.window_store`."""
    return (2 if n_genes <= _NARROW_GENES else 4) + (_FRACTION if kind.fractions else 2)


def _window_error(window: int, window_cells: int, cells_per_chunk: int, room: int, limit: int) -> ConfigError:
    needed = -(-(limit - room + window) // MIB)
    fits = window_cells * room // window // cells_per_chunk * cells_per_chunk
    smaller = f", or --shuffle-window {fits}" if fits else f", or a -c below {cells_per_chunk}"
    return ConfigError(
        f"a window of {window_cells:,} cells takes {window // MIB:,} MiB, with all else {needed:,} MiB in a worker; "
        f"--memory allows {limit // MIB:,}",
        kind="memory",
        hint=f"--memory {needed}M{smaller} would do",
    )


def slab_bytes(entries: int, value_bytes: int) -> int:
    """Return what a worker holds while it reads a slab of so many entries and encodes the one before.

    Those being read stand in pieces, as they were delivered, and in rows; those being encoded in rows.
    """
    return _BUFFERS + entries * (3 * (4 + value_bytes) + _BESIDE)


def slab_entries(limit: int, value_bytes: int) -> int:
    """Return the entries of the largest slab that `limit` allows."""
    return max(0, limit - _BUFFERS) // (3 * (4 + value_bytes) + _BESIDE)
