from __future__ import annotations

import os
import subprocess
import sys

import pytest

from actors.worker import THREAD_VARIABLES, WorkerSpec
from ingest.testing.scripted_worker import ScriptedFactory

PROGRAM = """
import os, pickle, signal
from actors.build import this_build
from actors.worker import THREAD_VARIABLES, WorkerActor
from ingest.pool import UnitTask
from ingest.testing.scripted_worker import ScriptedFactory
actor = WorkerActor(pickle.dumps(ScriptedFactory({folder!r})), 3, this_build())
signal.raise_signal(signal.SIGINT)
print(*(os.environ[name] for name in THREAD_VARIABLES))
try:
    actor.run(UnitTask(0, (0,), "x"))
except RuntimeError as error:
    print(error)
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


def test_the_process_of_a_worker(tmp_path):
    """SIGINT does nothing, SIGTERM ends it, every library's threads are bounded unless the user said otherwise."""
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    environment["NUMBA_NUM_THREADS"] = "1"
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(folder=str(tmp_path))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    threads = " ".join("1" if name == "NUMBA_NUM_THREADS" else "3" for name in THREAD_VARIABLES)
    assert program.stdout.splitlines() == [threads, "run before ready", "True"]


@pytest.mark.parametrize(("num_cpus", "n_threads"), [(0.25, 1), (1, 1), (1.5, 2), (4, 4)])
def test_threads_follow_cpus(num_cpus, n_threads):
    assert WorkerSpec(ScriptedFactory("."), num_cpus).n_threads == n_threads


def test_what_ray_is_asked_for():
    plain = WorkerSpec(ScriptedFactory("."))
    assert plain.options == {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    assert str(plain) == "1 CPU"
    much = WorkerSpec(ScriptedFactory("."), 0.5, 1 << 30, {"spot": 0.01})
    assert much.options == {**plain.options, "num_cpus": 0.5, "memory": 1 << 30, "resources": {"spot": 0.01}}
    assert str(much) == "0.5 CPU and 1,073,741,824 bytes and 0.01 spot"
