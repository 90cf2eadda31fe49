"""HDF5's byte shuffle: first bytes of all values, then second bytes, … , which compressors find far easier."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.fetch.kernels import compiled

__all__ = ["shuffle", "shuffle_texts", "unshuffle"]

Array = np.ndarray[Any, Any]


@compiled
def _split(words: Array, planes: Array) -> None:
    """Write the bytes of `words` ``(n,)`` to the first `n` places of each of `planes`."""
    if planes.shape[0] == 4:  # nearly always: one pass instead of four
        first, second, third, fourth = planes[0], planes[1], planes[2], planes[3]
        for at in range(words.size):
            word = words[at]
            first[at] = word & 0xFF
            second[at] = (word >> 8) & 0xFF
            third[at] = (word >> 16) & 0xFF
            fourth[at] = (word >> 24) & 0xFF
        return
    for plane in range(planes.shape[0]):
        row = planes[plane]
        for at in range(words.size):
            row[at] = (words[at] >> (8 * plane)) & 0xFF


def shuffle(values: Array, length: int) -> Array:
    """Return the bytes of `values` ``(n,)`` (numbers), shuffled, as those of `length` values: zeros follow the n.

    uint8 ``(itemsize * length,)``, always new.
    """
    words = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    planes = (np.empty if len(values) == length else np.zeros)((words.dtype.itemsize, length), np.uint8)
    _split(words, planes)
    return planes.reshape(-1)


def shuffle_texts(values: Array) -> Array:
    """Return the bytes of fixed-length texts ``(n,)``, shuffled: uint8 ``(itemsize * n,)``."""
    return np.ascontiguousarray(values.view(np.uint8).reshape(len(values), -1).T).reshape(-1)


def unshuffle(raw: bytes, dtype: np.dtype[Any]) -> Array:
    """Return the values whose shuffled bytes are `raw`."""
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)
