"""How much to hold at once: the one model that the engine's blocks and the named calculators follow.

Lines (cells, genes, or single bytes) that fit = (memory left x share - what is held throughout) x part / bytes of one
line with all its copies, between two clamps. Memory left is what machine and control groups leave this process
(`ingest.stream.memory`), unless it is given; with it everything here is pure. A gigabyte is 1e9 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ingest.stream.memory import available_memory

__all__ = ["GB", "Budget", "budget_of"]

GB = 1e9


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory that blocks take their shares of.

    Raises
    ------
    ValueError
        It is negative, or no number.
    """

    memory_gb: float

    def __post_init__(self) -> None:
        if not 0 <= self.memory_gb < float("inf"):
            raise ValueError(f"{self.memory_gb} GB of memory")

    def at_most(self, limit_gb: float | None) -> Budget:
        """Return this, or less where a limit is given that is lower."""
        return self if limit_gb is None else Budget(min(self.memory_gb, Budget(limit_gb).memory_gb))

    def lines(
        self,
        line_bytes: float,
        *,
        least: int,
        most: int,
        share: float = 1.0,
        held_gb: float = 0.0,
        least_left_gb: float = 0.0,
        part: float = 1.0,
    ) -> int:
        """Return how many lines to hold at once; where one takes nothing, `most`.

        Parameters
        ----------
        line_bytes
            What one line takes, with all copies of it.
        least, most
            The clamps; the lower one wins.
        share
            Of the memory, for all this.
        held_gb
            Of that share, what is held throughout.
        least_left_gb
            As so much the rest is taken at least.
        part
            Of the rest, for a block.
        """
        left_gb = max(least_left_gb, self.memory_gb * share - held_gb)
        left_bytes = left_gb * part * GB
        fits = most if left_bytes >= most * line_bytes else int(left_bytes / line_bytes)
        return max(least, fits)


def budget_of(memory_gb: float | None = None) -> Budget:
    """Return the budget of so much memory; None: of what this process may still take."""
    return Budget(available_memory() / GB if memory_gb is None else memory_gb)
