"""The elements of one stored array in order, each block inflated once, on threads, ahead of whoever takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.h5ad_planes import plain_numbers
from ingest.ordered_map import map_ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ingest.fetch.h5ad_stored import StoredArray, Stretch
    from ingest.stream.matrix.work import Work

__all__ = ["Feed"]

Array = np.ndarray[Any, Any]

_AHEAD_BYTES = 8 << 20


class Feed:
    """Take elements of an array, as many at a time as wanted.

    Parameters
    ----------
    array
        Where they lie.
    ranges
        Of elements, ascending: what lies between is not read.
    """

    def __init__(self, array: StoredArray, ranges: Iterable[tuple[int, int]], work: Work) -> None:
        self._array = array
        stretches = (stretch for start, stop in ranges for stretch in array.stretches(start, stop))
        ahead = max(1, min(_AHEAD_BYTES // max(array.block_bytes, 1), work.threads + 1))
        self._pieces = self._pieces_of(map_ordered(work.pool, self._decoded, stretches, ahead=ahead))
        self._rest = np.empty(0, array.dtype)

    def take(self, n: int) -> Array:
        """Return the next `n` elements, a new array."""
        out, at = np.empty(n, self._array.dtype), 0
        while at < n:
            if not len(self._rest):
                self._rest = next(self._pieces)
            part, self._rest = self._rest[: n - at], self._rest[n - at :]
            out[at : at + len(part)] = part
            at += len(part)
        return out

    def close(self) -> None:
        """Read nothing further."""
        self._pieces.close()

    def _decoded(self, stretch: Stretch) -> list[Array]:
        return [plain_numbers(stored, self._array.dtype) for stored in self._array.read(stretch)]

    def _pieces_of(self, stretches: Iterator[list[Array]]) -> Any:
        for pieces in stretches:
            yield from pieces
