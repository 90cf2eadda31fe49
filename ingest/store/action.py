"""What a store was doing when something went wrong: the words of its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import CredentialsError, PreconditionError, TransientError

if TYPE_CHECKING:
    from ingest.errors import ConflictError

__all__ = ["CREDENTIALS_EXPIRED", "Action", "Pages", "explain_denial", "is_range"]

CREDENTIALS_EXPIRED = "credentials-expired"
"""The kind of error after which credentials are fetched afresh, once."""


@dataclass(frozen=True, slots=True)
class Action:
    """A request as its errors name it."""

    name: str
    """The store's own name for it: PutObject, objects.insert, …"""
    verb: str
    """The permission in a word: read, write, list, delete."""
    url: str
    """Of the store."""
    key: str
    credentials: str
    """Where the credentials came from, in words."""
    refused: type[ConflictError] = PreconditionError
    """What a 412 means here."""

    @property
    def replaces(self) -> bool:
        """Whether it overwrites what is there, which not every role that writes may."""
        return self.verb == "write" and self.refused is PreconditionError

    @property
    def where(self) -> str:
        """The object's URL."""
        return f"{self.url}/{self.key}" if self.key else self.url


def explain_denial(action: Action, said: str, needed: str) -> CredentialsError:
    """Return what a 403 means: `said` is the store's answer, `needed` what a writer has to be allowed."""
    source = f"credentials came from {action.credentials}"
    if action.replaces:
        return CredentialsError(
            f"no permission to replace {action.where}, which is there already ({said}); {source}",
            kind="permission",
            hint="a writer's role may overwrite summaries and results, a maintainer's all; docs/deploy.md has both",
            key=action.key,
        )
    return CredentialsError(
        f"no {action.verb} permission on {action.url} ({said}); {source}",
        kind="permission",
        hint=f"the writer needs {needed}",
        key=action.key or None,
    )


class Pages:
    """Where a listing goes on: a store that sends back to a page that was there would be listed for ever."""

    def __init__(self, action: Action) -> None:
        self._action = action
        self._seen: set[str] = set()

    def following(self, token: str | None) -> str | None:
        """Return the mark of the next page, None after the last.

        Raises
        ------
        TransientError
            It was the next one before (kind ``other-answer``).
        """
        if token is not None and token in self._seen:
            raise TransientError(
                f"{self._action.where}: a listing that goes round in circles",
                kind="other-answer",
                hint="what answers there does not list as its makers' documents say; tell them, or use another store",
            )
        if token is not None:
            self._seen.add(token)
        return token


def is_range(content_range: str | None, start: int, length: int) -> bool:
    """Say whether a ``Content-Range`` is of `length` bytes from `start` on: caches and proxies mistake them."""
    return content_range is not None and content_range.startswith(f"bytes {start}-{start + length - 1}/")
