"""Commits under way: made chunks are written by threads that wait for the store, in bounded memory."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.json_lines import about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from ingest.chunks import Committed, MadeChunk

__all__ = ["Landed", "Uploads"]


@dataclass(frozen=True, slots=True, eq=False)
class Landed:
    """The end of one commit."""

    chunk: int
    n_cells: int
    nnz: int
    committed: Committed | None
    error: Exception | None
    """Why it is not committed; None with `committed` None: it was called off before it began."""
    seconds: float
    """Wall time of the commit."""


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    chunk: int
    n_cells: int
    nnz: int
    n_bytes: int


class Uploads:
    """Commits of one unit; used from one thread, which hears of every end by `landed` or `drain`.

    Parameters
    ----------
    commit
        Makes a chunk exist; called from several threads at once.
    threads
        Commits at a time.
    most_bytes
        Files under way together; a single one may be larger.
    """

    def __init__(self, commit: Callable[[MadeChunk], Committed], *, threads: int, most_bytes: int) -> None:
        self._commit, self._most_bytes = commit, most_bytes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="upload")
        self._flights: dict[Future[tuple[Committed, float]], _Flight] = {}
        self._n_bytes = 0

    def submit(self, made: MadeChunk) -> None:
        """Start the commit of `made`; `wait_for_room` beforehand keeps the bound."""
        entry = made.entry
        flight = _Flight(entry.chunk, entry.n_cells, entry.nnz, len(made.encoded.data))
        self._n_bytes += flight.n_bytes
        # What is logged on the way says which unit it is about, and which chunk.
        with about(chunk=flight.chunk):
            context = copy_context()
        self._flights[self._threads.submit(context.run, _timed, self._commit, made)] = flight

    def wait_for_room(self, n_bytes: int) -> Iterator[Landed]:
        """Block until a file of about `n_bytes` may be made; yield the commits that have ended meanwhile."""
        yield from self._take(block=False)
        while self._flights and self._n_bytes + n_bytes > self._most_bytes:
            yield from self._take(block=True)

    def drain(self) -> Iterator[Landed]:
        """Yield the ends of all commits under way."""
        while self._flights:
            yield from self._take(block=True)

    def call_off(self) -> None:
        """Begin no further commit; those that have begun go on."""
        for future in self._flights:
            future.cancel()

    def close(self) -> None:
        """End the threads, after the commits that have begun."""
        self._threads.shutdown(cancel_futures=True)

    def _take(self, *, block: bool) -> Iterator[Landed]:
        ended, _ = wait(self._flights, timeout=None if block else 0, return_when=FIRST_COMPLETED)
        for future in sorted(ended, key=lambda one: self._flights[one].chunk):
            flight = self._flights.pop(future)
            self._n_bytes -= flight.n_bytes
            yield _landed(flight, future)


def _timed(commit: Callable[[MadeChunk], Committed], made: MadeChunk) -> tuple[Committed, float]:
    start = time.perf_counter()
    return commit(made), time.perf_counter() - start


def _landed(flight: _Flight, future: Future[tuple[Committed, float]]) -> Landed:
    committed, error, seconds = None, None, 0.0
    if not future.cancelled():
        try:
            committed, seconds = future.result()
        except Exception as found:  # noqa: BLE001 # whoever started it judges it
            error = found
    return Landed(flight.chunk, flight.n_cells, flight.nnz, committed, error, seconds)
