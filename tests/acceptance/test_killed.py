"""Nothing is lost and nothing is done twice, whoever dies and whenever."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ingest.testing.forked_commands import ForkedCommand
from ingest.testing.ray_workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNKS = ("-n", 1_500, "-c", 5)
MANY_CHUNKS = ("-n", 3_000, "-c", 5)
"""600: enough that twenty kills, each after some few or within half a second, come before the end."""


def receipts(dest: Path) -> set[int]:
    folder = dest / "_ingest" / "receipts"
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208  # asked a hundred times a second
    return {int(name.split("-")[0]) for name in names if name.endswith(".json")}


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


@pytest.mark.parametrize(
    ("pool", "moments", "chunks"),
    [
        ("serial", 4, CHUNKS),
        *(pytest.param(pool, 20, MANY_CHUNKS, marks=pytest.mark.long) for pool in ("serial", "ray")),
    ],
)
def test_the_driver_is_killed_at_many_moments(
    pool: str,
    moments: int,
    chunks: tuple[object, ...],
    census_index: Path,
    environment: dict[str, str],
    ingest: Callable[..., object],
    tmp_path: Path,
):
    dest, uninterrupted = tmp_path / "dataset", tmp_path / "uninterrupted"
    ingest("run", uninterrupted, "--index", census_index, *chunks, "--pool", "serial")
    command = ["run", dest, "--index", census_index, *chunks, "--pool", pool]
    draw = random.Random(20)  # noqa: S311  # seeded moments, no secrets
    killed = 0
    while killed < moments:
        before, runs_before = receipts(dest), set(claims(dest))
        driver = ForkedCommand(command, environment)
        if killed % 4 == 0:
            # Before, while and just after the plan is written or read, wherever that is by then.
            time.sleep(draw.uniform(0.0, 0.5))
        else:
            wanted = len(before) + draw.randint(1, 3)
            while driver.poll() is None and len(receipts(dest)) < wanted:
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.05))
        if driver.poll() is None:
            driver.send_signal(signal.SIGKILL)
        driver.wait()
        for run in set(claims(dest)) - runs_before:
            assert not before & set(claims(dest)[run]), "a finished chunk was fetched again"
        assert before <= receipts(dest)
        killed += 1
    left = set(range(len(receipts(uninterrupted)))) - receipts(dest)
    assert left, "the kills came too late to interrupt anything"
    ingest(*command)
    assert digest(dest) == digest(uninterrupted)
    ingest("verify", dest, "--deep")


def test_a_worker_is_killed_and_the_run_completes(
    census_index: Path, uninterrupted: Path, joined: dict[str, str], tmp_path: Path
):
    dest, others = tmp_path / "dataset", workers_of(os.getpid())
    driver = ForkedCommand(["run", dest, "--index", census_index, *CHUNKS, "-d", 2], joined)
    try:
        while driver.poll() is None and not receipts(dest):
            time.sleep(0.02)
        workers = workers_of(os.getpid()) - others
        assert driver.poll() is None, "the run ended before a worker could be killed"
        workers.pop().kill()
        _, said = driver.communicate(timeout=300)
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
    driver = ForkedCommand(command, environment)
    while driver.poll() is None and len(receipts(dest)) < 3:
        time.sleep(0.02)
    workers = workers_of(driver.pid)
    assert workers
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(list(workers), timeout=120)
    assert not alive
    before = receipts(dest)
    ingest(*command, "--pool", "serial")  # who goes on is no matter
    assert before <= receipts(dest)
    assert digest(dest) == digest(uninterrupted)


@pytest.mark.parametrize(
    ("number", "pool"),
    [
        pytest.param(signal.SIGINT, "serial", id="ctrl-c-serial"),
        pytest.param(signal.SIGTERM, "ray", id="sigterm-ray"),
        pytest.param(signal.SIGTERM, "serial", id="sigterm-serial", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "ray", id="ctrl-c-ray", marks=pytest.mark.long),
    ],
)
def test_an_interrupt_drains_and_resumes(
    number: signal.Signals,
    pool: str,
    census_index: Path,
    uninterrupted: Path,
    environment: dict[str, str],
    request: pytest.FixtureRequest,
    ingest: Callable[..., object],
    tmp_path: Path,
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *CHUNKS, "--pool", pool, "-d", 2]
    # What a terminal sends, the processes of a Ray that this run has started get as well.
    joins = pool == "ray" and number == signal.SIGTERM
    driver = ForkedCommand(command, request.getfixturevalue("joined") if joins else environment)
    while driver.poll() is None and len(receipts(dest)) < 3:
        time.sleep(0.02)
    # As a terminal does: to the whole group, Ray's processes included.
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 130, said
    assert "in hand (again to stop now)" in said
    assert "run the same command to go on" in said
    assert 0 < len(receipts(dest)) < len(receipts(uninterrupted))
    assert not (dest / "_SUCCESS.json").exists()
    resumed = ingest(*command)
    assert "chunks are there" in resumed.err
    assert digest(dest) == digest(uninterrupted)


def test_two_drivers_on_one_destination_both_end_well(
    census_index: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    dest, alone = tmp_path / "dataset", tmp_path / "alone"
    options = ["--index", census_index, "-n", 1_000, "-c", 5, "--pool", "serial"]
    drivers = [ForkedCommand(["run", dest, *options], environment) for _ in range(2)]
    said = [driver.communicate(timeout=300)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    ingest("run", alone, *options)
    assert digest(dest) == digest(alone)
    ingest("verify", dest, "--deep")
