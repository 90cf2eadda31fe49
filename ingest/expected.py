"""What a plan expects of its chunks before anything is read: bytes from its profile, seconds from measured speeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.preparing import file_kind
from ingest.store.url import parse_store_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.plan import Plan
    from ingest.profile import Profile
    from ingest.survey.model import SourceSurvey

__all__ = ["START_SECONDS", "Expected", "SharedLine", "expect", "shared_line"]

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


@dataclass(frozen=True, slots=True)
class SharedLine:
    """What a line with a limit has to carry: nothing of what lies on this machine's own disks."""

    bytes_per_s: float
    carries_reads: bool
    carries_writes: bool

    def n_bytes(self, read_bytes: float, write_bytes: float) -> float:
        """Return how much of that passes it."""
        return self.carries_reads * read_bytes + self.carries_writes * write_bytes


def shared_line(bytes_per_s: float | None, surveys: Sequence[SourceSurvey], dest: str | None) -> SharedLine | None:
    """Return the line of a run, None where there is no limit.

    Parameters
    ----------
    dest
        URL of DEST; None, not known yet, is taken for a bucket.
    """
    if bytes_per_s is None:
        return None
    far = any(survey.source.path is None for survey in surveys)
    return SharedLine(bytes_per_s, far, dest is None or parse_store_url(dest).scheme != "file")


def expect(plan: Plan, profile: Profile, chunks: Sequence[int], read_bytes: float) -> Expected:
    """Return what making `chunks` should take, whose cells lie in `read_bytes` of their sources."""
    n_cells = sum(stop - start for start, stop in map(plan.rows, chunks))
    nnz = int(profile.nnz[list(chunks)].sum()) if chunks else 0
    kind, n_genes = file_kind(plan.identity), plan.identity.n_genes
    written = kind.expected_bytes(nnz, n_cells, n_genes) + len(chunks) * kind.table_bytes(n_genes)
    seconds = read_bytes / _READ_BYTES_PER_SECOND + nnz / _NNZ_PER_SECOND + len(chunks) * _CHUNK_SECONDS
    return Expected(n_cells, len(chunks), read_bytes, written, seconds)
