"""`run --shuffle window` as its users meet it: a command, Ray, kills, and plain readers of what came of it."""

from __future__ import annotations

import json
import os
import random
import time
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
import tiledbsoma

from ingest.testing.forked_commands import ForkedCommand
from ingest.testing.ray_workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.census import BuiltCensus

SHUFFLED = ("-c", 50, "--shuffle", "window", "--shuffle-window", 1_000, "--shuffle-seed", 6)


@pytest.fixture(scope="module")
def uninterrupted(census_index: Path, ingest: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("uninterrupted") / "dataset"
    ingest("run", dest, "--index", census_index, *SHUFFLED, "--pool", "serial")
    return dest


def receipts(dest: Path) -> set[str]:
    return {path.name for path in (dest / "_ingest" / "receipts").glob("*.json")}


def digest(dest: Path) -> str:
    return json.loads((dest / "_SUCCESS.json").read_text())["digest"]


def bits(labels: pd.Series) -> float:
    shares = labels.value_counts(normalize=True)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def test_chunks_hold_what_the_census_does_and_say_how_mixed_they_are(
    census: BuiltCensus, census_index: Path, uninterrupted: Path, ingest: Callable[..., object]
):
    chunks = [anndata.read_h5ad(path) for path in sorted((uninterrupted / "chunks").iterdir())]
    joinids = np.concatenate([chunk.obs["soma_joinid"].to_numpy() for chunk in chunks])
    wanted = pd.read_feather(census_index)
    assert sorted(joinids) == sorted(wanted["soma_joinid"])
    with tiledbsoma.open(f"{census.uri}/census_data/homo_sapiens/ms/RNA/X/raw") as array:
        for chunk in chunks[::7]:
            table = array.read((np.sort(chunk.obs["soma_joinid"].to_numpy()),)).tables().concat().to_pandas()
            sums = table.groupby("soma_dim_0")["soma_data"].sum()
            assert (sums[chunk.obs["soma_joinid"]].to_numpy() == np.asarray(chunk.X.sum(axis=1)).ravel()).all()
    ran = ingest("run", uninterrupted, "--json").json()["mixing"]
    assert (ran["window_cells"], ran["seed"]) == (1_000, 6)
    found = [bits(chunk.obs["dataset_id"]) for chunk in chunks if chunk.n_obs == 50]
    assert ran["after"]["mean_bits"] == pytest.approx(np.mean(found), abs=1e-3)
    assert ran["before"]["mean_bits"] < ran["after"]["mean_bits"] <= ran["whole_bits"]
    assert json.loads((uninterrupted / "processing_config.json").read_text())["mixing"]["after"] == ran["after"]
    ingest("verify", uninterrupted, "--source")


def test_a_driver_is_killed_again_and_again(
    census_index: Path, uninterrupted: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *SHUFFLED, "--pool", "serial"]
    draw = random.Random(4)  # noqa: S311  # seeded moments, no secrets
    for _ in range(4):
        before = receipts(dest)
        driver = ForkedCommand(command, environment)
        wanted = len(before) + draw.randint(1, 15)
        while driver.poll() is None and len(receipts(dest)) < wanted:
            time.sleep(0.005)
        driver.kill()
        driver.wait()
        assert before <= receipts(dest)
    assert receipts(dest) < receipts(uninterrupted), "the kills came too late to interrupt anything"
    assert "chunks are there" in ingest("run", dest, "--pool", "serial").err
    assert digest(dest) == digest(uninterrupted)
    ingest("verify", dest, "--deep")


def test_a_worker_on_ray_is_killed(census_index: Path, uninterrupted: Path, joined: dict[str, str], tmp_path: Path):
    dest, others = tmp_path / "dataset", workers_of(os.getpid())
    driver = ForkedCommand(["run", dest, "--index", census_index, *SHUFFLED, "-d", 2], joined)
    try:
        while driver.poll() is None and not receipts(dest):
            time.sleep(0.01)
        workers = workers_of(os.getpid()) - others
        assert driver.poll() is None, "the run ended before a worker could be killed"
        workers.pop().kill()
        assert driver.wait(timeout=300) == 0
    finally:
        driver.kill()
        driver.wait()
    assert digest(dest) == digest(uninterrupted)


def test_two_drivers_and_another_order(
    census_index: Path, uninterrupted: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    dest = tmp_path / "dataset"
    command = ["run", dest, "--index", census_index, *SHUFFLED, "--pool", "serial"]
    drivers = [ForkedCommand(command, environment), ForkedCommand(command, environment)]
    assert [driver.wait(timeout=300) for driver in drivers] == [0, 0]
    assert digest(dest) == digest(uninterrupted)
    other = ingest("run", dest, "--index", census_index, "-c", 50, code=1)
    assert "order window:1000:6 there, source here" in other.err
    for option, value, said in (
        ("--shuffle", "none", "order window, not none"),
        ("--shuffle-window", 500, "shuffle window 1000, not 500"),
        ("--shuffle-seed", 7, "shuffle seed 6, not 7"),
    ):
        assert said in ingest("run", dest, option, value, code=2).err
    ingest("run", dest, *SHUFFLED)


def test_settings_come_from_file_and_environment(census_index: Path, ingest: Callable[..., object], tmp_path: Path):
    config = tmp_path / "run.toml"
    config.write_text('shuffle = "window"\nshuffle-window = 500\n')
    command = ("run", tmp_path / "d", "--index", census_index, "-c", 50, "--dry-run", "--json")
    environment = {"CELL_INGEST_SHUFFLE_SEED": "9", "CELL_INGEST_SHUFFLE_WINDOW": "600"}
    mixing = ingest(*command, "--config", config, env=environment).json()["mixing"]
    assert (mixing["window_cells"], mixing["seed"]) == (500, 9)
    said = ingest(*command, "--config", config, "--shuffle-window", 510, code=2).err
    assert said.splitlines() == [
        "error: --shuffle-window 510: a window is whole chunks of 50 cells (-c)",
        "       --shuffle-window 500 or 550 would do",
    ]
    assert "say --shuffle window, too" in ingest(*command, "--shuffle-window", 500, code=2).err
    assert "mixing" not in ingest(*command).json()
