"""The type that a file's values need."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["VALUE_TYPES", "holding"]

VALUE_TYPES = ("int16", "uint16", "int32", "int64", "float32", "float64")
"""What the values of a chunk may be, by numpy's names."""

_WIDER = {
    "uint16": ("uint16", "int32", "int64"),
    "int16": ("int16", "int32", "int64"),
    "int32": ("int32", "int64"),
    "float32": ("float32", "float64"),
}
"""Where a count goes that does not fit; any other type is never left."""


def holding(held: np.dtype[Any], values: np.ndarray[Any, Any]) -> np.dtype[Any]:
    """Return `held`, or the next wider type that holds both its values and `values` exactly.

    Whole numbers stay in a type that holds all up to the largest of them; floats keep their own precision.

    Parameters
    ----------
    values
        Checked counts ``(n,)``: none is negative.
    """
    if values.dtype == held or not len(values):
        return held
    if values.dtype.kind == "f":
        return np.promote_types(held, values.dtype)
    most = int(values.max())
    for name in _WIDER.get(held.name, (held.name,)):
        if most <= _most(np.dtype(name)):
            return np.dtype(name)
    raise ValueError(f"a count of {most} in a file of {held}")


def _most(dtype: np.dtype[Any]) -> int:
    """Return the largest whole number up to which all are exact."""
    return 1 << (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else int(np.iinfo(dtype).max)
