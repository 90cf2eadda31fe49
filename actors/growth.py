"""How many actors a cluster is asked for: pure counting.

Actors that wait for room are what Ray's autoscaler goes by. All that could ever work would be too many: it would start
every machine it may, for minutes of work. So there wait as many as work, sixteen at first: a cluster that grows for
them doubles, and where none grows they wait at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Growth"]

_FIRST = 16


@dataclass(frozen=True, slots=True)
class Growth:
    """As many actors as a cluster has room for, up to `most`."""

    most: int
    at_once: bool = False
    """Whether all of `most` are asked for from the beginning: somebody has said how many."""

    def missing(self, *, working: int, coming: int) -> int:
        """Return how many more to ask for, of `working` ones that all have a unit and `coming` ones."""
        waiting = self.most if self.at_once else max(_FIRST, working)
        return max(0, min(self.most - working, waiting) - coming)
