from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from ingest.driver import drive
from ingest.errors import ConfigError, CredentialsError, DiskFullError, TransientError
from ingest.pool import Ended, Failure, Lost, Progress, UnitOutcome
from ingest.run_events import Moved, Observed, UnitBegan, UnitSettled
from ingest.schedule import Policy, Scheduler


@dataclass
class ScriptedPool:
    """Ends every unit as `answer` says, the oldest first, one a wait."""

    answer: object
    size: int = 2
    in_hand: list = field(default_factory=list)
    seen: list = field(default_factory=list)
    most: int = 0
    stopping: bool = False
    deadlines: list = field(default_factory=list)

    def has_free(self):
        return len(self.in_hand) < self.size

    def submit(self, task, *, deadline_s):
        assert self.has_free(), "more units than workers"
        assert not self.stopping, "a new unit while draining"
        self.in_hand.append(task)
        self.seen.append(task)
        self.deadlines.append(deadline_s)
        self.most = max(self.most, len(self.in_hand))

    def wait(self, timeout_s):
        assert timeout_s > 0
        return [self.answer(self.in_hand.pop(0), self)] if self.in_hand else []

    def progress(self):
        return [Progress(task.unit_id, 5, 50, 1) for task in self.in_hand]

    def stop_soon(self):
        self.stopping = True

    def close(self):
        pass


@dataclass
class FakeLedger:
    finished: set = field(default_factory=set)
    recorded: list = field(default_factory=list)
    listings: int = 0
    asked: list = field(default_factory=list)
    broken: bool = False

    def done(self):
        self.listings += 1
        if self.broken and self.listings > 1:
            raise TransientError("no listing")
        return set(self.finished)

    def done_among(self, chunks):
        self.asked.append(chunks)
        if self.broken:
            raise TransientError("no listing")
        return self.finished.intersection(chunks)

    def record_failures(self, attempt, failures):
        if self.broken:
            raise TransientError("no store")
        self.recorded += [(attempt, failure.kind) for failure in failures]


@dataclass
class Watcher:
    moves: list = field(default_factory=list)
    troubles: list = field(default_factory=list)
    drained: list = field(default_factory=list)

    def moved(self, n_cells, bytes_written, retries):
        self.moves.append((n_cells, bytes_written, retries))

    def troubled(self, failure, retried):
        self.troubles.append((failure.kind, retried))

    def began(self):
        pass

    def draining(self, n_units):
        self.drained.append(n_units)


def ok(task, _pool=None, **more):
    return Ended(task, UnitOutcome(task.unit_id, task.chunks, n_cells=10 * len(task.chunks), bytes_written=100, **more))


def failed(task, handling, kind="k"):
    return Ended(task, UnitOutcome(task.unit_id, (), (Failure(task.chunks, handling, kind, "m"),)))


def left(task):
    return Ended(task, UnitOutcome(task.unit_id, (), undone=task.chunks))


@pytest.fixture
def run():
    def run(units, answer, *, ledger=None, stop=lambda: False, size=2, **options):
        clock = itertools.count(0, 100)
        plan = Scheduler(units, run_id="r", policy=Policy(barren=3), draw=lambda: 0.0)
        pool, watcher = ScriptedPool(answer, size), Watcher()
        driven = drive(
            plan,
            pool,
            ledger or FakeLedger(),
            watcher,
            stop_requested=stop,
            deadline_s=lambda task: 7.0 * len(task.chunks),
            clock=lambda: float(next(clock)),
            **options,
        )
        return driven, pool, watcher, plan

    return run


def test_everything_is_made_once_and_counted(run):
    driven, pool, watcher, _ = run([(0, 1), (2,), (3, 4)], ok)
    assert [task.chunks for task in pool.seen] == [(0, 1), (2,), (3, 4)]
    assert (driven.totals.n_cells, driven.totals.n_chunks, driven.totals.bytes_written) == (50, 5, 300)
    assert not driven.interrupted
    assert pool.deadlines == [14.0, 7.0, 14.0]
    assert watcher.moves[-1] == (50, 300, 0)
    assert watcher.moves[0] == (20 + 5, 100 + 50, 1), "units in hand count as they go"


@pytest.mark.parametrize("size", [1, 3])
def test_submission_is_bounded_however_much_there_is_to_do(run, size):
    """Hundred thousand units, stopped after ten: nothing beyond the workers was ever handed out."""
    ended = []

    def answer(task, _pool):
        ended.append(task)
        return ok(task)

    units = ((n,) for n in range(100_000))
    driven, pool, watcher, plan = run(units, answer, stop=lambda: len(ended) >= 10, size=size)
    assert driven.interrupted
    assert pool.most == size
    assert len(pool.seen) <= 10 + size
    assert watcher.drained == [len(pool.seen) - 10]
    assert len(plan.done) == len(pool.seen), "what was in hand is waited for"


