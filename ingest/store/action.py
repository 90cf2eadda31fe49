"""What a store was doing when something went wrong: the words of its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import PreconditionError

if TYPE_CHECKING:
    from ingest.errors import ConflictError

__all__ = ["CREDENTIALS_EXPIRED", "Action"]

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
    def where(self) -> str:
        """The object's URL."""
        return f"{self.url}/{self.key}" if self.key else self.url
