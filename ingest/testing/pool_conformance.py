# ruff: noqa: S101  # assert is how a test suite speaks
"""What every pool must do: subclass `PoolConformance`, say how a pool is made, inherit the tests.

::

    class TestMyPool(PoolConformance):
        @pytest.fixture
        def make_pool(self):
            pools = []

            def make(factory, size):
                pools.append(MyPool(factory, size))
                return pools[-1]

            yield make
            for pool in pools:
                pool.close()
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, ClassVar

import pytest

from ingest.errors import ConfigError
from ingest.pool import Ended, Failure, Lost, UnitTask
from ingest.testing.scripted_worker import CELLS_PER_CHUNK, ScriptedFactory, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ingest.pool import Pool, PoolEvent
    from ingest.testing.scripted_worker import Journal

    MakePool = Callable[[ScriptedFactory, int], Pool]

__all__ = ["PoolConformance", "drive", "eventually", "tasks_of"]

PATIENCE_S = 300.0
"""How long a test waits for what must come; nothing is asserted about how long it took."""


def tasks_of(chunks: Iterable[int], per_unit: int = 1) -> list[UnitTask]:
    """Cut `chunks` into units of `per_unit`, numbered from 0."""
    wanted = list(chunks)
    cuts = range(0, len(wanted), per_unit)
    return [UnitTask(n, tuple(wanted[at : at + per_unit]), f"attempt-{n}") for n, at in enumerate(cuts)]


def eventually(condition: Callable[[], bool], meanwhile: Callable[[], object] = lambda: time.sleep(0.01)) -> None:
    """Return once `condition` holds, doing `meanwhile`; fail after `PATIENCE_S`."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        meanwhile()


def drive(
    pool: Pool, tasks: Iterable[UnitTask], *, deadline_s: float | Callable[[UnitTask], float] = PATIENCE_S
) -> list[PoolEvent]:
    """Do all `tasks` as a driver would, retrying nothing; return one event for each.

    Short deadlines are for tasks that hang: a busy machine may take long over any other.
    """
    waiting = list(tasks)[::-1]
    n_wanted = len(waiting)
    events: list[PoolEvent] = []

    def step() -> None:
        while waiting and pool.has_free():
            task = waiting.pop()
            pool.submit(task, deadline_s=deadline_s(task) if callable(deadline_s) else deadline_s)
        events.extend(pool.wait(1.0))

    eventually(lambda: len(events) >= n_wanted, step)
    return events