def test_a_request_to_stop_is_heard_once_and_for_all(run):
    asked = iter([False, True])
    driven, pool, _, plan = run([(n,) for n in range(9)], ok, stop=lambda: next(asked, False))
    assert driven.interrupted
    assert pool.stopping
    assert len(plan.done) < 9


def test_stop_leaves_undone_chunks_to_the_next_run(run):
    driven, pool, _, plan = run([(0,), (1,), (2,)], lambda task, _: left(task), stop=lambda: True)
    assert driven.interrupted
    assert pool.stopping is True
    assert not pool.seen
    assert not plan.done


def test_units_that_come_back_undone_while_draining_are_no_failures(run):
    calls = []

    def answer(task, pool):
        calls.append(task)
        return left(task) if pool.stopping else ok(task)

    driven, pool, _, plan = run([(0,), (1,), (2,), (3,)], answer, stop=lambda: len(calls) >= 1)
    assert driven.interrupted
    assert plan.done == {0}
    assert not driven.gave_up
    assert not driven.quarantined
    assert len(pool.seen) == 2


def test_config_trouble_stops_the_run(run):
    def answer(task, _pool):
        return failed(task, "config", "disk-full") if task.chunks == (1,) else ok(task)

    ledger = FakeLedger()
    driven, pool, watcher, _ = run([(n,) for n in range(50)], answer, ledger=ledger)
    assert driven.fatal.kind == "disk-full"
    assert len(pool.seen) <= 4
    assert ledger.recorded == [("r-0000002", "disk-full")]
    assert watcher.drained


def test_failures_are_recorded_and_shown(run):
    ledger = FakeLedger()
    tries = []

    def answer(task, _pool):
        tries.append(task)
        return failed(task, "transient", "slow") if len(tries) == 1 else ok(task)

    driven, _, watcher, _ = run([(0, 1)], answer, ledger=ledger)
    assert watcher.troubles == [("slow", 2)]
    assert ledger.recorded == [("r-0000001", "slow")]
    assert driven.totals.retries == 1


def test_another_drivers_work_is_not_done_again(run):
    ledger = FakeLedger({5})

    def answer(task, _pool):
        if task.chunks == (0,):
            ledger.finished |= {0, 2, 3}
            return ok(task, adopted=(0,))
        return ok(task)

    driven, pool, _, plan = run([(n,) for n in range(5)], answer, ledger=ledger)
    assert [task.chunks for task in pool.seen] == [(0,), (1,), (4,)]
    assert driven.totals.adopted == 1
    assert plan.done >= {0, 1, 2, 3, 4}


def test_without_another_driver_nothing_is_listed_again(run):
    ledger = FakeLedger()
    run([(n,) for n in range(5)], ok, ledger=ledger)
    assert ledger.listings == 1


def test_what_a_dead_worker_had_finished_is_not_done_again(run):
    ledger = FakeLedger()
    deaths = []

    def answer(task, _pool):
        if not deaths:
            deaths.append(task)
            ledger.finished |= {0, 1}
            return Lost(task, "unit", "worker-died", "m")
        return ok(task)

    _, pool, _, plan = run([(0, 1, 2, 3)], answer, ledger=ledger, size=1)
    assert [task.chunks for task in pool.seen] == [(0, 1, 2, 3), (2, 3)]
    assert plan.done == {0, 1, 2, 3}


def test_after_a_death_only_the_units_own_chunks_are_looked_for(run):
    ledger = FakeLedger()
    deaths = []

    def answer(task, _pool):
        if len(deaths) < 3:
            deaths.append(task.chunks)
            return Lost(task, "infrastructure", "node-lost", "m")
        return ok(task)

    run([(at, at + 1) for at in range(0, 40, 2)], answer, ledger=ledger)
    assert ledger.listings == 1, "all receipts are listed once, before anything is made"
    assert ledger.asked == deaths


def test_looking_after_rivals_takes_a_small_part_of_the_time(run):
    """The clock advances by 100 whenever it is asked, so a listing takes 100, and the next is due after 2,000."""
    ledger = FakeLedger()
    driven, pool, _, _ = run([(at,) for at in range(200)], ok, ledger=ledger, size=1, has_rivals=True)
    assert len(driven.done) == len(pool.seen) == 200
    assert 10 <= ledger.listings <= 40


