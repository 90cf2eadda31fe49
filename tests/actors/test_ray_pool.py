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

from actors.growth import Growth
from actors.pool import RayPool
from ingest.errors import ConfigError
from ingest.pool import Ended, Lost
from ingest.testing.pool_conformance import PATIENCE_S, PoolConformance, drive, eventually, tasks_of
from ingest.testing.scripted_worker import ScriptedFactory, Step
from ingest.testing.thread_counts import ThreadCountsFactory

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
    eventually(lambda: start.has_room, lambda: pool.wait(0.2))
    start.give_up = time.monotonic()  # its time is over; the next one has as long as it needs
    [event] = drive(pool, tasks_of([0]))
    assert isinstance(event, Ended)


def test_what_cannot_be_scheduled_ends_with_what_it_asked_for(make_pool, folder):
    # Ray counts in ten-thousandths, in 64 bits: 2**60 bytes are none to it, and are to be had everywhere.
    pool = make_pool(ScriptedFactory(folder), 1, memory_bytes=2**45, max_failed_starts=1, start_timeout_s=0.5)
    with pytest.raises(ConfigError, match="35,184,372,088,832 bytes"):
        drive(pool, tasks_of([0]))


def waiting(pool):
    return [start for start in pool._recruiter._starts if not start.has_room]


def test_who_waits_for_room_while_others_work_is_no_failed_start(make_pool, folder):
    """Two have room on four CPUs or more; the others wait beyond any patience, and join when there is some."""
    factory = ScriptedFactory(folder, {n: (Step("gate"),) for n in range(2)})
    half = ray.cluster_resources()["CPU"] // 2
    pool = make_pool(factory, 4, num_cpus=half, max_failed_starts=1, start_timeout_s=60.0)
    ready(pool, 2)
    for task in tasks_of(range(2)):
        pool.submit(task, deadline_s=PATIENCE_S)
    for start in waiting(pool):
        start.give_up = 0.0
    eventually(lambda: all(start.give_up > 0 for start in waiting(pool)), lambda: pool.wait(0.2))
    assert len(waiting(pool)) == 2
    assert not pool._budget.failures
    for n in range(2):
        factory.journal.open(n)
    assert all(isinstance(event, Ended) for event in drive(pool, tasks_of(range(2, 4))))


def test_a_pool_grows_while_all_work_and_asks_for_nobody_once_some_do_not(make_pool, folder):
    factory = ScriptedFactory(folder, {0: (Step("gate"),), 1: (Step("gate"),)})
    half = ray.cluster_resources()["CPU"] // 2
    pool = make_pool(factory, 10, num_cpus=half, growth=Growth(10))
    first, second = tasks_of(range(2))
    ready(pool)
    pool.submit(first, deadline_s=PATIENCE_S)
    ready(pool)
    eventually(lambda: not waiting(pool), lambda: pool.wait(0.2))  # one is idle: there is not work for more
    pool.submit(second, deadline_s=PATIENCE_S)
    eventually(lambda: len(waiting(pool)) == 8, lambda: pool.wait(0.2))
    factory.journal.open(0)
    eventually(lambda: not waiting(pool), lambda: pool.wait(0.2))
    assert pool.size == 10
    assert not pool._budget.failures
    factory.journal.open(1)


def test_an_idle_worker_of_a_cluster_gives_back_its_room(make_pool, folder, monkeypatch):
    monkeypatch.setattr("actors.pool._IDLE_S", 0.0)
    factory = ScriptedFactory(folder, {0: (Step("gate"),)})
    pool = make_pool(factory, 2, growth=Growth(2, at_once=True))
    [task] = tasks_of([0])
    ready(pool)
    pool.submit(task, deadline_s=PATIENCE_S)
    busy = next(iter(pool._flights.values())).member
    eventually(lambda: factory.journal.count("ready") == 2 and list(pool._members.values()) == [busy], pool_waits(pool))
    factory.journal.open(0)
    eventually(lambda: not pool._flights, pool_waits(pool))
    pool.wait(0.5)
    assert list(pool._members.values()) == [busy], "the last one stays"


def pool_waits(pool):
    return lambda: pool.wait(0.2)


def test_workers_of_a_node_that_is_about_to_go_finish_the_chunk_in_hand_and_are_replaced(
    make_pool, folder, monkeypatch
):
    factory = ScriptedFactory(folder, {0: (Step("gate"),)})
    pool = make_pool(factory, 2)
    ready(pool, 2)
    before = set(pids(factory.journal))
    [task] = tasks_of([0, 1, 2], per_unit=3)
    pool.submit(task, deadline_s=PATIENCE_S)
    eventually(lambda: factory.journal.count("begin", 0) == 1)
    there = {member.place.node_id for member in pool._members.values()}
    monkeypatch.setattr("actors.node_watch.draining_nodes", lambda: frozenset(there))
    eventually(lambda: factory.journal.count("stop") == 1, lambda: pool.wait(0.2))
    monkeypatch.setattr("actors.node_watch.draining_nodes", frozenset)
    pool._nodes.look_who_leaves(float("inf"))  # the only node stays, in truth: Ray starts nobody on one that goes
    factory.journal.open(0)
    ended = []
    eventually(lambda: ended, lambda: ended.extend(pool.wait(0.2)))
    assert [(event.outcome.done, event.outcome.undone) for event in ended] == [((0,), (1, 2))]
    more = drive(pool, tasks_of([1, 2]))
    assert all(isinstance(event, Ended) and event.outcome.done for event in more), "no new unit went to who was to stop"
    assert not before & {entry.pid for entry in factory.journal.entries() if entry.chunk in (1, 2)}


def test_a_death_on_a_node_that_is_about_to_go_is_the_nodes(make_pool, folder, monkeypatch):
    factory = ScriptedFactory(folder, {0: (Step("hang"),)})
    pool = make_pool(factory, 1)
    ready(pool)
    [member] = pool._members.values()
    [task] = tasks_of([0])
    pool.submit(task, deadline_s=PATIENCE_S)
    eventually(lambda: factory.journal.count("begin", 0) == 1)
    monkeypatch.setattr("actors.node_watch.draining_nodes", lambda: frozenset({member.place.node_id}))
    pool._nodes.look_who_leaves(float("inf"))
    os.kill(member.place.pid, signal.SIGKILL)
    lost = []
    eventually(lambda: lost, lambda: lost.extend(pool.wait(0.2)))
    assert [(event.blame, event.kind) for event in lost] == [("infrastructure", "node-lost")]


def test_every_library_has_as_many_threads_as_its_worker_has_cpus(make_pool):
    threads = 3  # neither one nor as many as this machine is likely to have
    pool = make_pool(ThreadCountsFactory(threads), 1, num_cpus=threads)
    [ended] = drive(pool, tasks_of([0]))
    counts = ended.outcome.result
    assert set(counts["environment"].values()) == {str(threads)}
    assert (counts["numba"], counts["arrow"]) == (threads, threads)
    assert counts["tiledb"] == dict.fromkeys(counts["tiledb"], str(threads))
    assert counts["blas"], "there is one"
    assert all(n <= threads for n in counts["blas"] + counts["openmp"])


def test_custom_resources_are_asked_for_and_named_where_there_are_none(make_pool, folder):
    pool = make_pool(ScriptedFactory(folder), 1, resources={"spot": 0.01}, max_failed_starts=1, start_timeout_s=0.5)
    with pytest.raises(ConfigError, match=r"no node had room .* 0\.5 CPU and 0\.01 spot"):
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
    monkeypatch.setattr("actors.node_watch.node_is_alive", lambda _node: False)
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
