"""Which plan rows a unit still wants, and for which chunk: slabs follow the source's bands, chunks follow the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

__all__ = ["Wanted"]


class Wanted:
    """The chunks of a unit and their rows. Read by one thread while another drops: neither needs a lock for it.

    Parameters
    ----------
    boundaries
        Chunk -> half-open range of plan rows, ascending and without overlap.
    """

    def __init__(self, boundaries: Mapping[int, tuple[int, int]]) -> None:
        self._boundaries = dict(boundaries)
        self._chunks = list(self._boundaries)
        self._lows = np.array([low for low, _ in self._boundaries.values()], np.int64)
        self._highs = np.array([high for _, high in self._boundaries.values()], np.int64)
        self._dropped: set[int] = set()

    @property
    def chunks(self) -> list[int]:
        """All chunks, dropped ones too, ascending."""
        return self._chunks

    def rows(self, chunk: int) -> tuple[int, int]:
        """Return the plan rows of `chunk`."""
        return self._boundaries[chunk]

    def drop(self, chunk: int) -> None:
        """Want a chunk no longer: some of its rows will never come."""
        self._dropped.add(chunk)

    def wants(self, chunk: int) -> bool:
        """Say whether `chunk` has not been dropped."""
        return chunk not in self._dropped

    def touching(self, start: int, stop: int) -> list[int]:
        """Return the chunks still wanted that hold any of the plan rows ``[start, stop)``, ascending."""
        first = int(np.searchsorted(self._highs, start, side="right"))
        last = int(np.searchsorted(self._lows, stop, side="left"))
        return [chunk for chunk in self._chunks[first:last] if chunk not in self._dropped]

    def parts(
        self, start: int, stop: int, without: Container[int] = frozenset()
    ) -> Iterator[tuple[int, int, list[int]]]:
        """Yield the parts of ``[start, stop)`` that are wanted, as long as can be, each with its chunks.

        Parameters
        ----------
        without
            Chunks that do not want these rows.
        """
        part: tuple[int, int, list[int]] | None = None
        for chunk in self.touching(start, stop):
            if chunk in without:
                continue
            low, high = max(start, self._boundaries[chunk][0]), min(stop, self._boundaries[chunk][1])
            if part is not None and part[1] == low:
                part = (part[0], high, [*part[2], chunk])
                continue
            if part is not None:
                yield part
            part = (low, high, [chunk])
        if part is not None:
            yield part
