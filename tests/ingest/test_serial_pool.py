from __future__ import annotations

import signal
import threading

import pytest

from ingest.errors import ConfigError
from ingest.pool import Ended
from ingest.serial_pool import SerialPool
from ingest.testing.pool_conformance import PoolConformance, drive, tasks_of
from ingest.testing.scripted_worker import ScriptedFactory, ScriptedWorker, Step


class TestSerialPool(PoolConformance):
    survives_crashes = False
    max_size = 1

    @pytest.fixture
    def make_pool(self):
        pools = []

        def make(factory, size):
            assert size == 1
            pools.append(SerialPool(factory))
            return pools[-1]

        yield make
        for pool in pools:
            pool.close()


stopped = threading.Event()


class _SignalledInMidRun(ScriptedWorker):
    def _make(self, task, chunk):
        failure = super()._make(task, chunk)
        if not stopped.is_set():
            # As a terminal's Ctrl-C does: the driver's thread takes it while this one works.
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            assert stopped.wait(120)
        return failure


class _SignallingFactory(ScriptedFactory):
    def __call__(self):
        return _SignalledInMidRun(self)


def test_stop_soon_from_a_signal_handler_in_mid_run(tmp_path):
    pool = SerialPool(_SignallingFactory(str(tmp_path)))
    before = signal.signal(signal.SIGUSR1, lambda *_: (pool.stop_soon(), stopped.set()))
    try:
        [event] = drive(pool, tasks_of(range(3), per_unit=3))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert isinstance(event, Ended)
    assert (event.outcome.done, event.outcome.undone) == ((0,), (1, 2))


def test_stop_soon_before_the_worker_exists_is_remembered(tmp_path):
    pool = SerialPool(ScriptedFactory(str(tmp_path)))
    pool.stop_soon()
    [event] = drive(pool, tasks_of(range(2), per_unit=2))
    assert event.outcome.undone == (0, 1)


def test_an_exception_in_ready_is_a_pool_start_error(tmp_path):
    pool = SerialPool(ScriptedFactory(str(tmp_path), starts=(Step("raise"),)))
    with pytest.raises(ConfigError, match="RuntimeError") as caught:
        pool.wait(0)
    assert caught.value.kind == "pool-start"


def test_close_closes_the_worker_once(tmp_path):
    factory = ScriptedFactory(str(tmp_path))
    pool = SerialPool(factory)
    pool.wait(0)
    pool.close()
    pool.close()
    assert factory.journal.count("close") == 1


def test_outcome_of_another_unit_is_an_internal_failure(tmp_path):
    class Confused(ScriptedWorker):
        def run(self, task):
            outcome = super().run(task)
            return type(outcome)(task.unit_id + 1, outcome.done)

    class Factory(ScriptedFactory):
        def __call__(self):
            return Confused(self)

    [event] = drive(SerialPool(Factory(str(tmp_path))), tasks_of([0]))
    assert event.outcome.failures[0].handling == "internal"


def test_what_ends_a_process_ends_the_driver_instead_of_waiting_for_ever(tmp_path):
    class Leaving(ScriptedWorker):
        def run(self, task):
            raise SystemExit(f"unit {task.unit_id}")

    class Factory(ScriptedFactory):
        def __call__(self):
            return Leaving(self)

    with pytest.raises(SystemExit, match="unit 0"):
        drive(SerialPool(Factory(str(tmp_path))), tasks_of([0]))
