from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ingest.pool import Ended, Failure, Lost, UnitOutcome
from ingest.schedule import Policy, Scheduler
from ingest.testing.examples import examples


def failure(handling, *chunks, kind="k", retry_after_s=None):
    return Failure(tuple(chunks), handling, kind, "message", retry_after_s=retry_after_s)


def ended(task, done=(), failures=(), undone=(), adopted=()):
    return Ended(task, UnitOutcome(task.unit_id, tuple(done), tuple(failures), tuple(undone), tuple(adopted)))


def crash(task):
    return Lost(task, "unit", "worker-died", "it died")


def node_lost(task):
    return Lost(task, "infrastructure", "node-lost", "it went")


def scheduler(*units, draw=lambda: 0.0, **policy):
    return Scheduler(units, run_id="r", policy=Policy(**policy), draw=draw)


# What a chunk does at each attempt: the last word is repeated. In the manner of a table of timings.
OK, CRASH, NODE, RAISE, FLAKY = "ok", "crash", "node", "raise", "flaky"
BAD, CLASH, HUSH, STOP = "bad", "clash", "hush", "stop"
HANDLING = {RAISE: "internal", FLAKY: "transient", BAD: "source", CLASH: "conflict"}


def play(units, script, **policy):
    """Run one unit at a time to the end; return the attempts of each chunk, the units started, and the scheduler."""
    plan = scheduler(*units, **policy)
    attempts: dict[int, int] = dict.fromkeys((chunk for unit in units for chunk in unit), 0)
    started = []
    now = 0.0
    while not plan.finished:
        task = plan.next(now)
        if task is None:
            now += 1000.0
            continue
        started.append(task.chunks)
        done, failures, undone = [], [], []
        event = None
        for chunk in task.chunks:
            words = script.get(chunk, [OK])
            word = words[min(attempts[chunk], len(words) - 1)]
            attempts[chunk] += 1
            if word == CRASH:
                event = crash(task)
                break
            if word == NODE:
                event = node_lost(task)
                break
            if word == OK:
                done.append(chunk)
            elif word == STOP:
                undone.append(chunk)
            elif word != HUSH:
                failures.append(failure(HANDLING[word], chunk))
        plan.settle(event or ended(task, done, failures, undone), now)
        if event is not None:
            plan.forget(done)  # as the driver does with what the ledger shows
        assert len(started) < 500, "it never ends"
    return attempts, started, plan


@pytest.mark.parametrize(
    ("script", "attempts", "ends"),
    [
        ([OK], 1, "done"),
        ([CRASH, OK], 2, "done"),
        ([CRASH, CRASH, OK], 3, "done"),
        ([CRASH], 3, "quarantined"),
        ([RAISE], 3, "quarantined"),
        ([RAISE, CRASH, RAISE, OK], 3, "quarantined"),
        ([HUSH, OK], 2, "done"),
        ([HUSH], 3, "quarantined"),
        ([NODE, NODE, OK], 3, "done"),
        ([NODE], 10, "gave_up"),
        ([STOP, OK], 2, "done"),
        ([STOP], 10, "gave_up"),
        ([FLAKY, FLAKY, FLAKY, OK], 4, "done"),
        ([FLAKY], 4, "gave_up"),
        ([BAD], 1, "quarantined"),
        ([CLASH], 1, "quarantined"),
        ([NODE, CRASH, NODE, CRASH, OK], 5, "done"),
        ([NODE, CRASH, NODE, CRASH, NODE, CRASH], 6, "quarantined"),
        ([FLAKY, FLAKY, FLAKY, NODE, FLAKY], 5, "gave_up"),
    ],
)
def test_attempts_of_a_lone_chunk(script, attempts, ends):
    counts, _, plan = play([(5,)], {5: script}, barren=99)
    assert counts == {5: attempts}
    assert 5 in getattr(plan, ends)
    assert len(plan.done) + len(plan.quarantined) + len(plan.gave_up) == 1


def test_a_unit_that_kills_is_cut_in_halves_until_the_guilty_one_is_alone():
    counts, started, plan = play([(0, 1, 2, 3, 4, 5, 6, 7)], {5: [CRASH]})
    assert started == [(0, 1, 2, 3, 4, 5, 6, 7), (5, 6, 7), (5,), (6, 7), (5,)]
    assert plan.done == {0, 1, 2, 3, 4, 6, 7}
    assert list(plan.quarantined) == [5]
    assert counts == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 4, 6: 1, 7: 1}


def test_halves_without_what_the_ledger_shows():
    plan = scheduler((0, 1, 2, 3))
    plan.settle(crash(plan.next(0)), 0)
    left, right = plan.next(1), plan.next(1)
    assert (left.chunks, right.chunks) == ((0, 1), (2, 3))
    plan.settle(ended(left, (0, 1)), 1)
    plan.settle(crash(right), 1)
    assert [plan.next(2).chunks, plan.next(2).chunks] == [(2,), (3,)]


