"""One worker's share of a network line: a token bucket below its store and its sources, which also counts what passes.

A request begins when what went before is paid for, and then owes its bytes; a body on its way out pays as it goes. So
the line carries its rate, and beyond it what one request brings at once: readers ask for 8 MB or half a second of it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LEAST_SHARE", "Line", "share_of"]

LEAST_SHARE = 250_000.0
"""Bytes a second that a worker can live on: at less, a request would take minutes, and budgets for trying again end."""

_SAVED_S = 1.0
"""What was left unused is used later, up to so much of it."""

_LONGEST_STANDSTILL_S = 5.0
"""S3 hangs up on a body that stands still for 20 s. What is let through is owed, and waited for by who begins next."""

_SHORTEST_SLEEP_S = 0.002

_LEAST_AT_ONCE = 8 << 20
_AT_ONCE_S = 0.5


class Line:
    """Bytes of all threads of one worker, to and from the network.

    Parameters
    ----------
    bytes_per_s
        What it may carry; None: anything, and it only counts.
    clock, sleep
        Of the `time` module; tests bring their own.
    """

    def __init__(
        self,
        bytes_per_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._lock = threading.Lock()
        self._free_at = clock() - _SAVED_S
        self.n_bytes = self.n_requests = 0
        """What has passed so far, requests that were sent again included; they only grow."""

    @property
    def is_limited(self) -> bool:
        """Whether anybody ever waits."""
        return self._bytes_per_s is not None

    @property
    def most_at_once_bytes(self) -> int | None:
        """What several requests that are sent together should not exceed; None: nobody minds."""
        return None if self._bytes_per_s is None else max(_LEAST_AT_ONCE, int(self._bytes_per_s * _AT_ONCE_S))

    def begin(self, n_bytes: int = 0, *, n_requests: int = 1) -> None:
        """Wait until all that went before is paid for; then owe `n_bytes`, as many as are known beforehand."""
        with self._lock:
            self.n_requests += n_requests
        self._wait(self._owe(n_bytes))

    def owe(self, n_bytes: int) -> None:
        """Take what has come in answer to a request; who begins next waits for it."""
        self._owe(n_bytes)

    def more(self, n_bytes: int) -> None:
        """Take the next piece of a body that is being sent: wait, but not so long that the other side hangs up."""
        self._wait(self.delay_s(n_bytes))

    def delay_s(self, n_bytes: int) -> float:
        """Do as `more`, and leave the waiting to the caller: an event loop must not sleep."""
        return min(self._owe(n_bytes), _LONGEST_STANDSTILL_S)

    def _owe(self, n_bytes: int) -> float:
        """Owe `n_bytes`, and return the seconds until all that was owed before is paid for."""
        with self._lock:
            self.n_bytes += n_bytes
            if self._bytes_per_s is None:
                return 0.0
            now = self._clock()
            free_at = max(self._free_at, now - _SAVED_S)
            self._free_at = free_at + n_bytes / self._bytes_per_s
            return max(0.0, free_at - now)

    def _wait(self, seconds: float) -> None:
        # Pieces of a body are small: what is too short to sleep is still owed.
        if seconds >= _SHORTEST_SLEEP_S:
            self._sleep(seconds)


def share_of(bytes_per_s: float | None, workers: int) -> float | None:
    """Return each worker's part of a line; None where there is no limit.

    Raises
    ------
    ConfigError
        It is less than a worker can live on; the hint has the workers that would do.
    """
    if bytes_per_s is None:
        return None
    if bytes_per_s / workers >= LEAST_SHARE:
        return bytes_per_s / workers
    most = int(bytes_per_s // LEAST_SHARE)
    raise ConfigError(
        f"--bandwidth {bytes_per_s / 1e6:g}: {bytes_per_s / workers / 1e3:,.0f} kB/s for "
        + (f"each of {workers:,} workers" if workers > 1 else "one worker"),
        kind="bad-bandwidth",
        hint=f"a worker needs {LEAST_SHARE / 1e6:g} MB/s to get anywhere" + (f": -d {most} would do" if most else ""),
    )
