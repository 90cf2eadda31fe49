"""Values brought to an archive's type, and what does not survive it, as bionemo-scdl finds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.load.memmap.convert.base import LossyCast

__all__ = ["cast_values"]

Array = np.ndarray[Any, Any]


def cast_values(values: Array, dtype: np.dtype[Any], tolerance: float) -> tuple[Array, int, LossyCast | None]:
    """Return `values` as `dtype`, and the entry that changes most where any is not near, its `row` for the caller.

    Values are finite, as counts are. Near means ``numpy.allclose(cast, values, rtol=0, atol=tolerance)``; how much an
    entry changes is what ``numpy.abs(cast - values)`` says in numpy's own types.

    Returns
    -------
    tuple
        The cast values, and the place of the worst with what it was; 0 and None where all are near.
    """
    if np.can_cast(values.dtype, dtype, "safe"):
        return values.astype(dtype, copy=False), 0, None
    with np.errstate(invalid="ignore", over="ignore"):
        cast = values.astype(dtype)
        if (cast == values).all() or np.allclose(cast, values, rtol=0, atol=tolerance):
            return cast, 0, None
        differences = np.abs(cast - values)
    worst = int(np.argmax(differences))  # of NaN, too, which is more than any number
    return cast, worst, LossyCast(-1, str(values[worst]), str(differences[worst]), float(differences[worst]))
