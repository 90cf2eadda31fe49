"""What a plan expects of its chunks before anything is read: bytes from its profile, seconds from measured speeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.preparing import file_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.plan import Plan
    from ingest.profile import Profile

__all__ = ["START_SECONDS", "Expected", "expect"]

_READ_BYTES_PER_SECOND = 8e7
_NNZ_PER_SECOND = 7e7
_CHUNK_SECONDS = 0.008
"""Of one worker, for the expected time: reading stored bytes, encoding non-zeros, and what each chunk costs beside.

From `python -m benchmarks --only dense chunk_size` on a local disk; a network may be slower, and `estimate` measures.
"""

START_SECONDS = {"ray": 8.0, "serial": 2.0}
"""Until the first worker works."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a plan expects of some of its chunks."""

    n_cells: int
    n_chunks: int
    read_bytes: float
    write_bytes: int
    seconds: float
    """Of one worker."""


def expect(plan: Plan, profile: Profile, chunks: Sequence[int], read_bytes: float) -> Expected:
    """Return what making `chunks` should take, whose cells lie in `read_bytes` of their sources."""
    n_cells = sum(stop - start for start, stop in map(plan.rows, chunks))
    nnz = int(profile.nnz[list(chunks)].sum()) if chunks else 0
    kind, n_genes = file_kind(plan.identity), plan.identity.n_genes
    written = kind.expected_bytes(nnz, n_cells, n_genes) + len(chunks) * kind.table_bytes(n_genes)
    seconds = read_bytes / _READ_BYTES_PER_SECOND + nnz / _NNZ_PER_SECOND + len(chunks) * _CHUNK_SECONDS
    return Expected(n_cells, len(chunks), read_bytes, written, seconds)
