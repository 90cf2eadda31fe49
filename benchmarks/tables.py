"""Numbers as people read them, and Markdown tables of them."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["count", "gib", "kilobytes", "number", "spread", "table"]


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; every column but the first is aligned to the right."""
    marks = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, marks, *rows))


def count(value: float) -> str:
    """Return a whole number with thousands apart."""
    return f"{value:,.0f}"


def number(value: Any) -> str:
    """Return any value with three significant digits, or as it is; what is made of several, one after the other."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number(one)}" for name, one in value.items())
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def kilobytes(value: float) -> str:
    """Return bytes in kB (1,000)."""
    return f"{value / 1e3:.2f}"


def gib(value: float) -> str:
    """Return bytes in GiB."""
    return f"{value / 2**30:.2f}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the median, and how far apart least and most are; a dash for nothing."""
    if not values:
        return "-"
    middle = f"{median(values):.{digits}g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}g} to {max(values):.{digits}g})"
