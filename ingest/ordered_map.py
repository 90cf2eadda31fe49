"""Many small waits in threads, results in order, memory bounded."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

__all__ = ["map_ordered"]

T = TypeVar("T")
R = TypeVar("R")


def map_ordered(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Yield ``function(item)`` in the order of `items`, with at most `ahead` calls begun and not yet yielded.

    ``Executor.map`` takes all items at once and keeps every result until somebody wants it: with 100,000 receipts
    that is their whole size. What has not begun is cancelled when the consumer stops or a call raises.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            while len(pending) >= ahead:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
            del item  # it may be large: the call has it, for as long as it runs
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
