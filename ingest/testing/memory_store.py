"""A store in memory: the model of what a store is, for tests that need thousands of them.

Several handles may look at the same objects, as several processes do at a bucket; threads may share one.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ingest.errors import AlreadyExistsError, CorruptError, NotFoundError, PreconditionError
from ingest.store.base import ObjectStat
from ingest.store.body import as_view, open_body
from ingest.store.keys import check_key, check_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Change", "MemoryObjects", "MemoryStore", "OnChange"]

Change = Literal["put", "replace", "delete"]


class OnChange(Protocol):
    """Whoever watches what becomes of the objects."""

    def __call__(self, change: Change, key: str, data: bytes, /) -> None:
        """Take a change that has just happened, no other beside it; `data` is what was deleted, or is there now."""
        ...


@dataclass(slots=True, eq=False)
class MemoryObjects:
    """What is in a bucket; handles share it."""

    data: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    on_change: OnChange = field(default=lambda _change, _key, _data: None)
    numbers: Iterator[int] = field(default_factory=itertools.count)


class MemoryStore:
    """A handle on `objects`.

    Parameters
    ----------
    objects
        New ones unless given.
    name
        Part of the URL.
    """

    def __init__(self, objects: MemoryObjects | None = None, *, name: str = "bucket") -> None:
        self.objects = objects or MemoryObjects()
        self._name = name
        self.retries = 0

    @property
    def url(self) -> str:
        """``memory://name``."""
        return f"memory://{self._name}"

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """See `Store.put_new`."""
        check_key(key)
        with self.objects.lock:
            if key in self.objects.data:
                raise AlreadyExistsError(f"{self.url}/{key} exists", key=key)
            return self._write("put", key, bytes(as_view(data)))

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """See `Store.replace`."""
        check_key(key)
        with self.objects.lock:
            found = self.objects.versions.get(key)
            if found != expected:
                raise PreconditionError(f"{self.url}/{key} has version {found}, expected {expected}", key=key)
            return self._write("replace", key, bytes(as_view(data)))

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """See `Store.put_new_file`."""
        with open_body(path) as body:
            return self.put_new(key, body[:])

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """See `Store.replace_file`."""
        with open_body(path) as body:
            return self.replace(key, body[:], expected=expected)

    def get(self, key: str) -> bytes:
        """See `Store.get`."""
        check_key(key)
        with self.objects.lock:
            if key not in self.objects.data:
                raise self._absent(key)
            return self.objects.data[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        data = self.get(key)[start : start + length]
        if len(data) != length:
            said = f"{len(data)} of {length} bytes from {start}"
            raise CorruptError(f"{self.url}/{key}: {said}", kind="short-read", key=key)
        return data

    def stat(self, key: str) -> ObjectStat:
        """See `Store.stat`."""
        check_key(key)
        with self.objects.lock:
            if key not in self.objects.data:
                raise self._absent(key)
            return self._stat(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """See `Store.list`; what is there at the first step is listed."""
        check_prefix(prefix)
        with self.objects.lock:
            found = [self._stat(key) for key in sorted(self.objects.data) if key.startswith(prefix) and key > after]
        yield from found

    def delete(self, key: str, *, expected: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with self.objects.lock:
            found = self.stat(key).version
            if found != expected:
                raise PreconditionError(f"{self.url}/{key} has version {found}, expected {expected}", key=key)
            data = self.objects.data.pop(key)
            del self.objects.versions[key]
            self.objects.on_change("delete", key, data)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _write(self, change: Change, key: str, data: bytes) -> ObjectStat:
        self.objects.data[key] = data
        self.objects.versions[key] = f"v{next(self.objects.numbers)}"
        self.objects.on_change(change, key, data)
        return self._stat(key)

    def _stat(self, key: str) -> ObjectStat:
        return ObjectStat(key, len(self.objects.data[key]), self.objects.versions[key])

    def _absent(self, key: str) -> NotFoundError:
        return NotFoundError(f"{self.url}/{key} does not exist", key=key)
