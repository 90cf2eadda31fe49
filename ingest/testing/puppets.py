"""Threads that stand still before every operation that others could see, until they are told to go on.

Of all of them one moves at a time, so that a test decides how drivers and workers of one DEST interleave, and the same
decisions give the same course.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ingest.errors import AlreadyExistsError, TransientError
from ingest.testing.faults import DiedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ingest.store.base import ObjectStat, Store

__all__ = ["Mishap", "Puppet", "PuppetStore"]

T = TypeVar("T")

Mishap = Literal["lose-request", "lose-reply", "tried-again"]
"""Of the operation that a puppet stands before: it does not happen; it does, and nobody learns so; it does, and a
client that learned of nothing tried once more (of a creation: it is told that the object exists)."""

_PATIENCE_S = 300.0


class Puppet:
    """A thread that runs `body` and stands where `stand` is called.

    Parameters
    ----------
    body
        Called with the puppet.
    """

    def __init__(self, body: Callable[[Puppet], Any]) -> None:
        self._body = body
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._mishap: Mishap | None = None
        self.dead = False
        """Everything it still tries fails."""
        self.before: str | None = None
        """What it stands before; None: it has ended."""
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._await()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.before is None

    def step(self, mishap: Mishap | None = None) -> None:
        """Let it go on to where it stands next, or to its end."""
        if self.over:
            return
        self._mishap = mishap
        self._go.release()
        self._await()

    def kill(self) -> None:
        """End it where it stands: what it stands before does not happen."""
        self.dead = True
        while not self.over:
            self.step()

    def stand(self, before: str) -> Mishap | None:
        """Stand still before an operation; called by the puppet's own thread.

        Raises
        ------
        DiedError
            It was killed.
        """
        if self.dead:
            raise DiedError(before)
        self.before = before
        self._stands.release()
        self._go.acquire()
        if self.dead:
            raise DiedError(before)
        mishap, self._mishap = self._mishap, None
        return mishap

    def _await(self) -> None:
        if not self._stands.acquire(timeout=_PATIENCE_S):
            raise RuntimeError(f"a puppet neither stands nor ends; it stood before {self.before}")

    def _run(self) -> None:
        try:
            self.result = self._body(self)
        except BaseException as error:  # noqa: BLE001 # whoever holds the strings looks at it
            self.error = error
        self.before = None
        self._stands.release()


class PuppetStore:
    """The handle of one puppet on `store`: it stands before whatever changes or lists what is there.

    Reading an object needs no stand: objects change by the operations of puppets alone, and those stand.
    """

    def __init__(self, store: Store, puppet: Puppet) -> None:
        self._store, self._puppet = store, puppet

    @property
    def url(self) -> str:
        """The store's own."""
        return self._store.url

    @property
    def retries(self) -> int:
        """The store's own."""
        return self._store.retries

    def _act(self, name: str, key: str, act: Callable[[], T]) -> T:
        mishap = self._puppet.stand(f"{name} {key}")
        if mishap == "lose-request":
            raise TransientError(f"{key}: no answer", kind="unreachable", key=key)
        result = act()
        if mishap == "tried-again" and name == "put_new":
            raise AlreadyExistsError(f"{key} exists", key=key)
        if mishap == "lose-reply":
            raise TransientError(f"{key}: no answer", kind="unreachable", key=key)
        return result

    def _alive(self) -> Store:
        if self._puppet.dead:
            raise DiedError("a read")
        return self._store

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Stand, then pass on."""
        return self._act("put_new", key, lambda: self._store.put_new(key, data))

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Stand, then pass on."""
        return self._act("put_new", key, lambda: self._store.put_new_file(key, path))

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Stand, then pass on."""
        return self._act("replace", key, lambda: self._store.replace(key, data, expected=expected))

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Stand, then pass on."""
        return self._act("replace", key, lambda: self._store.replace_file(key, path, expected=expected))

    def delete(self, key: str, *, expected: str) -> None:
        """Stand, then pass on."""
        self._act("delete", key, lambda: self._store.delete(key, expected=expected))

    def stat(self, key: str) -> ObjectStat:
        """Stand, then pass on."""
        return self._act("stat", key, lambda: self._store.stat(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Stand, then pass on."""
        return iter(self._act("list", prefix, lambda: [*self._store.list(prefix, after=after)]))

    def get(self, key: str) -> bytes:
        """Pass on, unless the puppet is dead."""
        return self._alive().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Pass on, unless the puppet is dead."""
        return self._alive().get_range(key, start, length)

    def close(self) -> None:
        """Close the store behind."""
        self._store.close()
