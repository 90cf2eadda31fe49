"""What verifying found, as data: a rule that is broken, where, and what it means for the whole."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding", "VerifyReport"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule."""

    kind: str
    """Stable identifier of the rule, kebab-case."""
    message: str
    """One line: what is wrong, and where."""
    chunk: int | None = None
    """The chunk that a repair makes again because of it; None where making a chunk again mends nothing."""
    key: str | None = None
    """The object at fault."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The state of a dataset, complete or not."""

    n_chunks: int
    """Chunks planned."""
    n_cells: int
    """Cells planned."""
    checked_chunks: int
    """Chunks that a receipt names, whatever was found of them."""
    checked_cells: int
    checked_bytes: int
    """Bytes of their objects that were read."""
    findings: tuple[Finding, ...]
    missing: tuple[int, ...]
    """Planned chunks without a receipt; those of an unfinished run are no fault."""
    missing_summaries: tuple[str, ...]
    """Keys of summaries that are not there (yet)."""
    strays: tuple[str, ...]
    """Objects under ``chunks/`` that no receipt names: left by killed workers, adopted or collected in time."""
    deep: bool
    """Chunks were decoded."""
    source: bool
    """Chunks were compared with their sources."""
    left_out_cells: int = 0
    """What checked chunks lack of the plan, by amendments; that these permit more is no matter."""

    @property
    def bad(self) -> tuple[int, ...]:
        """The chunks that a repair makes again, ascending."""
        return tuple(sorted({finding.chunk for finding in self.findings if finding.chunk is not None}))

    @property
    def complete(self) -> bool:
        """Whether everything that the plan asks for is there, good or bad."""
        return not self.missing and not self.missing_summaries

    @property
    def exit_code(self) -> int:
        """0 complete and good, 3 incomplete but what exists is good, 1 something is bad."""
        if self.findings:
            return 1
        return 0 if self.complete else 3
