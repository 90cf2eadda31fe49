"""Which type an array of an archive has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap.names import FLOAT_ORDER, INT_ORDER

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["check_data_dtype", "determine_dtype", "family_of", "smallest_uint_dtype"]


def smallest_uint_dtype(x: int) -> str:
    """Return the smallest unsigned type that holds `x`.

    Raises
    ------
    ValueError
        `x` is negative, or needs more than 64 bits.
    """
    if x < 0:
        raise ValueError("Negative numbers can't be unsigned.")
    for name in INT_ORDER:
        if x <= int(np.iinfo(name).max):
            return name
    raise ValueError(f"No unsigned integer dtype can represent the given number: {x}")


def family_of(dtype: object) -> list[str] | None:
    """Return the unsigned types, or the floating ones, that a type is among; None of any other."""
    name = np.dtype(dtype).name  # type: ignore[call-overload]  # whatever numpy takes for a type
    return next((order for order in (INT_ORDER, FLOAT_ORDER) if name in order), None)


def determine_dtype(dtypes: Collection[Any]) -> str:
    """Return the widest of some types of one family.

    Raises
    ------
    ValueError
        There are none, or unsigned ones and floating ones among them.
    """
    if not dtypes:
        raise ValueError("No dtypes provided")
    names = {np.dtype(dtype).name for dtype in dtypes}
    for order in (INT_ORDER, FLOAT_ORDER):
        if names.issubset(order):
            widest: str = max(names, key=order.index)
            return widest
    raise ValueError(f"Mixed float and integer dtype families not allowed: {sorted(names)}")


def check_data_dtype(dtype: str | None) -> None:
    """Check that values may be stored as `dtype`.

    Raises
    ------
    ValueError
        They may not.
    """
    allowed = [*INT_ORDER, *FLOAT_ORDER]
    if dtype not in allowed:
        raise ValueError(f"Invalid data_dtype '{dtype}'. Must be one of: {', '.join(allowed)}")
