"""What GCS' answers of success must say before they are believed: login pages and proxies answer 200, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from ingest.errors import TransientError
from ingest.record_fields import check_fields, each, is_count, is_text, maybe, one_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ingest.store.action import Action
    from ingest.store.gcs_http import Reply

__all__ = ["description", "other_answer", "page", "session_url"]

_MOST_DIGITS = 19
"""Of 64 bits."""


def description(reply: Reply, action: Action) -> dict[str, Any]:
    """Return what the answer says of an object: at least its size and generation.

    Raises
    ------
    TransientError
        It is something else (kind ``other-answer``).
    """
    return _checked(reply, action, _OBJECT)


def page(reply: Reply, action: Action) -> dict[str, Any]:
    """Return a page of a listing, which says that it is one: an empty one says nothing else.

    Raises
    ------
    TransientError
        It is something else: to take it for empty would be to take all objects for absent.
    """
    return _checked(reply, action, _PAGE)


def session_url(reply: Reply, action: Action, asked: str) -> str:
    """Return where a resumable upload that was begun at the address `asked` goes on.

    Raises
    ------
    TransientError
        The answer does not say, or nowhere that requests can go to; the address is a bearer of rights and not told.
    """
    found = reply.headers.get("Location")
    try:
        where = urlsplit(urljoin(asked, found)) if found else None  # RFC 9110, 10.2.2: it may be relative
    except ValueError:
        where = None
    if where is None or where.scheme not in ("http", "https") or not where.hostname:
        raise other_answer(reply, action)
    return where.geturl()


def other_answer(reply: Reply, action: Action) -> TransientError:
    """Return the error of an answer that is none of GCS'."""
    kind = reply.headers.get("Content-Type") or "of no type"
    return TransientError(
        f"{action.where}: {reply.status} on {action.name}, and not what the store answers ({kind})",
        kind="other-answer",
        hint="a proxy or a login page may be in between",
        key=action.key,
    )


def _checked(reply: Reply, action: Action, checks: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    found = {**dict.fromkeys(_OPTIONAL), **reply.json()}
    try:
        check_fields(found, checks)
    except ValueError as error:
        raise other_answer(reply, action) from error
    return found


def _is_number(value: Any) -> bool:
    """Whole numbers of 64 bits are texts in Google's JSON."""
    is_digits = is_text(value) and value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS
    return is_digits or is_count(value)


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and is_text(value.get("name")) and all(_is_number(value.get(n)) for n in _OBJECT)


_OBJECT: Mapping[str, Callable[[Any], bool]] = {"size": _is_number, "generation": _is_number}
_PAGE: Mapping[str, Callable[[Any], bool]] = {
    "kind": one_of("storage#objects"),
    "items": maybe(each(_is_entry)),
    "nextPageToken": maybe(is_text),
}
_OPTIONAL = ("items", "nextPageToken")
