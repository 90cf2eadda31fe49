"""Numbers of Arrow arrays without pandas: pyarrow's own way to numpy imports it, half a second before a first batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["numbers_of"]

_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64"}


def numbers_of(array: pa.Array) -> np.ndarray[Any, Any]:
    """Return the values of `array` ``(n,)``: a view where it holds plain numbers and no null."""
    kind = array.type
    if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
        return values
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, _NAMES.get(str(kind), str(kind)))
    return np.frombuffer(buffer, _NAMES.get(str(kind), str(kind)))[array.offset : array.offset + len(array)]
