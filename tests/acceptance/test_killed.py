"""Nothing is lost and nothing is done twice, whoever dies and whenever."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOMENTS = 20
CHUNKS = ("-n", 3_000, "-c", 5)
"""600 chunks: enough that twenty kills, each after some few or within two seconds, come before the end."""


def start(arguments: list[object], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ingest", *map(str, arguments)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def receipts(dest: Path) -> set[int]:
    return {int(path.name.split("-")[0]) for path in (dest / "_ingest" / "receipts").glob("*.json")}


def claims(dest: Path) -> dict[str, list[int]]:
    """Run -> chunks whose fetching it began."""
    found: dict[str, list[int]] = {}
    for path in sorted((dest / "_ingest" / "runs").glob("*/unit-*.json")):
        found.setdefault(path.parent.name, []).extend(json.loads(path.read_text())["chunks"])
    return found


def digest(dest: Path) -> str:
    return json.loads((dest / "_SUCCESS.json").read_text())["digest"]


@pytest.fixture(scope="module")
def uninterrupted(census_index: Path, ingest: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("uninterrupted") / "dataset"
    ingest("run", dest, "--index", census_index, *CHUNKS, "--pool", "serial")
    return dest


@pytest.mark.parametrize("pool", ["serial", pytest.param("ray", marks=pytest.mark.long)])
def test_the_driver_is_killed_at_twenty_moments(
    pool: str,
    census_index: Path,
    uninterrupted: Path,
    environment: dict[str, str],
    ingest: Callable[..., object],
    tmp_path: Path,
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *CHUNKS, "--pool", pool]
    draw = random.Random(20)  # noqa: S311  # seeded moments, no secrets
    killed = 0
    while killed < MOMENTS:
        before, runs_before = receipts(dest), set(claims(dest))
        driver = start(command, environment)
        if killed % 4 == 0:
            # Before, while and just after the plan is written: anywhere in the first seconds.
            time.sleep(draw.uniform(0.3, 2.5))
        else:
            wanted = len(before) + draw.randint(1, 3)
            while driver.poll() is None and len(receipts(dest)) < wanted:
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.05))
        if driver.poll() is None:
            driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stderr.close()
        for run in set(claims(dest)) - runs_before:
            assert not before & set(claims(dest)[run]), "a finished chunk was fetched again"
        assert before <= receipts(dest)
        killed += 1
    left = set(range(len(receipts(uninterrupted)))) - receipts(dest)
    assert left, "the kills came too late to interrupt anything"
    ingest(*command)
    assert digest(dest) == digest(uninterrupted)
    ingest("verify", dest, "--deep")


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def title_of(process: psutil.Process) -> str:
    """Return the title that Ray gives its processes; empty for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return " ".join(process.cmdline())
    return ""


def an_actor(driver: psutil.Process) -> psutil.Process | None:
    """Return a process of the driver's own Ray that holds a worker."""
    return next((child for child in children(driver) if title_of(child).startswith("ray::WorkerActor")), None)


def test_a_worker_is_killed_and_the_run_completes(
    census_index: Path, uninterrupted: Path, environment: dict[str, str], tmp_path: Path
):
    dest = tmp_path / "dataset"
    driver = start(["run", dest, "--index", census_index, *CHUNKS, "-d", 2], environment)
    try:
        while driver.poll() is None and not receipts(dest):
            time.sleep(0.02)
        while driver.poll() is None and (actor := an_actor(psutil.Process(driver.pid))) is None:
            time.sleep(0.01)
        assert actor is not None, "the run ended before a worker could be killed"
        actor.kill()
        _, said = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0, said
    assert "trying again" in said
    assert digest(dest) == digest(uninterrupted)


def test_a_driver_on_ray_is_killed_and_leaves_no_process_behind(
    census_index: Path, uninterrupted: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *CHUNKS, "-d", 2]
    driver = start(command, environment)
    while driver.poll() is None and len(receipts(dest)) < 3:
        time.sleep(0.02)
    family = children(psutil.Process(driver.pid))
    workers = [process for process in family if title_of(process).startswith("ray::WorkerActor")]
    assert workers
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stderr.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    before = receipts(dest)
    ingest(*command, "--pool", "serial")  # who goes on is no matter
    assert before <= receipts(dest)
    assert digest(dest) == digest(uninterrupted)


@pytest.mark.parametrize("pool", ["serial", "ray"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_drains_and_resumes(
    number: signal.Signals,
    pool: str,
    census_index: Path,
    uninterrupted: Path,
    environment: dict[str, str],
    ingest: Callable[..., object],
    tmp_path: Path,
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *CHUNKS, "--pool", pool]
    driver = subprocess.Popen(
        [sys.executable, "-m", "ingest", *map(str, command)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while driver.poll() is None and len(receipts(dest)) < 3:
        time.sleep(0.02)
    # As a terminal does: to the whole group, Ray's processes included.
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "in hand (again to stop now)" in said
    assert "run the same command to go on" in said
    assert 0 < len(receipts(dest)) < len(receipts(uninterrupted))
    assert not (dest / "_SUCCESS.json").exists()
    # Who goes on is no matter: once Ray does, for the rest what starts at once.
    resumed = ingest(*command, *(() if number == signal.SIGINT else ("--pool", "serial")))
    assert "chunks are there" in resumed.err
    assert digest(dest) == digest(uninterrupted)


def test_two_drivers_on_one_destination_both_end_well(
    census_index: Path, uninterrupted: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *CHUNKS, "--pool", "serial"]
    drivers = [start(command, environment), start(command, environment)]
    said = [driver.communicate(timeout=120)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert digest(dest) == digest(uninterrupted)
    ingest("verify", dest, "--deep")
