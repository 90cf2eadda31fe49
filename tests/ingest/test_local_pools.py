"""The pools of one machine without Ray: what every pool must do, and what is theirs alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ingest.pool import Ended
from ingest.process_pool import ProcessPool
from ingest.testing.pool_conformance import PoolConformance, drive, eventually, tasks_of
from ingest.testing.scripted_worker import ScriptedFactory, Step
from ingest.thread_pool import ThreadPool


def maker(kind):
    pools = []

    def make(factory, size):
        pools.append(kind(factory, size))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


class TestThreadPool(PoolConformance):
    survives_crashes = False

    @pytest.fixture
    def make_pool(self):
        yield from maker(ThreadPool)


class TestProcessPool(PoolConformance):
    @pytest.fixture
    def make_pool(self):
        yield from maker(ProcessPool)


def test_threads_work_at_the_same_time(tmp_path):
    factory = ScriptedFactory(str(tmp_path), {0: (Step("gate"),), 1: (Step("gate"),)})
    pool = ThreadPool(factory, 2)
    waiting = tasks_of(range(2))

    def both_begun():
        while waiting and pool.has_free():
            pool.submit(waiting.pop(), deadline_s=300)
        pool.wait(0.01)

    eventually(lambda: factory.journal.count("begin") == 2, both_begun)
    for gate in (0, 1):
        factory.journal.open(gate)
    events = []
    eventually(lambda: len(events) == 2, lambda: events.extend(pool.wait(0.1)))
    pool.close()
    assert factory.journal.count("close") == 2


def test_closing_threads_waits_for_the_chunk_in_hand(tmp_path):
    """Were they left to the interpreter's end in the midst of HDF5, that would wait for h5py's lock for ever."""
    factory = ScriptedFactory(str(tmp_path), {0: (Step("succeed", 0.5),), 1: (Step("succeed", 0.1),)})
    pool = ThreadPool(factory, 2)
    eventually(pool.has_free, lambda: pool.wait(0.01))
    for task in tasks_of([0, 2, 1, 3], per_unit=2):
        pool.submit(task, deadline_s=300)
    eventually(lambda: factory.journal.count("begin") == 2)
    pool.close()
    assert factory.journal.count("done") == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unit-")]


def test_who_is_to_stop_now_leaves_threads_behind():
    script = """
import sys, threading, time
from ingest.thread_pool import leave_units
leave_units(7)
print("nobody is at work", flush=True)
threading.Thread(target=time.sleep, args=(600,), name="unit-1").start()
leave_units(130)
print("never here")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (130, "nobody is at work\n")


@pytest.mark.parametrize("kind", [ThreadPool, ProcessPool])
def test_a_pool_of_nobody_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="0 workers"):
        kind(ScriptedFactory(str(tmp_path)), 0)


@pytest.fixture
def pool(tmp_path):
    made = ProcessPool(ScriptedFactory(str(tmp_path), {0: (Step("gate"),)}), 1)
    yield made
    made.close()


def test_a_start_that_is_killed_is_tried_again(tmp_path, pool):
    os.kill(pool._members[0].process.pid, signal.SIGKILL)
    ScriptedFactory(str(tmp_path)).journal.open(0)
    [event] = drive(pool, tasks_of([0]))
    assert isinstance(event, Ended)


def test_processes_leave_the_interrupt_to_the_driver(tmp_path, pool):
    eventually(pool.has_free, lambda: pool.wait(0.1))
    os.kill(pool._members[0].process.pid, signal.SIGINT)
    ScriptedFactory(str(tmp_path)).journal.open(0)
    [event] = drive(pool, tasks_of([0]))
    assert isinstance(event, Ended)


def test_no_process_outlives_its_pool_or_its_driver(tmp_path, pool):
    eventually(pool.has_free, lambda: pool.wait(0.1))
    pool.submit(tasks_of([0])[0], deadline_s=300)
    worker = psutil.Process(pool._members[0].process.pid)
    eventually(lambda: ScriptedFactory(str(tmp_path)).journal.count("begin", 0) == 1)
    pool._members[0].line.close()  # as the driver's death does
    worker.wait(300)
    assert not worker.is_running()


def test_closing_ends_processes_at_once(pool):
    eventually(pool.has_free, lambda: pool.wait(0.1))
    worker = psutil.Process(pool._members[0].process.pid)
    pool.submit(tasks_of([0])[0], deadline_s=300)
    time.sleep(0)
    pool.close()
    assert not worker.is_running()
