from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError

from actors.pool import RayPool
from ingest.errors import ConfigError
from ingest.pool import Ended, Lost
from ingest.testing.pool_conformance import PATIENCE_S, PoolConformance, drive, eventually, tasks_of
from ingest.testing.scripted_worker import ScriptedFactory, Step

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def make_pool():
    pools = []

    def make(factory, size, **options):
        pools.append(RayPool(factory, size, **{"num_cpus": 0.5, "max_failed_starts": 2} | options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


class TestRayPool(PoolConformance):
    pass


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


def ready(pool, n=1):
    """Wait until `n` workers are idle; nothing is in flight."""
    eventually(lambda: len(pool._idle_members()) >= n, lambda: pool.wait(0.2))


def pids(journal):
    return [entry.pid for entry in journal.entries() if entry.what == "ready"]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_killed_while_idle_is_replaced_and_nothing_lost(make_pool, folder, signal_number):
    factory = ScriptedFactory(folder)
    pool = make_pool(factory, 2)
    drive(pool, tasks_of(range(4)))
    ready(pool, 2)
    assert pool.n_alive == 2
    os.kill(pids(factory.journal)[0], signal_number)
    eventually(lambda: factory.journal.count("ready") == 3, lambda: pool.wait(0.2))
    events = drive(pool, tasks_of(range(4, 10)))
    assert all(isinstance(event, Ended) for event in events)


def test_workers_that_keep_dying_before_their_first_unit_end_the_run(make_pool, folder):
    factory = ScriptedFactory(folder)
    pool = make_pool(factory, 1)

    killed = []

    def kill_whoever_is_idle():
        pool.wait(0.2)
        for pid in pids(factory.journal):
            if pool.has_free() and pid not in killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(ConfigError, match="died") as caught:
        eventually(lambda: False, kill_whoever_is_idle)
    assert caught.value.kind == "pool-start"
    assert factory.journal.count("start") == 2


@pytest.mark.parametrize("how", ["fail", "raise", "exit"])
def test_starts_that_always_fail_end_within_the_budget(make_pool, folder, how):
    factory = ScriptedFactory(folder, starts=(Step(how),))
    pool = make_pool(factory, 2)
    with pytest.raises(ConfigError) as caught:
        drive(pool, tasks_of(range(3)))
    assert caught.value.kind == "pool-start"
    assert caught.value.__cause__ is not None
    assert {"fail": "scripted to fail", "raise": "RuntimeError", "exit": "died"}[how] in str(caught.value)
    assert factory.journal.count("start") <= 3  # the budget, and what was starting beside its last
    with pytest.raises(ConfigError):
        pool.wait(0)


def test_a_start_that_hangs_is_given_up(make_pool, folder):
    factory = ScriptedFactory(folder, starts=(Step("hang"), Step()))
    pool = make_pool(factory, 1)
    eventually(lambda: factory.journal.count("start") == 1)
    [start] = pool._recruiter._starts
    start.give_up = time.monotonic()  # its time is over; the next one has as long as it needs
    [event] = drive(pool, tasks_of([0]))
    assert isinstance(event, Ended)


def test_what_cannot_be_scheduled_ends_with_what_it_asked_for(make_pool, folder):
    pool = make_pool(ScriptedFactory(folder), 1, memory_bytes=2**60, max_failed_starts=1, start_timeout_s=0.5)
    with pytest.raises(ConfigError, match="1,152,921,504,606,846,976 bytes"):
        drive(pool, tasks_of([0]))


def test_a_missing_module_on_the_node_is_named(make_pool, folder, monkeypatch):
    import sys
    import types

    module = types.ModuleType("only_here")

    class Factory(ScriptedFactory):
        pass

    Factory.__module__, Factory.__qualname__ = "only_here", "Factory"
    module.Factory = Factory
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ConfigError, match="No module named 'only_here'"):
        drive(make_pool(Factory(folder), 1, max_failed_starts=1), tasks_of([0]))


def test_a_frozen_worker_is_lost_at_its_deadline(make_pool, folder):
    factory = ScriptedFactory(folder, {0: (Step("freeze"),)})
    pool = make_pool(factory, 1)
    [lost] = drive(pool, tasks_of([0]), deadline_s=1.0)
    assert isinstance(lost, Lost)
    assert lost.kind == "deadline"
    assert "not done after 1 s" in lost.message
    [ended] = drive(pool, tasks_of([1]))
    assert isinstance(ended, Ended)


def test_a_worker_killed_from_outside_in_mid_unit(make_pool, folder):
    factory = ScriptedFactory(folder, {0: (Step("hang"), Step())})
    pool = make_pool(factory, 1)

    def kill_once_begun():
        eventually(lambda: factory.journal.count("begin", 0) == 1)
        os.kill(pids(factory.journal)[0], signal.SIGKILL)

    helper = threading.Thread(target=kill_once_begun, daemon=True)
    helper.start()
    [lost] = drive(pool, tasks_of([0]))
    helper.join()
    assert (lost.blame, lost.kind) == ("unit", "worker-died")
    assert str(pids(factory.journal)[0]) in lost.message
    [ended] = drive(pool, tasks_of([0]))
    assert isinstance(ended, Ended)


@pytest.mark.parametrize(
    ("error", "blame", "kind"),
    [
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "unit", "out-of-memory"),
        (ActorUnavailableError("connection reset", None), "infrastructure", "unavailable"),
    ],
    ids=["out-of-memory", "unavailable"],
)
def test_errors_that_leave_the_actor_in_the_pool(make_pool, folder, monkeypatch, error, blame, kind):
    factory = ScriptedFactory(folder)
    pool = make_pool(factory, 1)
    ready(pool)
    get, run = ray.get, []

    def get_once(refs, **options):
        if not run and refs == next(iter(pool._flights.values())).run:
            run.append(refs)
            raise error
        return get(refs, **options)

    monkeypatch.setattr(ray, "get", get_once)
    events = drive(pool, tasks_of(range(3)))
    [lost] = [event for event in events if isinstance(event, Lost)]
    assert (lost.blame, lost.kind) == (blame, kind)
    assert sum(isinstance(event, Ended) for event in events) == 2
    assert factory.journal.count("start") == 2  # the suspect was killed and replaced
    first, second = pids(factory.journal)
    assert {e.pid for e in factory.journal.entries() if e.what == "unit" and e.unit != lost.task.unit_id} == {second}
    eventually(lambda: not _lives(first))


