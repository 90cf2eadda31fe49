"""One numbering for a column's values, whatever each of its parts calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.load.memmap.feature_pieces import Array

__all__ = ["Categories", "united"]

Categories = tuple[Any, ...]


def united(parts: Iterable[tuple[Array, Array]]) -> tuple[Categories, Array]:
    """Return the distinct values of all parts, ascending, and codes into them for all rows, part by part.

    Parameters
    ----------
    parts
        Of each integer codes ``(n_rows,)``, -1 for none, and what they stand for. What no row has is no category.

    Returns
    -------
    categories
        Texts, numbers, or whatever the values are; by their names where they have no order.
    codes
        The smallest signed integers that do, ``(n_rows of all,)``, -1 for none.
    """
    numbers: dict[Any, int] = {}
    recoded = [_renumbered(codes, distinct, numbers) for codes, distinct in parts]
    values = list(numbers)
    order = _ascending(values)
    place = np.empty(len(values) + 1, np.min_scalar_type(-max(1, len(values))))
    place[order] = np.arange(len(values))
    place[-1] = -1
    codes = np.concatenate([place[part] for part in recoded]) if recoded else place[:0]
    return tuple(values[at] for at in order), codes


def _renumbered(codes: Array, distinct: Array, numbers: dict[Any, int]) -> Array:
    """Return the codes of one part in the numbering of all, to which its values are added."""
    has = np.bincount(codes + 1, minlength=len(distinct) + 1)[1:] > 0
    mine = [numbers.setdefault(distinct[at], len(numbers)) if has[at] else -1 for at in range(len(distinct))]
    renumber = np.array([*mine, -1], np.min_scalar_type(-max(1, len(numbers))))
    found: Array = renumber[codes]
    return found


def _ascending(values: list[Any]) -> list[int]:
    try:
        return sorted(range(len(values)), key=values.__getitem__)
    except TypeError:
        return sorted(range(len(values)), key=lambda at: (type(values[at]).__name__, str(values[at])))