def test_a_repair_makes_chunks_again_whose_receipts_stand(run):
    ledger = FakeLedger({0, 1})
    deaths = []

    def answer(task, _pool):
        if not deaths:
            deaths.append(task)
            return Lost(task, "infrastructure", "node-lost", "m")
        return ok(task)

    _, pool, _, _ = run([(0, 1)], answer, ledger=ledger, size=1)
    assert [task.chunks for task in pool.seen] == [(0, 1), (0, 1)]


@pytest.mark.parametrize("refusal", [TransientError("no store"), DiskFullError("no space"), CredentialsError("403")])
def test_a_failure_that_cannot_be_recorded_is_told_and_others_go_on(run, refusal):
    class Refusing(FakeLedger):
        def record_failures(self, *_):
            raise refusal

    def answer(task, _pool):
        return failed(task, "source") if task.chunks == (1,) else ok(task)

    driven, _, watcher, plan = run([(n,) for n in range(4)], answer, ledger=Refusing())
    assert plan.done == {0, 2, 3}
    assert list(driven.quarantined) == [1]
    assert watcher.troubles


def test_a_store_that_is_down_does_not_take_the_run_with_it(run):
    tries = []

    def answer(task, _pool):
        tries.append(task)
        return Lost(task, "unit", "worker-died", "m") if len(tries) == 1 else ok(task)

    driven, _, watcher, plan = run([(0,)], answer, ledger=FakeLedger(broken=True))
    assert plan.done == {0}
    assert watcher.troubles
    assert driven.fatal is None


def test_too_many_failures_stop_early_and_drain(run):
    driven, pool, watcher, _ = run([(n,) for n in range(50)], lambda task, _: failed(task, "source"), most_failed=3)
    assert driven.stopped_early
    assert 4 <= len(driven.quarantined) <= 6
    assert len(pool.seen) <= 6
    assert watcher.drained


def test_as_many_failures_as_allowed_do_not_stop(run):
    def answer(task, _pool):
        return failed(task, "source") if task.chunks[0] < 3 else ok(task)

    driven, _, _, plan = run([(n,) for n in range(10)], answer, most_failed=3)
    assert not driven.stopped_early
    assert len(plan.done) == 7


def test_an_outage_ends_the_run(run):
    driven, pool, _, _ = run([(n,) for n in range(50)], lambda task, _: failed(task, "transient", "down"))
    assert driven.fatal.kind == "down"
    assert len(pool.seen) <= 5


def test_a_pool_that_cannot_start_is_heard():
    class Broken(ScriptedPool):
        def wait(self, timeout_s):  # noqa: ARG002 # the Protocol's
            raise ConfigError("no workers", kind="pool-start")

    plan = Scheduler([(0,)], run_id="r", draw=lambda: 0.0)
    with pytest.raises(ConfigError, match="no workers"):
        drive(plan, Broken(ok), FakeLedger(), Watcher(), stop_requested=lambda: False, deadline_s=lambda _: 1.0)


class Clock:
    """Stands still but for waiting."""

    now = 5.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("units", "seconds"), [([], 0.0), ([(0,)], 3.0), ([(0,), (1,)], 4.0)])
def test_time_is_counted_from_the_first_unit_to_the_last_end(units, seconds):
    """Workers that start, and waits in which nothing ends, count only between the two."""
    clock = Clock()

    class Slow(ScriptedPool):
        """Ends a unit at each third wait at first, then at each; its workers come after one."""

        waits = 0

        def has_free(self):
            return self.waits > 0 and super().has_free()

        def wait(self, timeout_s):
            self.waits += 1
            clock.now += 1.0
            return super().wait(timeout_s) if self.waits > 3 else []

    plan = Scheduler(units, run_id="r", draw=lambda: 0.0)
    pool = Slow(ok, size=1)
    driven = drive(
        plan, pool, FakeLedger(), Watcher(), stop_requested=lambda: False, deadline_s=lambda _: 1.0, clock=clock
    )
    assert driven.seconds == seconds
    assert len(driven.done) == len(units)


@pytest.mark.parametrize("handling", ["internal", "exhausted", "transient", "source"])
def test_what_a_broken_off_unit_had_made_is_found_by_asking(run, handling):
    """A worker that fell over, or is spent, may not have told all; one that met expected trouble has."""
    ledger = FakeLedger()

    def answer(task, _pool):
        ledger.finished.update(task.chunks)
        return failed(task, handling)

    driven, pool, _, _ = run([(0, 1)], answer, ledger=ledger)
    unsure = handling in {"internal", "exhausted"}
    assert bool(ledger.asked) is unsure
    assert (driven.done == {0, 1}) is unsure
    assert (len(pool.seen) == 1) is (unsure or handling == "source")


