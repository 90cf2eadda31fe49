"""Try again within a budget: full jitter, the server's own wish first, and all threads of a store together."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from ingest.errors import CorruptError, TransientError
from ingest.json_lines import log_event

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Budget", "Retrier", "retry_after_s"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CORRUPT_TRIES = 3
"""A damaged transfer heals at the second try; what stays damaged is damaged at rest, and more reads cost only time."""

_LONGEST_WISH_S = 86_400.0
"""What a server asks for beyond a day is taken for one: it is slept, recorded and said to people."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long one operation may be tried."""

    attempts: int = 10
    """Tries in total, the first included."""
    total_s: float = 180.0
    """Longest time from the first try to the start of the last."""
    first_s: float = 0.2
    """Upper end of the first pause; it doubles with every try."""
    most_s: float = 20.0
    """Longest pause of our own choosing; a server may wish for more."""


class Retrier:
    """Run operations until they succeed, fail for good or the budget is spent.

    The pause after an answer of an overloaded server holds for every thread that shares the instance, whether it
    asked for one or not: the store is what is overloaded, not one request.

    Parameters
    ----------
    budget
        Of each operation.
    sleep, clock, uniform
        Of the `time` and `random` modules; tests bring their own.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._budget = budget or Budget()
        self._sleep, self._clock, self._uniform = sleep, clock, uniform
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self.retries = 0

    def call(self, operation: Callable[[int], T]) -> T:
        """Return ``operation(n_earlier_tries)``; its ``TransientError`` and ``CorruptError`` are tried again.

        Raises
        ------
        TransientError
            The last one, the budget being spent; `retry_after_s` still tells the server's wish.
        CorruptError
            The bytes were damaged every time.
        """
        start, earlier, damaged = self._clock(), 0, 0
        while True:
            self._wait_for_all()
            try:
                return operation(earlier)
            except CorruptError as error:
                damaged += 1
                if damaged >= _corrupt_tries(error):
                    raise
                self._pause(error, earlier, start)
            except TransientError as error:
                self._pause(error, earlier, start)
            earlier += 1

    def _pause(self, error: TransientError | CorruptError, earlier: int, start: float) -> None:
        """Sleep before the next try, or raise `error` when there must be none."""
        budget = self._budget
        wish = error.retry_after_s if isinstance(error, TransientError) else None
        pause = self._uniform(0.0, min(budget.most_s, budget.first_s * 2.0**earlier)) + (wish or 0.0)
        if earlier + 1 >= budget.attempts or self._clock() - start + pause > budget.total_s:
            raise error
        log_event(_log, "retry", f"tried again in {pause:.1f} s: {error}", kind=error.kind, key=error.key)
        with self._lock:
            self.retries += 1
            if wish is not None or error.kind == "throttled":
                self._resume_at = max(self._resume_at, self._clock() + (pause if wish is None else wish))
        self._sleep(pause)

    def _wait_for_all(self) -> None:
        with self._lock:
            left = self._resume_at - self._clock()
        if left > 0:
            # Jitter: threads held back together must not come back together.
            self._sleep(left + self._uniform(0.0, self._budget.first_s))


def _corrupt_tries(error: CorruptError) -> int:
    # A complete answer that ends before the range does says how long the object is; that will not change.
    return 1 if error.kind == "short-read" else _CORRUPT_TRIES


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or None; RFC 9110, 10.2.3: seconds or a date.

    A day at most, whatever the header says; None for what is neither.
    """
    wish = _asked_s(header.strip()) if header is not None else math.nan
    return min(max(0.0, wish), _LONGEST_WISH_S) if math.isfinite(wish) else None


def _asked_s(text: str) -> float:
    """Return what `text` asks for, which may be in the past; infinite or NaN where it cannot be reckoned with."""
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):  # no date, or one that no calendar has
        return math.nan
