"""A store that goes wrong at the operation one names: before it, in its middle, after it, or with its reply lost.

::

    quiet = FaultyStore(LocalStore(folder))                 # counts and names the operations
    run(quiet)
    for at in range(len(quiet.log)):
        for when in ("before", "after"):
            run(FaultyStore(fresh_store(), StoreFault(at, when, "die")))

What lies below an operation has faults of its own: `ingest.testing.file_steps` for a folder,
`ingest.testing.fault_proxy` for the requests of S3 and GCS, parts of uploads and pages of listings among them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from ingest.errors import AlreadyExistsError, CorruptError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ingest.store.base import ObjectStat, Store

__all__ = ["DiedError", "FaultyStore", "Operation", "StoreFault", "flipped"]

T = TypeVar("T")

_CREATIONS = ("put_new", "put_new_file")


class DiedError(BaseException):
    """The process is gone: no handler of this project may catch it."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a store."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class StoreFault:
    """What goes wrong, once unless said otherwise."""

    at: int
    """Ordinal of the operation, from 0."""
    when: Literal["before", "middle", "after"]
    """``before``: it does not happen; ``middle``: of a listing half is delivered, of anything else nothing is, since
    no store shows half an object; ``after``: it happens, the caller does not learn so."""
    how: Literal["transient", "throttle", "die", "exists", "truncate", "flip", "ignore"]
    """``transient``: a ``TransientError``; ``throttle``: one that wishes for a pause of `retry_after_s`; ``die``: this
    and all later operations raise `DiedError`; ``exists``: a ``put_new`` or ``put_new_file`` that went through is
    answered by ``AlreadyExistsError``, as by a client that tried again.

    And what no store may do, whatever `when` says: ``truncate`` and ``flip`` damage what a read delivers or what a
    write stores; ``ignore`` lets a write through whatever its condition. Other operations are passed on."""
    times: int = 1
    """Operations in a row that it strikes."""
    retry_after_s: float = 0.0


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

    def _struck(self, name: str, key: str) -> StoreFault | None:
        """Note an operation and return the fault that it meets."""
        fault, at = self._fault, len(self.log)
        self.log.append(Operation(name, key))
        return fault if fault is not None and fault.at <= at < fault.at + fault.times else None

    def _call(self, name: str, key: str, operation: Callable[[], T], fault: StoreFault | None) -> T:
        breaks = fault is not None and fault.how not in ("truncate", "flip", "ignore")
        if self._dead or (fault is not None and breaks and fault.when != "after"):
            self._fail(fault, key)
        result = operation()
        if fault is not None and breaks and (fault.how != "exists" or name in _CREATIONS):
            self._fail(fault, key)
        return result

    def _fail(self, fault: StoreFault | None, key: str) -> None:
        if fault is None or fault.how == "die":
            self._dead = True
            raise DiedError(f"at operation {len(self.log) - 1}")
        if fault.how == "exists":
            raise AlreadyExistsError(f"{key} exists (injected)", key=key)
        if fault.how == "throttle":
            message = f"{key}: 503 SlowDown (injected)"
            raise TransientError(message, kind="throttled", key=key, retry_after_s=fault.retry_after_s)
        raise TransientError(f"{key}: no answer (injected)", key=key)

    def _write(
        self, name: str, key: str, data: bytes | memoryview, write: Callable[[bytes | memoryview], ObjectStat]
    ) -> ObjectStat:
        fault = self._struck(name, key)
        sent = _damaged(bytes(data), fault)
        if fault is not None and fault.how == "ignore":
            return self._call(name, key, lambda: self._force(key, sent), fault)
        return self._call(name, key, lambda: write(sent), fault)

    def _force(self, key: str, data: bytes) -> ObjectStat:
        try:
            return self._store.put_new(key, data)
        except AlreadyExistsError:
            return self._store.replace(key, data, expected=self._store.stat(key).version)

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Pass on."""
        return self._write("put_new", key, data, lambda sent: self._store.put_new(key, sent))

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Pass on."""
        return self._write("replace", key, data, lambda sent: self._store.replace(key, sent, expected=expected))

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Pass on, by the file's bytes where these are to be damaged or forced."""
        fault = self._struck("put_new_file", key)
        if fault is not None and fault.how in ("truncate", "flip", "ignore"):
            put = self._force if fault.how == "ignore" else self._store.put_new
            return self._call("put_new_file", key, lambda: put(key, _damaged(path.read_bytes(), fault)), fault)
        return self._call("put_new_file", key, lambda: self._store.put_new_file(key, path), fault)

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Pass on, by the file's bytes where these are to be damaged or forced."""
        fault = self._struck("replace_file", key)
        if fault is not None and fault.how in ("truncate", "flip", "ignore"):
            return self._call("replace_file", key, lambda: self._force(key, _damaged(path.read_bytes(), fault)), fault)
        return self._call("replace_file", key, lambda: self._store.replace_file(key, path, expected=expected), fault)

    def get(self, key: str) -> bytes:
        """Pass on."""
        fault = self._struck("get", key)
        return _damaged(self._call("get", key, lambda: self._store.get(key), fault), fault)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Pass on; a range cut short is noticed by any store, so it is refused here as there."""
        fault = self._struck("get_range", key)
        data = self._call("get_range", key, lambda: self._store.get_range(key, start, length), fault)
        if fault is not None and fault.how == "truncate" and length:
            raise CorruptError(f"{key}: half of {length} bytes from {start} (injected)", kind="short-read", key=key)
        return _damaged(data, fault)

    def stat(self, key: str) -> ObjectStat:
        """Pass on."""
        return self._call("stat", key, lambda: self._store.stat(key), self._struck("stat", key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Pass on; struck in its middle, a listing delivers half of what there is and fails."""
        fault = self._struck("list", prefix)
        if fault is None or fault.when != "middle":
            return iter(self._call("list", prefix, lambda: [*self._store.list(prefix, after=after)], fault))
        return self._list_half(prefix, after, fault)

    def _list_half(self, prefix: str, after: str, fault: StoreFault) -> Iterator[ObjectStat]:
        found = [*self._store.list(prefix, after=after)]
        yield from found[: len(found) // 2]
        self._fail(fault, prefix)

    def delete(self, key: str, *, expected: str) -> None:
        """Pass on."""
        fault = self._struck("delete", key)
        if fault is not None and fault.how == "ignore":
            with suppress(LookupError):
                expected = self._store.stat(key).version
        self._call("delete", key, lambda: self._store.delete(key, expected=expected), fault)

    def close(self) -> None:
        """Close the store behind."""
        self._store.close()


def flipped(data: bytes) -> bytes:
    """Return `data` with one bit in its middle turned over."""
    damaged = bytearray(data)
    if damaged:
        damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


def _damaged(data: bytes, fault: StoreFault | None) -> bytes:
    if fault is None or fault.how not in ("truncate", "flip"):
        return data
    return flipped(data) if fault.how == "flip" else data[: len(data) // 2]
