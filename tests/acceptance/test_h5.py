"""Dense chunks from the command line, opened with h5py alone and held against the source, count for count."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import tiledbsoma

from ingest.testing.forked_commands import ForkedCommand

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.census import BuiltCensus

KILLS = 8


def census_truth(uri: str, joinids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Dense counts of some cells through tiledbsoma alone, and the gene ids."""
    with tiledbsoma.open(f"{uri}/census_data/homo_sapiens") as experiment:
        rna = experiment.ms["RNA"]
        ids = rna.var.read(column_names=["feature_id"]).concat()["feature_id"].to_pylist()
        dense = np.zeros((len(joinids), len(ids)))
        place = {joinid: at for at, joinid in enumerate(joinids.tolist())}
        for table in rna.X["raw"].read((joinids.tolist(), slice(None))).tables():
            rows = [place[joinid] for joinid in table["soma_dim_0"].to_pylist()]
            np.add.at(dense, (rows, table["soma_dim_1"].to_numpy()), table["soma_data"].to_numpy())
    return dense, ids


def digest(dest: Path) -> str:
    return json.loads((dest / "_SUCCESS.json").read_text())["digest"]


@pytest.fixture(scope="module")
def finished(census_index: Path, ingest: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All primary cells of the Census, through real Ray."""
    dest = tmp_path_factory.mktemp("h5") / "dataset"
    ingest("run", dest, "--index", census_index, "--format", "h5", "-c", 700, "-d", 2, "--cells-json")
    return dest


def test_a_census_as_dense_files(census: BuiltCensus, finished: Path, ingest: Callable[..., object]):
    files = sorted((finished / "chunks").iterdir())
    assert [path.name for path in files] == [f"chunk_{at:06d}.h5" for at in range(len(files))]
    config, most, nnz, n_cells = json.loads((finished / "config.json").read_text()), 0, 0, 0
    for path in files:
        with h5py.File(path) as file:
            assert set(file) == {"X", "genes", "cells", "obs", "var"}
            assert file["X"].dtype == np.int16
            assert file["X"].chunks[1] == file["X"].shape[1], "a row costs one HDF5 chunk"
            joinids = file["obs/soma_joinid"][()]
            wanted, ids = census_truth(census.uri, joinids)
            assert file["genes"].asstr()[()].tolist() == ids == config["gene_list"]
            np.testing.assert_array_equal(file["X"][()], wanted)
            at = len(joinids) // 2
            np.testing.assert_array_equal(file["X"][at], wanted[at])
            assert file["cells"].asstr()[()].tolist() == [str(joinid) for joinid in joinids]
            assert file["obs/gene_count"][()].tolist() == (wanted > 0).sum(axis=1).tolist()
            assert file["obs/umi_count"][()].tolist() == wanted.sum(axis=1).tolist()
            assert file["obs/umi_count"][()].tolist() == file["obs/raw_sum"][()].tolist()
            assert "SRX_accession" not in file["obs"], "a Census has none"
        most, nnz, n_cells = max(most, wanted.max()), nnz + np.count_nonzero(wanted), n_cells + len(wanted)
    assert (config["total_cells_downloaded"], config["n_batches"], config["batch_size"]) == (n_cells, len(files), 700)
    assert config["max_expression_value"] == most
    assert config["sparsity"] == pytest.approx(1 - nnz / n_cells / len(ids))
    assert {sample["organism"] for sample in config["source_samples"]} == {"Homo sapiens"}
    assert sum(sample["n_cells"] for sample in config["source_samples"]) == n_cells
    cells = json.loads((finished / "metadata" / "cells.json").read_text())["cells"]
    assert len(cells) == n_cells
    assert cells[-1]["soma_joinid"] == joinids[-1]
    ingest("verify", finished, "--deep", "--source")


def test_the_usual_chunk_is_ten_thousand_cells_of_int16(
    census_index: Path, ingest: Callable[..., object], tmp_path: Path
):
    said = ingest("run", tmp_path / "a", "--index", census_index, "--format", "h5", "--dry-run", "--json").json()
    assert (said["cells_per_chunk"], said["chunks"]) == (10_000, 1)
    sparse = ingest("run", tmp_path / "a", "--index", census_index, "--dry-run", "--json").json()
    assert (sparse["cells_per_chunk"], sparse["write_bytes"] > said["write_bytes"] / 2) == (25_000, True)
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").rglob("plan.json"))


def test_what_would_be_written_is_about_what_is(finished: Path, census_index: Path, ingest: Callable[..., object]):
    other = finished.parent / "other"
    said = ingest("run", other, "--index", census_index, "--format", "h5", "-c", 700, "--dry-run", "--json").json()
    written = sum(path.stat().st_size for path in (finished / "chunks").iterdir())
    assert 0.5 < said["write_bytes"] / written < 2


def test_another_format_is_another_plan(finished: Path, census_index: Path, ingest: Callable[..., object]):
    refused = ingest("run", finished, "--index", census_index, "-c", 700, code=1)
    assert "holds another plan: format h5 there, h5ad here" in refused.err
    assert "format h5, not h5ad" in ingest("run", finished, "--format", "h5ad", code=2).err
    assert (
        "h5 chunks hold int16 (default)"
        in ingest(
            "run", finished.parent / "other", "--index", census_index, "--format", "h5", "--dtype", "uint16", code=2
        ).err
    )
    assert "are there" in ingest("run", finished).err


def test_a_matrix_that_would_fill_a_worker_is_refused_before_anything_is_written(
    census_index: Path, ingest: Callable[..., object], tmp_path: Path
):
    command = ("run", tmp_path / "dense", "--index", census_index, "--format", "h5", "--memory", "700M")
    ingest(*command, "--dry-run")
    refused = ingest(*command, "--codec", "none", code=2)
    assert "--memory allows 700" in refused.err
    assert "-c " in refused.err
    assert not any((tmp_path).rglob("plan.json"))


@pytest.mark.long
def test_the_driver_is_killed_and_the_same_command_goes_on(
    census_index: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    command = ["--index", census_index, "--format", "h5", "-n", 2_000, "-c", 10, "--pool", "serial"]
    ingest("run", tmp_path / "whole", *command)
    dest, draw = tmp_path / "killed", random.Random(5)  # noqa: S311 # seeded moments, no secrets

    def receipts() -> set[str]:
        return {path.name for path in (dest / "_ingest" / "receipts").glob("*.json")}

    for _ in range(KILLS):
        before = receipts()
        driver = ForkedCommand(["run", dest, *command], environment)
        wanted = len(before) + draw.randint(1, 6)
        while driver.poll() is None and len(receipts()) < wanted:
            time.sleep(0.01)
        driver.kill()
        driver.wait()
        assert before <= receipts()
    assert len(receipts()) < 200, "the kills came too late to interrupt anything"
    ingest("run", dest, *command)
    assert digest(dest) == digest(tmp_path / "whole")
    for path in (dest / "chunks").glob("chunk_*"):
        assert path.read_bytes() == (tmp_path / "whole" / "chunks" / path.name).read_bytes()
    ingest("verify", dest, "--deep")
