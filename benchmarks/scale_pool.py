"""Workers in simulated time: a pool that the real driver drives, and a store whose listings take their time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.layout import receipt_key
from ingest.pool import Ended, Failure, Lost, UnitOutcome
from ingest.testing.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.pool import PoolEvent, Progress, UnitTask
    from ingest.store.base import ObjectStat

__all__ = ["Fleet", "ListedStore", "SimulatedPool"]

_LIST_PAGE = 1000
"""Keys in an answer, of S3 and of GCS."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What workers do and what befalls them; times in simulated seconds."""

    workers: int
    cells_per_s: float = 7_000.0
    """Of one worker: what one core writes to a bucket (docs/performance.md: 14,500 of two)."""
    unit_s: float = 0.5
    """Claim, index and sources opened, before the first cell."""
    message_s: float = 0.002
    """Of the driver, for handing out a unit and as much for hearing of its end: Ray's `wait` for 1,000 calls takes
    1 ms, a call and its answer 0.3 ms of CPU (docs/scale.md)."""
    replace_s: float = 120.0
    """Until another machine works instead of one that was taken away."""
    losses_per_h: float = 0.0
    """Of a worker: the share that a spot market takes back in an hour."""
    stragglers: float = 0.0
    """Share of the units that take `slowness` times as long."""
    slowness: float = 4.0
    throttled: float = 0.0
    """Share of the units that come back with a chunk undone: the store was overloaded for longer than workers try."""
    retry_after_s: float = 5.0


class ListedStore(MemoryStore):
    """Counts listings; a page takes `page_s` of the simulated time of whoever asks, the driver."""

    def __init__(self, page_s: float = 0.1) -> None:
        super().__init__()
        self.pages, self.seconds, self._page_s = 0, 0.0, page_s

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """See `Store.list`."""
        found = list(super().list(prefix, after=after))
        pages = max(1, math.ceil(len(found) / _LIST_PAGE))
        self.pages += pages
        self.seconds += pages * self._page_s
        return iter(found)


class SimulatedPool:
    """Ends units when their time has come, by a clock that jumps from one end to the next.

    Parameters
    ----------
    fleet
        What workers are like.
    cells_per_chunk
        In every chunk.
    store
        Gets the receipts: of a worker that is lost, those of the chunks that it had finished.
    seed
        The same seed, the same run.
    """

    def __init__(self, fleet: Fleet, cells_per_chunk: int, store: ListedStore, *, seed: int = 0) -> None:
        self.size = fleet.workers
        self.busy_s = self.cpu_seconds = 0.0
        """Of all workers, simulated; and of this process, for playing them."""
        self.n_lost = self.n_events = 0
        self.puts: Counter[int] = Counter()
        """Simulated second -> requests that write."""
        self._fleet, self._cells, self._store = fleet, cells_per_chunk, store
        self._random = random.Random(seed)  # noqa: S311  # a simulation
        self._at = 0.0
        self._free = fleet.workers
        self._queue: list[tuple[float, int, PoolEvent | None]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Return the time, with what the driver has waited for listings."""
        return self._at + self._store.seconds

    def has_free(self) -> bool:
        """See `Pool`."""
        return self._free > 0

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:  # noqa: ARG002 # nothing hangs here
        """See `Pool`."""
        with self._played():
            self._free -= 1
            self._at += self._fleet.message_s
            begins, each = self.now() + self._fleet.unit_s, self._chunk_s()
            ends = begins + each * len(task.chunks)
            hourly = self._fleet.losses_per_h
            rate = hourly / 3600  # zero also of the smallest numbers there are
            lost = self.now() + (self._random.expovariate(rate) if rate else math.inf)
            finished = task.chunks if lost >= ends else task.chunks[: max(0, int((lost - begins) / each))]
            self._write(finished, begins, each)
            self.busy_s += min(lost, ends) - self.now()
            if lost < ends:
                self.n_lost += 1
                self._push(lost, Lost(task, "infrastructure", "node-lost", "taken back"))
                self._push(lost + self._fleet.replace_s, None)
            else:
                self._push(ends, Ended(task, self._outcome(task)))

    def _chunk_s(self) -> float:
        slow = self._random.random() < self._fleet.stragglers
        return self._cells / self._fleet.cells_per_s * (self._fleet.slowness if slow else 1.0)

    def _write(self, chunks: tuple[int, ...], begins: float, each: float) -> None:
        self.puts[int(begins)] += 1  # the claim
        for at, chunk in enumerate(chunks, start=1):
            self.puts[int(begins + at * each)] += 2
            if (key := receipt_key(chunk, chunk)) not in self._store.objects.data:
                self._store.put_new(key, b"")

    def _outcome(self, task: UnitTask) -> UnitOutcome:
        if self._random.random() >= self._fleet.throttled:
            return UnitOutcome(task.unit_id, task.chunks, n_cells=self._cells * len(task.chunks))
        wish = self._fleet.retry_after_s
        failure = Failure(task.chunks[-1:], "transient", "throttled", "slow down", retry_after_s=wish)
        done = task.chunks[:-1]
        return UnitOutcome(task.unit_id, done, (failure,), n_cells=self._cells * len(done))

    def _push(self, when: float, event: PoolEvent | None) -> None:
        heapq.heappush(self._queue, (when, next(self._order), event))

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """See `Pool`: what has happened by now, else what happens next."""
        with self._played():
            horizon = self.now() + timeout_s
            if not self._queue or self._queue[0][0] > horizon:
                self._at += timeout_s
                return []
            self._at += max(0.0, self._queue[0][0] - self.now())
            found: list[PoolEvent] = []
            while self._queue and self._queue[0][0] <= self.now():
                event = heapq.heappop(self._queue)[2]
                self._free += not isinstance(event, Lost)
                if event is not None:
                    found.append(event)
            self.n_events += len(found)
            self._at += self._fleet.message_s * len(found)
            return found

    @contextmanager
    def _played(self) -> Iterator[None]:
        cpu = time.process_time()
        try:
            yield
        finally:
            self.cpu_seconds += time.process_time() - cpu

    def progress(self) -> list[Progress]:
        """See `Pool`; asking is Ray's affair, and measured with it."""
        return []

    def stop_soon(self) -> None:
        """See `Pool`: no simulated run is stopped."""

    def close(self) -> None:
        """See `Pool`."""
        self._queue.clear()