def test_one_chunk_that_cost_a_worker_twice_runs_alone():
    plan = scheduler((0,), (1,), (2,))
    guilty, other = plan.next(0), plan.next(0)
    plan.settle(crash(guilty), 0)
    assert plan.next(0).chunks == (2,)
    assert plan.next(100) is None, "two units are in flight: the suspect waits"
    plan.settle(ended(other, (1,)), 100)
    assert plan.next(100) is None
    plan.settle(ended(type(other)(3, (2,), "r"), (2,)), 100)
    assert plan.next(100).chunks == (0,)


def test_nothing_joins_a_suspect():
    plan = scheduler((0,), (1,))
    plan.settle(crash(plan.next(0)), 0)
    plan.settle(node_lost(plan.next(0)), 0)
    first = plan.next(50)
    assert first.chunks == (0,)
    assert plan.next(50) is None
    # Passing trouble in between does not make it less of a suspect.
    plan.settle(ended(first, failures=[failure("transient", 0)]), 50)
    other = plan.next(100)
    assert other.chunks == (1,)
    assert plan.next(100) is None
    plan.settle(ended(other, (1,)), 100)
    assert plan.next(100).chunks == (0,)


def test_delays_double_up_to_the_most_and_are_drawn():
    plan = scheduler((0,), draw=lambda: 1.0, first_s=2.0, most_s=7.0, infrastructure=6)
    now = 0.0
    for delay in (2.0, 4.0, 7.0, 7.0, 7.0):
        plan.settle(node_lost(plan.next(now)), now)
        assert plan.next(now + delay - 0.01) is None
        now += delay
        assert not plan.finished
    plan.settle(node_lost(plan.next(now)), now)
    assert list(plan.gave_up) == [0]
    assert plan.finished


def test_retry_after_holds_everybody():
    plan = scheduler((0,), (1,), (2,))
    first, second = plan.next(0), plan.next(0)
    plan.settle(ended(first, failures=[failure("transient", 0, retry_after_s=30.0)]), 10)
    plan.settle(ended(second, failures=[failure("transient", 1, retry_after_s=5.0)]), 10)
    assert plan.next(39.9) is None
    assert plan.next(40.0).chunks == (2,)


def test_no_server_can_silence_a_run_for_a_day():
    plan = scheduler((0,), (1,))
    plan.settle(ended(plan.next(0), failures=[failure("transient", 0, retry_after_s=86_400.0)]), 0)
    assert plan.next(899.9) is None
    assert plan.next(900.0) is not None


def test_a_config_failure_stops_everything_and_accuses_no_chunk():
    plan = scheduler((0, 1), (2,), (3,))
    task, other = plan.next(0), plan.next(0)
    plan.settle(ended(task, (0,), [failure("config", 1, kind="disk-full")]), 0)
    assert plan.fatal.kind == "disk-full"
    assert plan.next(0) is None
    assert not plan.finished
    plan.settle(ended(other, (2,)), 0)
    assert plan.finished
    assert plan.done == {0, 2}
    assert not plan.quarantined
    assert not plan.gave_up


def test_a_config_failure_without_chunks_stops_too():
    plan = scheduler((0,), (1,))
    plan.settle(ended(plan.next(0), (0,), [failure("config")]), 0)
    assert plan.fatal is not None


def test_barren_units_in_a_row_stop_the_run():
    plan = scheduler(*[(n,) for n in range(20)], barren=3)
    for n in range(2):
        plan.settle(ended(plan.next(n), failures=[failure("transient", n)]), n)
    plan.settle(ended(plan.next(2), (2,)), 2)
    for n in (3, 4):
        plan.settle(ended(plan.next(n), failures=[failure("transient", n)]), n)
        assert plan.fatal is None
    plan.settle(ended(plan.next(5), failures=[failure("corrupt", 5)]), 5)
    assert plan.fatal is None, "corruption is not an outage"
    for n in (6, 7, 8):
        plan.settle(ended(plan.next(n), failures=[failure("transient", n)]), n)
    assert plan.fatal is not None


def test_forget_takes_chunks_out_of_every_list():
    plan = scheduler((0, 1), (2, 3), (4,))
    plan.settle(ended(plan.next(0), failures=[failure("source", 0), failure("transient", 1)]), 0)
    plan.forget([0, 1, 2, 77])
    assert plan.done == {0, 1, 2, 77}
    assert not plan.quarantined
    assert [plan.next(100).chunks, plan.next(100).chunks, plan.next(100)] == [(3,), (4,), None]


def test_what_was_finished_elsewhere_is_not_held_against_its_unit():
    plan = scheduler((0, 1))
    task = plan.next(0)
    plan.forget([0])
    plan.settle(crash(task), 0)
    assert plan.next(100).chunks == (1,)
    plan = scheduler((0,))
    task = plan.next(0)
    plan.forget([0])
    assert plan.settle(crash(task), 0).retried == 0
    assert plan.finished


