"""What was probably meant by a name that does not exist."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["close_matches", "did_you_mean", "unknown_column"]

_CLOSE = 0.7
_MOST_COMPARED = 100_000


def close_matches(word: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """Return up to `most` of `known` that resemble `word` or begin like it, closest first.

    Only the first 100,000 candidates are compared: a suggestion must not take minutes.
    """
    candidates = [name for name, _ in zip(known, range(_MOST_COMPARED), strict=False)]
    scored = sorted((-_likeness(word.lower(), name.lower()), len(name), name) for name in candidates)
    return [name for score, _, name in scored[:most] if -score >= _CLOSE]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a', 'b'?"``, or nothing when nothing comes close."""
    close = close_matches(word, known)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""


def unknown_column(name: str, known: Iterable[str], where: str) -> ConfigError:
    """Return the error for a column that `where` does not have, with what comes close or else what there is."""
    columns = list(known)
    message = f"no column {name!r} in {where}"
    guess = did_you_mean(name, columns)
    hint = None if guess else f"it has {', '.join(columns[:30])}{', …' if len(columns) > 30 else ''}"
    return ConfigError(message + guess, kind="unknown-column", hint=hint)


def _likeness(word: str, name: str) -> float:
    """Return 0 to 1; the beginning of a longer name counts nearly as much as the whole."""
    matcher = SequenceMatcher(None, "", word, autojunk=False)
    best = 0.0
    for text, weight in ((name, 1.0), (name[: len(word) + 1], 0.95)):
        matcher.set_seq1(text)
        if matcher.quick_ratio() * weight > best:
            best = max(best, matcher.ratio() * weight)
    return best
