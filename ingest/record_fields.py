"""What the fields of records that are read back must be: JSON itself says nothing of types and extents. Pure.

A record with a digest of its own was written by somebody who could compute digests, no more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Check",
    "check_fields",
    "each",
    "is_count",
    "is_flag",
    "is_number",
    "is_sha256",
    "is_text",
    "keyed",
    "maybe",
    "one_of",
]

Check = "Callable[[Any], bool]"

_MOST = 1 << 63
_SAID = 60
_SHA256_DIGITS, _HEX = 64, frozenset("0123456789abcdef")


def is_count(value: Any) -> bool:
    """Return whether `value` is a whole number, not negative, that 64 bits hold."""
    return type(value) is int and 0 <= value < _MOST


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite number."""
    return (type(value) is int and abs(value) < _MOST) or (type(value) is float and math.isfinite(value))


def is_flag(value: Any) -> bool:
    """Return whether `value` is true or false."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Return whether `value` is text that UTF-8 can spell."""
    return isinstance(value, str) and (value.isascii() or _is_spelled(value))


def is_sha256(value: Any) -> bool:
    """Return whether `value` is a SHA-256 as 64 hex digits."""
    return isinstance(value, str) and len(value) == _SHA256_DIGITS and _HEX.issuperset(value)


def each(check: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    """Return the check of a list, of so many entries, whose entries all pass `check`."""
    return lambda value: (
        isinstance(value, list | tuple) and length in (None, len(value)) and all(check(entry) for entry in value)
    )


def keyed(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return the check of an object whose values all pass `check`."""
    return lambda value: isinstance(value, dict) and all(check(entry) for entry in value.values())


def one_of(*values: str) -> Callable[[Any], bool]:
    """Return the check of a word of a list."""
    return lambda value: isinstance(value, str) and value in values


def maybe(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return the check of what may be null."""
    return lambda value: value is None or check(value)


def check_fields(record: Any, checks: Mapping[str, Callable[[Any], bool]]) -> None:
    """Refuse a record that lacks one of these fields, or has anything else there.

    Raises
    ------
    ValueError
        Naming the first.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} where an object belongs")  # noqa: TRY004 # one kind of refusal
    for name, check in checks.items():
        if name not in record:
            raise ValueError(f"{name} is missing")
        if not check(record[name]):
            raise ValueError(f"{name} is {repr(record[name])[:_SAID]}")


def _is_spelled(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
