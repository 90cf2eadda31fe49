"""The seam to object storage: what DEST must be able to do, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ingest.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ObjectStat", "Store", "exists"]


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a store says of one object."""

    key: str
    """Relative to the store's URL, ``/``-separated."""
    size: int
    """Bytes."""
    version: str
    """ETag, generation, or for a folder a value that changes with every replacement; opaque."""


class Store(Protocol):
    """A prefix in object storage or a folder.

    No client ever sees a partial object. Errors are the project's own: ``NotFoundError`` for a 404 and nothing
    else, ``AlreadyExistsError`` and ``PreconditionError`` for refused conditions, ``CredentialsError`` and
    ``ConfigError`` (kind ``no-bucket``) for what a person must mend, ``TransientError`` for what may pass (the
    store's own retries are spent by then), ``CorruptError`` for bytes that fail their checksum. Instances hold
    clients: they are opened in the process that uses them and never pickled; only `url` travels.
    """

    @property
    def url(self) -> str:
        """The prefix's own URL, without a trailing slash and without secrets."""
        ...

    @property
    def retries(self) -> int:
        """Requests sent again so far by this instance; it only grows."""
        ...

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Create `key` if it is absent, durably; on return the store has verified a checksum of all bytes.

        Raises
        ------
        AlreadyExistsError
            The key exists. Also the answer when an earlier try of this very call went through unseen:
            callers read back and compare.
        """
        ...

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Overwrite `key` only while its version is `expected`; durable and verified as `put_new`.

        Raises
        ------
        PreconditionError
            It has another version, or is absent.
        """
        ...

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Create `key` from a local file as `put_new` does, in memory that does not grow with the file.

        The file must not change meanwhile.

        Raises
        ------
        AlreadyExistsError
            As `put_new`.
        """
        ...

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Overwrite `key` by a local file as `replace` does, in memory that does not grow with the file.

        Raises
        ------
        PreconditionError
            As `replace`.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return all bytes of `key`."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start`; a shorter answer is a ``CorruptError``."""
        ...

    def stat(self, key: str) -> ObjectStat:
        """Return size and version of `key`."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield every object whose key starts with `prefix` and comes after `after`, in key order, all pages.

        What comes before is not asked for, where the store can leave it out; a page is asked for when it is wanted.
        """
        ...

    def delete(self, key: str, *, expected: str) -> None:
        """Remove `key` only while its version is `expected`; needed by ``gc`` alone."""
        ...

    def close(self) -> None:
        """Release clients and sockets."""
        ...


def exists(store: Store, key: str) -> bool:
    """Say whether there is such an object.

    Raises
    ------
    IngestError
        The store cannot say.
    """
    try:
        store.stat(key)
    except NotFoundError:
        return False
    return True
