"""One long array in the making: digested, shuffled and compressed block by block while it is in the CPU's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.pending import PendingBlocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.digest import ArrayDigest
    from ingest.encode.compressors import Compressors

__all__ = ["BLOCK", "ArrayStream"]

BLOCK = 65_536
"""Entries of an HDF5 chunk of ``X/data`` and ``X/indices``: some 27 cells of a Census, read at random in one piece."""

Array = np.ndarray[Any, Any]


class ArrayStream:
    """The blocks of one array; where they are cut does not depend on the pieces it came in.

    Parameters
    ----------
    dtype
        Of the values as they are stored.
    compressors
        What makes a block's bytes; shared with other streams.
    digest
        Fed with every value.
    """

    def __init__(self, dtype: np.dtype[Any], compressors: Compressors, digest: ArrayDigest) -> None:
        self.dtype = dtype
        self._compressors = compressors
        self._digest = digest
        self._blocks = PendingBlocks(compressors.in_flight)
        self._rest = np.empty(0, dtype)  # grows to a block when it is first needed
        self._n_rest = 0

    def __len__(self) -> int:
        return len(self._blocks) * BLOCK + self._n_rest

    @property
    def nbytes(self) -> int:
        """Bytes held now; of blocks that are being compressed, their uncompressed ones."""
        under_way = self._blocks.n_under_way * BLOCK * self.dtype.itemsize
        return self._blocks.nbytes + under_way + self._rest.nbytes

    def add(self, values: Array) -> None:
        """Take the next values ``(n,)``; they are copied or compressed, never kept."""
        start = 0
        if self._n_rest:
            start = min(len(values), BLOCK - self._n_rest)
            self._keep(values[:start])
        while len(values) - start >= BLOCK:
            self._press(values[start : start + BLOCK])
            start += BLOCK
        self._keep(values[start:])

    def _keep(self, values: Array) -> None:
        if not len(values):
            return
        if not len(self._rest):
            self._rest = np.empty(BLOCK, self.dtype)
        self._rest[self._n_rest : self._n_rest + len(values)] = values
        self._n_rest += len(values)
        if self._n_rest == BLOCK:
            self._n_rest = 0
            self._press(self._rest)

    def _press(self, values: Array) -> None:
        same = np.ascontiguousarray(values, self.dtype)
        self._digest.update(same)
        self._blocks.append(self._compressors.start(same, BLOCK))

    def finish(self) -> tuple[int, Iterator[bytes]]:
        """Return the number of values in a block, and the blocks, whose memory is given back on the way.

        The last compressed block is filled up with zeros, as HDF5 wants it, but an array shorter than a block is one of
        its own length.
        """
        length = min(BLOCK, len(self))
        if self._n_rest:
            rest = self._rest[: self._n_rest]
            self._digest.update(rest)
            self._blocks.append(self._compressors.start(rest, length))
        return length, self._blocks.settled().drain()

    def widened(self, dtype: np.dtype[Any], digest: ArrayDigest) -> ArrayStream:
        """Return a stream of the same values as another type, which holds them all exactly."""
        wide = ArrayStream(dtype, self._compressors, digest)
        for values in self._values():
            wide.add(values.astype(dtype))
        return wide

    def _values(self) -> Iterator[Array]:
        for block in self._blocks.settled():
            yield self._compressors.undo(block, self.dtype, BLOCK)
        yield self._rest[: self._n_rest]
