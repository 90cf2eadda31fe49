"""Names of obs columns in an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["placed_names", "renamed"]

_TAKEN: Final = ("source", "soma_joinid", "row")


def renamed(column: str) -> str:
    """Return the name that obs column `column` has in an index: ``obs_…`` where a coordinate has the name."""
    return f"obs_{column}" if column in _TAKEN else column


def placed_names(columns: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Return index name -> obs column for `columns`, noting those renamed.

    A column that bears the new name itself keeps it; the renamed one then gets one more ``obs_``.
    """
    placed: dict[str, str] = {}
    for column in columns:
        name = renamed(column)
        while name != column and (name in columns or name in placed):
            name = f"obs_{name}"
        placed[name] = column
        if name != column:
            notes.append(f"column {column!r} of the source is {name!r} in the index, which needs the name itself")
    return placed
