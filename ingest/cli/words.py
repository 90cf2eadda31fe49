"""Numbers as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.source import Source

__all__ = ["bytes_text", "count_text", "duration_text", "short_source"]


def bytes_text(size: float) -> str:
    """Return ``7.4 MB``: decimal units, as object stores bill them."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,.0f} B"


def duration_text(seconds: float) -> str:
    """Return ``3 s``, ``4 min`` or ``2.5 h``."""
    if seconds < 120:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count_text(number: int, word: str) -> str:
    """Return ``1 chunk`` or ``2 chunks``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def short_source(source: Source) -> str:
    """Return a source as a line has room for it: the end of its address, and the organism of a Census."""
    if source.kind == "census":
        return str(source)
    tail = source.address.rstrip("/").rsplit("/", 1)[-1]
    return f"{source.organism} in …/{tail}" if source.kind == "soma" else tail