def test_nothing_is_recorded_of_units_that_went_well(run):
    class Counting(FakeLedger):
        calls = 0

        def record_failures(self, attempt, failures):
            self.calls += 1
            super().record_failures(attempt, failures)

    ledger = Counting()
    run([(0,), (1,)], ok, ledger=ledger)
    assert ledger.calls == 0


@dataclass
class Hearer(Watcher):
    heard: list = field(default_factory=list)

    def hear(self, event):
        self.heard.append(event)


def of_kind(hearer, kind):
    return [event for event in hearer.heard if isinstance(event, kind)]


@pytest.fixture
def hear():
    def hear(units, answer, *, ledger=None, pool=None, size=2):
        hearer, clock = Hearer(), itertools.count(0, 100)
        plan = Scheduler(units, run_id="r", draw=lambda: 0.0)
        driven = drive(
            plan,
            pool or ScriptedPool(answer, size),
            ledger or FakeLedger(),
            hearer,
            stop_requested=lambda: False,
            deadline_s=lambda _: 1.0,
            clock=lambda: float(next(clock)),
        )
        return driven, hearer

    return hear


def test_an_observer_that_listens_hears_of_every_unit_and_where_the_run_stands(hear):
    tries = []

    def answer(task, _pool):
        tries.append(task)
        return failed(task, "transient", "slow") if len(tries) == 1 else ok(task, bytes_read=7, retries=2)

    driven, hearer = hear([(0, 1), (2,), (3,)], answer)
    begun = [event.task.unit_id for event in of_kind(hearer, UnitBegan)]
    settled = of_kind(hearer, UnitSettled)
    assert begun == [1, 2, 3, 4]
    assert sorted(event.event.task.unit_id for event in settled) == begun
    assert [failure.kind for event in settled for failure in event.settled.failures] == ["slow"]
    moves = of_kind(hearer, Moved)
    first, last = moves[0], moves[-1]
    assert (first.units_waiting, first.units_in_flight, first.chunks_done) == (2, 1, 0), "one failed, one is in hand"
    assert (last.units_waiting, last.units_in_flight, last.chunks_done) == (0, 0, 4)
    assert (last.n_cells, last.bytes_read, last.bytes_written) == (40, 21, 300)
    assert last.request_retries == driven.totals.retries - 1 == 6, "of requests, without the unit's own"


class DiesHalfWay(ScriptedPool):
    """The first worker has made two chunks of three when it goes; it said so."""

    def progress(self):
        return [Progress(task.unit_id, 20, 200, 3, 2, 9, 1 << 20) for task in self.in_hand]


def test_what_a_lost_worker_had_committed_counts(hear):
    """It is there, and nobody makes it again: the totals would lack it, and a counter of cells would go back."""
    ledger, waits = FakeLedger(), []

    class Dying(DiesHalfWay):
        def wait(self, timeout_s):
            waits.append(timeout_s)
            return [] if len(waits) == 1 else ScriptedPool.wait(self, timeout_s)

    def answer(task, _pool):
        if len(task.chunks) == 3:
            ledger.finished |= {0, 1}
            return Lost(task, "infrastructure", "node-lost", "m")
        return ok(task)

    driven, hearer = hear([(0, 1, 2)], answer, ledger=ledger, pool=Dying(answer, 1))
    moves = of_kind(hearer, Moved)
    assert (moves[0].rss_bytes, moves[0].chunks_done) == ((1 << 20,), 2), "of the unit in hand"
    assert (driven.totals.n_cells, driven.totals.n_chunks) == (20 + 10, 3)
    assert (driven.totals.bytes_written, driven.totals.bytes_read) == (300, 9)
    assert [move.n_cells for move in moves] == sorted(move.n_cells for move in moves)


def test_who_fails_to_listen_is_left_out_and_the_run_goes_on(caplog):
    class Fails:
        calls = 0

        def hear(self, _event):
            self.calls += 1
            raise RuntimeError("no metrics today")

    fails, other, shown = Fails(), Hearer(), Watcher()
    observer = Observed(shown, [fails, other])
    plan = Scheduler([(0,), (1,)], run_id="r", draw=lambda: 0.0)
    driven = drive(
        plan, ScriptedPool(ok), FakeLedger(), observer, stop_requested=lambda: False, deadline_s=lambda _: 1.0
    )
    assert driven.totals.n_chunks == 2
    assert fails.calls == 1
    assert len(of_kind(other, UnitSettled)) == 2
    assert shown.moves[-1][0] == 20
    assert caplog.text.count("no metrics today") == 1
