"""From slabs, which follow the source's bands, to chunks, which follow the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from ingest.block import Counts, concat_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Assembly"]


@dataclass(slots=True)
class _Open:
    """A chunk of which some rows have come."""

    counts: list[Counts] = field(default_factory=list)
    names: list[pa.StringArray] = field(default_factory=list)
    n_cells: int = 0


class Assembly:
    """Join and cut consecutive pieces into whole chunks; holds no more than the chunks that are open."""

    def __init__(self, boundaries: Mapping[int, tuple[int, int]]) -> None:
        """`boundaries`: chunk -> half-open range of plan rows, ascending and without overlap."""
        self._boundaries = dict(boundaries)
        self._open: dict[int, _Open] = {}
        self._dropped: set[int] = set()

    def touching(self, start: int, stop: int) -> list[int]:
        """Return the chunks still wanted that hold any of the plan rows ``[start, stop)``."""
        return [
            chunk
            for chunk, (low, high) in self._boundaries.items()
            if low < stop and start < high and chunk not in self._dropped
        ]

    def drop(self, chunk: int) -> None:
        """Forget a chunk, some of whose rows will never come."""
        self._dropped.add(chunk)
        self._open.pop(chunk, None)

    def add(self, start: int, counts: Counts, names: pa.StringArray) -> Iterator[tuple[int, Counts, pa.StringArray]]:
        """Take the cells of plan rows from `start`; yield every chunk that is whole now.

        Parameters
        ----------
        start
            Plan row of the first cell; pieces come in order.
        counts, names
            ``(n_cells, n_genes)`` and ``(n_cells,)``.
        """
        for chunk in self.touching(start, start + counts.n_cells):
            low, high = self._boundaries[chunk]
            first, last = max(low, start) - start, min(high, start + counts.n_cells) - start
            entry = self._open.setdefault(chunk, _Open())
            entry.counts.append(counts.rows(first, last))
            entry.names.append(names.slice(first, last - first))
            entry.n_cells += last - first
            if entry.n_cells == high - low:
                del self._open[chunk]
                yield chunk, concat_counts(entry.counts), pa.concat_arrays(entry.names)
