"""What every reader of obs and var says of their columns, whichever way it reads them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from ingest.errors import NoColumnError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["is_ordered", "no_column"]

_SHOWN = 12


def no_column(label: str, table: str, name: str, known: Sequence[str]) -> NoColumnError:
    """Return the error of a table without a column `name`; those that there are, are named, the likeliest first.

    Parameters
    ----------
    label
        What the table is of.
    """
    near = get_close_matches(name, known, 3)
    listed = f"there are {', '.join(known[:_SHOWN])}{' …' if len(known) > _SHOWN else ''}"
    if near:
        listed = f"did you mean {', '.join(map(repr, near))}? {listed}"
    return NoColumnError(f"{label}: no column {name!r} in {table}", hint=listed if known else "it has no columns")


def is_ordered(opened: OpenH5ad, table: str, name: str) -> bool:
    """Tell whether the categories of a column have an order, in the encodings of anndata 0.7 and later."""
    for where in (f"{table}/{name}", f"{table}/__categories/{name}"):  # the second in 0.7
        node = opened.get(where)
        if node is not None and opened.attribute(node, "ordered"):
            return True
    return False