class PoolConformance:
    """Tests of the `Pool` protocol; a subclass supplies the fixture `make_pool` of type ``(factory, size) -> Pool``."""

    survives_crashes: ClassVar[bool] = True
    """Whether workers are processes of their own."""
    max_size: ClassVar[int | None] = None
    """Workers that the pool can have; None: as many as asked for."""

    def size(self, wanted: int) -> int:
        """Return how many workers to ask for."""
        return wanted if self.max_size is None else min(wanted, self.max_size)

    @pytest.fixture
    def journal_folder(self, tmp_path: Path) -> str:
        """Return a folder that workers can write to."""
        return str(tmp_path)

    def test_makes_all_units_once(self, make_pool: MakePool, journal_folder: str) -> None:
        """Every unit ends once, with its own outcome, and every chunk was begun once."""
        factory = ScriptedFactory(journal_folder)
        tasks = tasks_of(range(12), per_unit=2)
        events = drive(make_pool(factory, self.size(2)), tasks)
        assert sorted(event.task.unit_id for event in events) == [task.unit_id for task in tasks]
        for event in events:
            assert isinstance(event, Ended)
            assert event.outcome.unit_id == event.task.unit_id
            assert event.outcome.done == event.task.chunks
            assert event.outcome.n_cells == CELLS_PER_CHUNK * len(event.task.chunks)
        assert sorted(e.chunk for e in factory.journal.entries() if e.what == "begin") == list(range(12))

    def test_reports_expected_failures(self, make_pool: MakePool, journal_folder: str) -> None:
        """Failures travel inside the outcome, beside what was done."""
        factory = ScriptedFactory(journal_folder, {1: (Step("fail"),)})
        [event] = drive(make_pool(factory, 1), tasks_of(range(3), per_unit=3))
        assert isinstance(event, Ended)
        assert event.outcome.done == (0, 2)
        [failure] = event.outcome.failures
        assert (failure.chunks, failure.handling, failure.kind) == ((1,), "transient", "scripted")

    def test_reports_unforeseen_exceptions(self, make_pool: MakePool, journal_folder: str) -> None:
        """An exception ends the unit as an internal failure of all its chunks; the same worker goes on."""
        factory = ScriptedFactory(journal_folder, {1: (Step("raise"),)})
        events = drive(make_pool(factory, 1), tasks_of(range(6), per_unit=3))
        first, second = sorted(events, key=lambda event: event.task.unit_id)
        assert isinstance(first, Ended)
        [failure] = first.outcome.failures
        assert (failure.chunks, failure.handling) == ((0, 1, 2), "internal")
        assert "scripted to raise" in failure.message
        assert "RuntimeError" in (failure.traceback or "")
        assert isinstance(second, Ended)
        assert second.outcome.done == (3, 4, 5)
        assert factory.journal.count("start") == 1

    def test_replaces_a_worker_that_is_spent(self, make_pool: MakePool, journal_folder: str) -> None:
        """Whoever has run out of memory reports it, and another does what comes next."""
        failure = Failure((1,), "exhausted", "out-of-memory", "no memory for chunk 1")
        factory = ScriptedFactory(journal_folder, {1: (Step("fail", failure=failure),)})
        first, second = drive(make_pool(factory, 1), tasks_of(range(4), per_unit=2))
        assert isinstance(first, Ended)
        assert (first.outcome.done, first.outcome.failures) == ((0,), (failure,))
        assert isinstance(second, Ended)
        assert second.outcome.done == (2, 3)
        assert factory.journal.count("start") == 2

    def test_takes_no_more_than_it_can_hold(self, make_pool: MakePool, journal_folder: str) -> None:
        """`has_free` bounds submission; at most `size` units are in hand, and a further one is refused."""
        size = self.size(2)
        factory = ScriptedFactory(journal_folder)
        pool = make_pool(factory, size)
        assert pool.size == size
        tasks, n_submitted, n_ended = tasks_of(range(10)), 0, 0

        def step() -> None:
            nonlocal n_submitted, n_ended
            while pool.has_free() and n_submitted < len(tasks):
                pool.submit(tasks[n_submitted], deadline_s=PATIENCE_S)
                n_submitted += 1
            if n_submitted - n_ended == size:
                assert not pool.has_free()
                with pytest.raises(RuntimeError, match="free"):
                    pool.submit(tasks[-1], deadline_s=PATIENCE_S)
            assert n_submitted - n_ended <= size
            n_ended += len(pool.wait(1.0))

        eventually(lambda: n_ended == len(tasks), step)
        assert factory.journal.most_units_at_once() <= size

    def test_stop_soon_leaves_chunks_undone(self, make_pool: MakePool, journal_folder: str) -> None:
        """The chunk in hand is finished, the others come back undone; no later unit does anything."""
        factory = ScriptedFactory(journal_folder, {0: (Step("gate"),)})
        pool = make_pool(factory, 1)
        helper = threading.Thread(daemon=True, target=_stop_while_chunk_0_is_made, args=(pool, factory.journal))
        helper.start()
        first, second = drive(pool, tasks_of(range(6), per_unit=3))
        helper.join()
        assert isinstance(first, Ended)
        assert isinstance(second, Ended)
        assert (first.outcome.done, first.outcome.undone) == ((0,), (1, 2))
        assert (second.outcome.done, second.outcome.undone) == ((), (3, 4, 5))

    def test_says_how_far_it_is(self, make_pool: MakePool, journal_folder: str) -> None:
        """`progress` speaks of the unit in hand while it is made, and is empty before and after."""
        factory = ScriptedFactory(journal_folder, {2: (Step("gate"),)})
        pool = make_pool(factory, 1)
        assert list(pool.progress()) == []
        heard: list[int] = []
        helper = threading.Thread(daemon=True, target=_listen_until_two_chunks, args=(pool, factory.journal, heard))
        helper.start()
        drive(pool, tasks_of(range(3), per_unit=3))
        helper.join()
        assert heard == [2 * CELLS_PER_CHUNK]
        assert list(pool.progress()) == []

    def test_worker_that_cannot_start(self, make_pool: MakePool, journal_folder: str) -> None:
        """A worker that never gets ready ends in one error with the cause, not in waiting."""
        pool = make_pool(ScriptedFactory(journal_folder, starts=(Step("fail"),)), 1)
        with pytest.raises(ConfigError, match="scripted to fail") as caught:
            drive(pool, tasks_of([0]))
        assert caught.value.kind == "pool-start"
        assert caught.value.hint == "change the script"
        assert isinstance(caught.value.__cause__, ConfigError)
        assert caught.value.__cause__.kind == "scripted"

    def test_wait_returns_when_time_is_over(self, make_pool: MakePool, journal_folder: str) -> None:
        """With nothing in hand `wait` comes back with nothing."""
        pool = make_pool(ScriptedFactory(journal_folder), 1)
        eventually(pool.has_free, lambda: pool.wait(0.1))
        assert list(pool.wait(0.05)) == []

    def test_close_is_final_and_idempotent(self, make_pool: MakePool, journal_folder: str) -> None:
        """A closed pool has no free worker and no events; closing again does nothing."""
        pool = make_pool(ScriptedFactory(journal_folder), self.size(2))
        drive(pool, tasks_of(range(2)))
        pool.close()
        pool.close()
        assert not pool.has_free()
        assert list(pool.wait(0.05)) == []
        assert list(pool.progress()) == []

    @pytest.mark.parametrize("death", ["exit", "kill"])
    def test_crash_loses_one_unit_only(self, make_pool: MakePool, journal_folder: str, death: str) -> None:
        """The unit of a worker that dies is lost and blamed, all others are made, by a replacement if need be."""
        if not self.survives_crashes:
            pytest.skip("workers of this pool share the driver's process")
        step = Step("exit") if death == "exit" else Step("kill")
        factory = ScriptedFactory(journal_folder, {3: (step,)})
        events = drive(make_pool(factory, 1), tasks_of(range(6)))
        [lost] = [event for event in events if isinstance(event, Lost)]
        assert (lost.task.chunks, lost.blame, lost.kind) == ((3,), "unit", "worker-died")
        ended = [event.outcome.done for event in events if isinstance(event, Ended)]
        assert sorted(ended) == [(0,), (1,), (2,), (4,), (5,)]
        assert factory.journal.count("start") == 2  # the first and its replacement

    def test_deadline_ends_a_hanging_unit(self, make_pool: MakePool, journal_folder: str) -> None:
        """A unit past its deadline is lost, and the others go on."""
        if not self.survives_crashes:
            pytest.skip("workers of this pool share the driver's process")
        factory = ScriptedFactory(journal_folder, {0: (Step("hang"),)})
        pool = make_pool(factory, 1)
        hanging, fine = tasks_of(range(2))
        [lost] = drive(pool, [hanging], deadline_s=1.0)
        assert isinstance(lost, Lost)
        assert (lost.blame, lost.kind) == ("unit", "deadline")
        [ended] = drive(pool, [fine])
        assert isinstance(ended, Ended)

    def test_unlucky_start_is_tried_again(self, make_pool: MakePool, journal_folder: str) -> None:
        """One failed start costs nothing but time."""
        if not self.survives_crashes:
            pytest.skip("a single process has a single try")
        factory = ScriptedFactory(journal_folder, starts=(Step("fail"), Step()))
        [event] = drive(make_pool(factory, 1), tasks_of([0]))
        assert isinstance(event, Ended)
        assert factory.journal.count("start") == 2


def _stop_while_chunk_0_is_made(pool: Pool, journal: Journal) -> None:
    eventually(lambda: journal.count("begin", 0) == 1)
    pool.stop_soon()
    eventually(lambda: journal.count("stop") >= 1)
    journal.open(0)


def _listen_until_two_chunks(pool: Pool, journal: Journal, heard: list[int]) -> None:
    def listen() -> None:
        for progress in pool.progress():
            if progress.n_cells == 2 * CELLS_PER_CHUNK and not heard:
                heard.append(progress.n_cells)
        time.sleep(0.01)

    eventually(lambda: bool(heard), listen)
    journal.open(2)
