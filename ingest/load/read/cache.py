"""Inflated blocks kept in memory, the least recently used given up first, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["ByteLru"]

V = TypeVar("V")


class ByteLru(Generic[V]):
    """Values by key, of `max_bytes` together; safe to use from several threads.

    Two threads that miss the same key both make its value, and one is kept: nobody waits for another.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0
        self.hits = self.misses = 0

    @property
    def keeps_any(self) -> bool:
        """Whether there is room for anything."""
        return self._max_bytes > 0

    def get(self, key: Hashable) -> V | None:
        """Return what is kept under `key`, which becomes the most recently used."""
        if not self._max_bytes:
            return None
        with self._lock:
            found = self._held.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._held.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: V, nbytes: int) -> None:
        """Keep `value`; one that is larger than all the room is not."""
        if nbytes > self._max_bytes:
            return
        with self._lock:
            if key in self._held:
                return
            self._held[key] = value, nbytes
            self.nbytes += nbytes
            while self.nbytes > self._max_bytes:
                _, (_, size) = self._held.popitem(last=False)
                self.nbytes -= size
