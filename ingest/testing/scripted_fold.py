"""A fold that lists the chunks it was given, and ends processes or raises as told: for tests of whoever runs folds."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ingest.errors import NotCountsError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.fold_worker import ReadChunk
    from ingest.folding import ChunkFold
    from ingest.opened import OpenPlan

__all__ = ["ChunkList", "Deed", "Scripted"]

S = TypeVar("S")

Deed = Literal["kill", "kill always", "raise", "transient", "source"]
"""What happens at the first attempt at a chunk: SIGKILL of the process, or an error; ``kill always`` at every one."""


@dataclass(frozen=True, slots=True)
class ChunkList:
    """Adds up which chunks were seen, how often, and how many cells they have."""

    def begin(self, opened: OpenPlan) -> list[tuple[int, int]]:  # noqa: ARG002 # the Protocol's
        """Return no chunks."""
        return []

    def add(self, state: list[tuple[int, int]], chunk: ReadChunk) -> None:
        """Add one chunk."""
        state.append((chunk.number, sum(piece.counts.n_cells for piece in chunk.pieces())))

    def merge(self, state: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
        """Add others; in order of their numbers, so that the order of merging does not show."""
        state.extend(other)
        state.sort()


@dataclass(frozen=True, slots=True)
class Scripted(Generic[S]):
    """A fold to which things happen, once each, half-way through a chunk."""

    fold: ChunkFold[S]
    folder: str
    """An existing folder where attempts are marked; a dead process cannot remember them."""
    deeds: Mapping[int, Deed] = field(default_factory=dict)

    def begin(self, opened: OpenPlan) -> S:
        """Begin the fold."""
        return self.fold.begin(opened)

    def add(self, state: S, chunk: ReadChunk) -> None:
        """Add the chunk, and then do what the script says: the state has it already."""
        self.fold.add(state, chunk)
        attempts = self.attempts(chunk.number)
        Path(self.folder, f"{chunk.number}-{len(attempts)}").touch()
        deed: Any = self.deeds.get(chunk.number)
        if deed == "kill always" or (deed is not None and not attempts):
            _do(deed)

    def attempts(self, chunk: int) -> list[Path]:
        """Return the marks of the attempts at `chunk` so far."""
        return list(Path(self.folder).glob(f"{chunk}-*"))

    def merge(self, state: S, other: S) -> None:
        """Merge."""
        self.fold.merge(state, other)


def _do(deed: Deed) -> None:
    if deed in ("kill", "kill always"):
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "raise":
        raise RuntimeError("scripted to raise")
    if deed == "source":
        raise NotCountsError("scripted to find no counts", kind="fractional")
    raise TransientError("scripted to be unavailable")
