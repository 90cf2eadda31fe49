"""A step of a pipeline in a thread of its own, a bounded number of items ahead of whoever takes them."""

from __future__ import annotations

import threading
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Ahead"]

Item = TypeVar("Item")


class _End:
    """Nothing further comes: all is made, or `error` was in the way."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Ahead(Generic[Item]):
    """Iterate over what a generator makes meanwhile, in order; what it raises is raised here.

    One item is in the taker's hands while the next ones are made: with `depth` 1, two exist at a time.

    Parameters
    ----------
    items
        Runs in the thread from its first item to its end; closed there.
    depth
        Items made, or being made, that nobody has taken yet.
    """

    def __init__(self, items: Generator[Item, None, None], *, depth: int = 1) -> None:
        self._ready: SimpleQueue[Item | _End] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._closed = False
        make = copy_context().run  # what is logged there is about what it is about here
        self._thread = threading.Thread(target=make, args=(self._make, items), name="read-ahead", daemon=True)
        self._thread.start()

    def _make(self, items: Generator[Item, None, None]) -> None:
        end = _End()
        try:
            while self._room.acquire() and not self._closed:
                self._ready.put(next(items))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 # raised where the items are taken
            end = _End(error)
        finally:
            items.close()
            self._ready.put(end)

    def __iter__(self) -> Ahead[Item]:
        return self

    def __next__(self) -> Item:
        found = self._ready.get()
        if isinstance(found, _End):
            self._ready.put(found)  # asked again, it says the same
            if found.error is not None:
                raise found.error
            raise StopIteration
        self._room.release()
        return found

    def close(self) -> None:
        """Make nothing further and wait for the item being made; what nobody took is dropped."""
        self._closed = True
        self._room.release()
        self._thread.join()
