"""The threads that compress, or none: the caller's own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.encode.shuffle import shuffle, unshuffle
from ingest.encode.sparse_deflate import MOST_BYTES

if TYPE_CHECKING:
    from ingest.encode.filters import Filter

__all__ = ["Compressors"]

Array = np.ndarray[Any, Any]

_SPARSE = 4
"""Blocks are sparse where not more than one value in so many is other than zero."""
_LEAST_SPARSE = 2048
"""Shorter blocks are compressed whole: the codes of several planes would outweigh them."""


class Compressors:
    """Compress blocks in `threads` threads; with one, at once and in the caller's.

    Parameters
    ----------
    how
        None keeps the bytes as they are.
    threads
        At least 1.
    """

    def __init__(self, how: Filter | None, threads: int) -> None:
        self.filter = how
        self._pool = ThreadPoolExecutor(threads, "encode") if threads > 1 and how is not None else None
        self.in_flight = threads + 1 if self._pool else 0
        """Blocks that a stream may have under way: enough to keep the threads busy, few enough to stay in memory."""

    def start(self, values: Array, length: int) -> bytes | Future[bytes]:
        """Shuffle a block now, so that `values` ``(n,)`` may change, and begin to compress it.

        Where blocks are compressed, zeros follow until there are `length` values.
        """
        if self.filter is None:
            return values.tobytes()
        shuffled = shuffle(values, length).data
        if self._pool is None:
            return self.filter.compress(shuffled, values.itemsize)
        return self._pool.submit(self.filter.compress, shuffled, values.itemsize)

    def start_sparse(self, places: Array, values: Array, length: int) -> bytes | Future[bytes]:
        """Begin to compress `length` numbers that are zeros but for `values` ``(n,)`` at `places` ``(n,)``, ascending.

        Both arrays must not change any more.
        """
        if self._pool is None:
            return self._compress_sparse(places, values, length)
        return self._pool.submit(self._compress_sparse, places, values, length)

    def _compress_sparse(self, places: Array, values: Array, length: int) -> bytes:
        how, n_bytes = self.filter, length * values.itemsize
        sparse = len(values) * _SPARSE <= length and length >= _LEAST_SPARSE and n_bytes <= MOST_BYTES
        if sparse and how is not None and how.compress_sparse is not None:
            return how.compress_sparse(places, values, length)
        dense = np.zeros(length, values.dtype)
        dense[places] = values
        return dense.tobytes() if how is None else how.compress(shuffle(dense, length).data, values.itemsize)

    def undo(self, stored: bytes, dtype: np.dtype[Any], length: int) -> Array:
        """Return the `length` values of a stored block."""
        if self.filter is None:
            return np.frombuffer(stored, dtype)
        return unshuffle(self.filter.decompress(stored, length * dtype.itemsize), dtype)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
