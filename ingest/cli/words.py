"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "duration_text"]


def bytes_text(size: float) -> str:
    """Return ``7.4 MB``: decimal units, as object stores bill them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,.0f} B"


def duration_text(seconds: float) -> str:
    """Return ``3 s``, ``4 min`` or ``2.5 h``."""
    if seconds < 1:
        return "under a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count_text(number: int, word: str) -> str:
    """Return ``1 chunk`` or ``2 chunks``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
