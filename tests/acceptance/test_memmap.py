"""``memmap`` in a process of its own, on a real Ray: a worker is killed, then the driver; the same command finishes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ingest.load.memmap import SingleCellMemMapDataset
from ingest.testing.ray_workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL_PARTS = (
    "import ingest.load.memmap.convert.plan as plan; plan.join_cuts.__defaults__ = (1,); "
    "from ingest.cli.main import main; main()"
)
"""A chunk a part, so that there are enough of them for somebody to die among."""


def receipts(path: Path) -> set[str]:
    return {one.name for one in (path.with_name(path.name + ".partial") / "parts").glob("0*.json")}


def wait_for(driver: subprocess.Popen[str], path: Path, n_parts: int) -> None:
    while driver.poll() is None and len(receipts(path)) < n_parts:
        time.sleep(0.005)
    assert driver.poll() is None, "it ended before it could be killed"


@pytest.fixture(scope="module")
def dataset(census_index: Path, ingest: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("memmap") / "dataset"
    ingest("run", dest, "--index", census_index, "-n", 2_000, "-c", 5, "--pool", "serial")
    return dest


def test_worker_and_driver_are_killed(
    dataset: Path, joined: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    quiet, path = tmp_path / "quiet", tmp_path / "made"
    ingest("memmap", dataset, "-o", quiet, "--pool", "threads", "--data-dtype", "auto")
    words = ["memmap", str(dataset), "-o", str(path), "--data-dtype", "auto"]
    others = workers_of(os.getpid())
    driver = subprocess.Popen([sys.executable, "-c", SMALL_PARTS, *words, "-d", "2"], env=joined)
    try:
        wait_for(driver, path, 3)
        actor = (workers_of(os.getpid()) - others).pop()
        actor.kill()
        actor.wait(300)
        wait_for(driver, path, len(receipts(path)) + 20)
        driver.kill()
    finally:
        driver.kill()
        driver.wait()
    there = receipts(path)
    assert not path.exists()
    ran = ingest(*words, "--pool", "processes", "-d", "2")
    assert "Resume " in ran.err
    assert f"of {400:,} parts are there" in ran.err
    assert len(there) >= 23
    for name in ("data.npy", "col_ptr.npy", "row_ptr.npy", "header.sch"):
        assert (path / name).read_bytes() == (quiet / name).read_bytes()
    ours, theirs = SingleCellMemMapDataset(path), SingleCellMemMapDataset(quiet)
    assert ours.number_of_rows() == 2_000
    one, other = (data.get_row(1_234, return_obs_features=True) for data in (ours, theirs))
    assert one[2] == other[2]
    np.testing.assert_array_equal(one[0], other[0])