def test_an_idle_worker_is_given_nothing_once_its_node_is_known_to_be_lost(make_pool, folder, monkeypatch):
    """Its own death may be told later than that of the worker beside it."""
    factory = ScriptedFactory(folder, {0: (Step("kill"),)})
    pool = make_pool(factory, 2)
    ready(pool, 2)
    monkeypatch.setattr("actors.pool.node_is_alive", lambda _node: False)
    [task] = tasks_of([0])
    pool.submit(task, deadline_s=99)
    [other] = pool._idle_members()
    while not (events := pool._collect_ended()):  # of `wait`, what takes in no replacement
        pass
    assert [(event.blame, event.kind) for event in events] == [("infrastructure", "node-lost")]
    assert not pool.has_free()
    eventually(lambda: not _lives(other.place.pid))


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_outcome_that_does_not_travel_is_an_internal_failure_of_a_living_worker(make_pool, folder):
    factory = ScriptedFactory(folder, {0: (Step("fail", failure=_Untravelling()),)})
    pool = make_pool(factory, 1)
    events = drive(pool, tasks_of(range(2)))
    outcomes = {event.task.unit_id: event.outcome for event in events}
    assert outcomes[0].failures[0].handling == "internal"
    assert outcomes[1].done == (1,)
    assert factory.journal.count("start") == 1


class _Untravelling:
    def __init__(self, n_pickled=0):
        self.n_pickled = n_pickled

    def __reduce__(self):
        if self.n_pickled:
            raise TypeError("cannot be pickled twice")
        return _Untravelling, (1,)


def test_thirty_five_units_of_trouble_each_end_once(make_pool, folder):
    chooser = random.Random(7)  # noqa: S311 # seeded on purpose
    bad = chooser.sample(range(35), 14)
    kinds = ["exit", "kill", "raise", "fail", "hang", "exit", "raise"] * 2
    script = {chunk: (Step(kind), Step()) for chunk, kind in zip(bad, kinds, strict=True)}
    script[bad[0]] = (Step("exit"),)  # poison: never well
    factory = ScriptedFactory(folder, script, starts=(Step(), Step("fail"), Step()))
    pool = make_pool(factory, 3)
    hanging = {chunk for chunk, kind in zip(bad, kinds, strict=True) if kind == "hang"}
    first = drive(pool, tasks_of(range(35)), deadline_s=lambda task: 3.0 if task.chunks[0] in hanging else PATIENCE_S)
    assert sorted(event.task.unit_id for event in first) == list(range(35))
    lost = {event.task.chunks[0] for event in first if isinstance(event, Lost)}
    assert lost == {chunk for chunk, kind in zip(bad, kinds, strict=True) if kind in ("exit", "kill", "hang")}
    done = {event.task.chunks[0] for event in first if isinstance(event, Ended) and event.outcome.done}
    assert done == set(range(35)) - set(bad)
    second = drive(pool, tasks_of(bad))
    assert [event.task.chunks for event in second if isinstance(event, Lost)] == [(bad[0],)]


def test_all_actors_dead_at_once_lose_their_units_and_no_others(make_pool, folder):
    """The trap of ActorPool: with no actor left it reports an end while work was never run."""
    factory = ScriptedFactory(folder, {0: (Step("gate"),), 1: (Step("gate"),)})
    pool = make_pool(factory, 2)

    def kill_both():
        eventually(lambda: factory.journal.count("begin") == 2)
        for pid in pids(factory.journal):
            os.kill(pid, signal.SIGKILL)

    helper = threading.Thread(target=kill_both, daemon=True)
    helper.start()
    events = drive(pool, tasks_of(range(8)))
    helper.join()
    assert {event.task.chunks for event in events if isinstance(event, Lost)} == {(0,), (1,)}
    assert {event.task.chunks for event in events if isinstance(event, Ended)} == {(n,) for n in range(2, 8)}


def test_closing_ends_the_processes(make_pool, folder):
    factory = ScriptedFactory(folder)
    pool = make_pool(factory, 2)
    ready(pool, 2)
    pool.close()
    eventually(lambda: not any(_lives(pid) for pid in pids(factory.journal)))


def test_a_pool_of_none_is_refused(folder):
    with pytest.raises(ValueError, match="0 workers"):
        RayPool(ScriptedFactory(folder), 0)
