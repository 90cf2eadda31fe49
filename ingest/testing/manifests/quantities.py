"""Kubernetes' way of writing sizes."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["quantity"]

_UNITS = {"": Fraction(1), "m": Fraction(1, 1000)} | {
    letter + i: Fraction((1024 if i else 1000) ** power)
    for power, letter in enumerate("KMGTP", start=1)
    for i in ("i", "")
}
_UNITS["k"] = _UNITS.pop("K")


def quantity(text: object) -> Fraction:
    """Return what ``500m``, ``2`` or ``12Gi`` is, exactly.

    Raises
    ------
    ValueError
        It is no quantity.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", str(text))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity of Kubernetes")
    return Fraction(found[1]) * _UNITS[found[2]]
