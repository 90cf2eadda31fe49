"""What one measurement came to, and how it travels to benchmarks/results.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Measured", "Row"]

Row = dict[str, Any]
"""A measurement as JSON has it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One timed piece of work."""

    way: str
    """``seed``, ``ours``, ``read`` or ``tuned read``."""
    cells: int
    seconds: float
    """From the first unit's submission to the last receipt."""
    workers: int
    cells_per_chunk: int = 0
    """0 where nothing is written."""
    chunks: int = 0
    nnz: int = 0
    bytes_written: int = 0
    """Of chunk files."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """Of ``workers``, ``driver`` and ``store``, over the same time."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """As the run itself reports them, summed over workers."""
    requests: dict[str, int] = field(default_factory=dict)
    """By S3's name of the operation; empty where the store does not count."""
    peak_rss_bytes: int = 0
    """Of the largest worker, over the same time."""
    projected_bytes: int = 0
    """What the plan said a worker would hold."""

    @property
    def cells_per_s(self) -> float:
        """Cells a second, all workers together."""
        return self.cells / self.seconds

    def row(self, **circumstances: Any) -> Row:
        """Return it for the results file, with what was varied."""
        facts = asdict(self)
        facts["seconds"] = round(self.seconds, 4)
        for name in ("cpu_seconds", "stage_seconds"):
            facts[name] = {key: round(value, 3) for key, value in facts[name].items()}
        derived = {
            "cells_per_s": round(self.cells_per_s, 1),
            "hours_per_million": round(1e6 / self.cells_per_s / 3600, 5),
            "bytes_per_cell": round(self.bytes_written / self.cells, 1) if self.cells else 0.0,
        }
        return {**circumstances, **facts, **derived}
