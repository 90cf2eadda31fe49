"""A store that goes wrong at the operation one names: before it has happened, or after, when only the reply is lost.

::

    quiet = FaultyStore(LocalStore(folder))                 # counts and names the operations
    run(quiet)
    for at in range(len(quiet.log)):
        for when in ("before", "after"):
            run(FaultyStore(fresh_store(), StoreFault(at, when, "die")))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from ingest.errors import AlreadyExistsError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ingest.store.base import ObjectStat, Store

__all__ = ["DiedError", "FaultyStore", "Operation", "StoreFault"]

T = TypeVar("T")


class DiedError(BaseException):
    """The process is gone: no handler of this project may catch it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a store."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class StoreFault:
    """What goes wrong, once."""

    at: int
    """Ordinal of the operation, from 0."""
    when: Literal["before", "after"]
    """``before``: it does not happen; ``after``: it happens, the caller does not learn so."""
    how: Literal["transient", "die", "exists"]
    """``transient``: a ``TransientError``; ``die``: this and all later operations raise `DiedError`; ``exists``: a
    ``put_new`` or ``put_new_file`` that went through is answered by ``AlreadyExistsError``, as by a client that tried
    again."""


class FaultyStore:
    """Pass everything on to `store`, but for one fault; `log` has the operations in order."""

    def __init__(self, store: Store, fault: StoreFault | None = None) -> None:
        self._store, self._fault = store, fault
        self._dead = False
        self.log: list[Operation] = []

    @property
    def url(self) -> str:
        """The store's own."""
        return self._store.url

    @property
    def retries(self) -> int:
        """The store's own."""
        return self._store.retries

    def _call(self, name: str, key: str, operation: Callable[[], T]) -> T:
        fault = self._fault if self._fault is not None and self._fault.at == len(self.log) else None
        self.log.append(Operation(name, key))
        if self._dead or (fault is not None and fault.when == "before"):
            self._fail(fault, key)
        result = operation()
        if fault is not None:
            self._fail(fault, key)
        return result

    def _fail(self, fault: StoreFault | None, key: str) -> None:
        if fault is None or fault.how == "die":
            self._dead = True
            raise DiedError(f"at operation {len(self.log) - 1}")
        if fault.how == "exists":
            raise AlreadyExistsError(f"{key} exists (injected)", key=key)
        raise TransientError(f"{key}: no answer (injected)", key=key)

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Pass on."""
        return self._call("put_new", key, lambda: self._store.put_new(key, data))

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Pass on."""
        return self._call("replace", key, lambda: self._store.replace(key, data, expected=expected))

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Pass on."""
        return self._call("put_new_file", key, lambda: self._store.put_new_file(key, path))

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Pass on."""
        return self._call("replace_file", key, lambda: self._store.replace_file(key, path, expected=expected))

    def get(self, key: str) -> bytes:
        """Pass on."""
        return self._call("get", key, lambda: self._store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Pass on."""
        return self._call("get_range", key, lambda: self._store.get_range(key, start, length))

    def stat(self, key: str) -> ObjectStat:
        """Pass on."""
        return self._call("stat", key, lambda: self._store.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Pass on; a listing fails as a whole."""
        return iter(self._call("list", prefix, lambda: [*self._store.list(prefix)]))

    def delete(self, key: str, *, expected: str) -> None:
        """Pass on."""
        self._call("delete", key, lambda: self._store.delete(key, expected=expected))

    def close(self) -> None:
        """Close the store behind."""
        self._store.close()