def test_events_of_unknown_units_change_nothing():
    plan = scheduler((0,))
    task = plan.next(0)
    plan.settle(ended(task, (0,)), 0)
    assert plan.settle(crash(task), 0).failures == ()
    assert plan.finished
    assert plan.done == {0}


def test_a_workers_word_counts_for_its_own_chunks_once():
    plan = scheduler((0, 1, 2), (3,))
    task = plan.next(0)
    lies = [failure("transient", 1, 3), failure("source", 1, 2), failure("internal", 0)]
    plan.settle(ended(task, (0, 3, 3), lies, undone=(2, 3)), 0)
    assert plan.done == {0}
    assert list(plan.quarantined) == [2]
    assert [plan.next(99).chunks, plan.next(99).chunks, plan.next(99)] == [(3,), (1,), None]


def test_a_unit_that_is_given_back_is_made_again_at_once_after_progress_and_given_up_without():
    plan = scheduler((0, 1, 2), draw=lambda: 1.0, infrastructure=3)
    plan.settle(ended(plan.next(0), (0,), undone=(1, 2)), 0)
    task = plan.next(0)
    assert task.chunks == (1, 2)
    for now in (0, 100):
        assert plan.settle(ended(task, undone=(1, 2)), now).retried == 2
        assert plan.next(now) is None, "it waits"
        task = plan.next(now + 99)
    assert plan.settle(ended(task, undone=(1, 2)), 300).retried == 0
    assert {chunk: failure.kind for chunk, failure in plan.gave_up.items()} == {1: "left-undone", 2: "left-undone"}
    assert plan.finished


def test_attempts_are_named_after_run_and_unit():
    plan = scheduler((0,), (1,))
    assert [plan.next(0).attempt, plan.next(0).attempt] == ["r-0000001", "r-0000002"]


class SchedulerMachine(RuleBasedStateMachine):
    """Whatever happens, every chunk is in exactly one place, and an end comes."""

    @initialize(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
    def begin(self, sizes):
        self.now = 0.0
        self.in_flight = {}
        edges = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        self.chunks = set(range(edges[-1]))
        units = [tuple(range(low, high)) for low, high in pairwise(edges)]
        self.plan = scheduler(*units, draw=lambda: 0.5, barren=50)

    @rule(step=st.sampled_from([0.0, 0.7, 30.0, 100.0]))
    def start(self, step):
        self.now += step
        task = self.plan.next(self.now)
        if task is not None:
            assert task.unit_id not in self.in_flight
            busy = {chunk for other in self.in_flight.values() for chunk in other.chunks}
            assert not busy & set(task.chunks), "one chunk in two units at once"
            assert task.chunks
            self.in_flight[task.unit_id] = task

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def end(self, data):
        task = data.draw(st.sampled_from(list(self.in_flight.values())))
        del self.in_flight[task.unit_id]
        kinds = ["done", "undone", "hush", "transient", "corrupt", "source", "conflict", "internal"]
        fate = {chunk: data.draw(st.sampled_from(kinds)) for chunk in task.chunks}
        if data.draw(st.integers(0, 9)) == 0:
            fate = {chunk: "config" if kind == "hush" else kind for chunk, kind in fate.items()}
        failures = [failure(kind, chunk) for chunk, kind in fate.items() if kind not in ("done", "undone", "hush")]
        self.plan.settle(
            ended(
                task,
                [chunk for chunk, kind in fate.items() if kind == "done"],
                failures,
                [chunk for chunk, kind in fate.items() if kind == "undone"],
            ),
            self.now,
        )

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), make=st.sampled_from([crash, node_lost]))
    def lose(self, data, make):
        task = data.draw(st.sampled_from(list(self.in_flight.values())))
        del self.in_flight[task.unit_id]
        self.plan.settle(make(task), self.now)

    @rule(data=st.data())
    def somebody_else(self, data):
        self.plan.forget(data.draw(st.sets(st.sampled_from(sorted(self.chunks)), max_size=2)))

    @invariant()
    def every_chunk_is_in_one_place(self):
        if not hasattr(self, "plan"):
            return
        ends = [set(self.plan.done), set(self.plan.quarantined), set(self.plan.gave_up)]
        assert sum(map(len, ends)) == len(set().union(*ends)), "two ends"
        assert set().union(*ends) <= self.chunks
        assert self.plan.n_in_flight == len(self.in_flight)

    def teardown(self):
        """Let everything succeed from here: nothing may have been lost on the way."""
        if not hasattr(self, "plan"):
            return
        for _ in range(200):
            for task in self.in_flight.values():
                self.plan.settle(ended(task, task.chunks), self.now)
            self.in_flight.clear()
            self.now += 1000.0
            while (task := self.plan.next(self.now)) is not None:
                self.in_flight[task.unit_id] = task
            if self.plan.finished:
                break
        assert self.plan.finished
        if self.plan.fatal is None:
            assert {*self.plan.done, *self.plan.quarantined, *self.plan.gave_up} == self.chunks


def test_whatever_happens_every_chunk_has_one_end():
    run_state_machine_as_test(
        SchedulerMachine, settings=settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
    )
