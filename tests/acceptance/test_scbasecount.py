"""scBaseCount as its users meet it: a bucket over HTTP, interrupted and resumed, equal to the files count for count."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import anndata
import gcsfs
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ingest.source import Source
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.forked_commands import ForkedCommand
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount, put_scbasecount
from ingest.testing.scbasecount_damage import damage_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.scbasecount import BuiltScBaseCount
    from ingest.testing.servers import ObjectServer

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SPEC = ScBaseCountSpec(n_samples=12, mean_cells=120, n_genes=900, mean_molecules=300, row_group=200)
PLACE = {"release": "2026-01-12", "feature": "GeneFull_Ex50pAS", "organism": "Homo_sapiens"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltScBaseCount:
    return build_scbasecount(tmp_path_factory.mktemp("scb") / "bucket", SPEC)


@pytest.fixture(scope="module")
def bucket(gcs_server: ObjectServer, built: BuiltScBaseCount) -> str:
    return put(gcs_server, built, "scb-acceptance")


def put(server: ObjectServer, built: BuiltScBaseCount, name: str) -> str:
    filesystem = gcsfs.GCSFileSystem(token="anon", endpoint_url=server.endpoint_url)  # noqa: S106  # none
    return put_scbasecount(built, f"{server.create_bucket(name)}/scbasecount", filesystem)


def check_counts(dest: Path, built: BuiltScBaseCount, index: pd.DataFrame) -> None:
    """Hold every chunk, read by plain anndata, against the files, read by plain anndata."""
    left = {(Source.parse(source).label, row) for source, row in zip(index["source"], index["row"], strict=True)}
    files: dict[str, anndata.AnnData] = {}
    for path in sorted((dest / "chunks").glob("*.h5ad")):
        chunk = anndata.read_h5ad(path)
        for accession, mine in chunk.obs.groupby("SRX_accession", observed=True):
            if accession not in files:
                files[accession] = anndata.read_h5ad(built.file(accession, **PLACE))
            file, rows = files[accession], mine["row"].to_numpy()
            left -= {(accession, row) for row in rows.tolist()}
            assert list(mine.index) == [f"{accession}:{name}" for name in file.obs_names[rows]]
            assert list(mine["umi_count"]) == list(file.obs["umi_count"].iloc[rows])
            here = sparse.csr_matrix(chunk[mine.index].X)
            there = sparse.csr_matrix(file[rows, chunk.var_names].X)
            assert (here != there).nnz == 0
    assert not left


def digest(dest: Path) -> str:
    return json.loads((dest / "_SUCCESS.json").read_text())["digest"]


@pytest.mark.long
def test_a_draw_from_the_bucket_is_ingested_killed_and_resumed(
    bucket: str,
    built: BuiltScBaseCount,
    gcs_server: ObjectServer,
    environment: dict[str, str],
    ingest: Callable[..., object],
    tmp_path: Path,
):
    env = gcs_server.environment
    index, dest, whole = tmp_path / "index.feather", tmp_path / "dest", tmp_path / "whole"
    draw = ("index", "scbasecount", "--root", bucket, "--cells", 900, "--seed", 5, "-o", index)
    ingest(*draw, env=env)
    table = pd.read_feather(index)
    assert len(table) == 900
    assert table["source"].str.startswith("gs://scb-acceptance/").all()
    first = index.read_bytes()
    ingest(*draw, env=env)
    assert index.read_bytes() == first, "the same seed draws the same cells"

    driver = ForkedCommand(["run", dest, "--index", index, "-c", 20, "--pool", "serial"], {**environment, **env})
    while driver.poll() is None and len(list(dest.glob("_ingest/receipts/*.json"))) < 3:
        time.sleep(0.01)
    assert driver.poll() is None, "it came to an end before it could be killed"
    driver.kill()
    driver.wait()
    made = {path.name for path in dest.glob("_ingest/receipts/*.json")}
    assert 0 < len(made) < 45

    ingest("run", dest, "-d", 2, env=env)  # with Ray
    ingest("run", whole, "--index", index, "-c", 20, "--pool", "serial", env=env)
    assert digest(dest) == digest(whole)
    check_counts(dest, built, table)
    ingest("verify", dest, "--source", env=env)
    config = json.loads((dest / "config.json").read_text())
    samples = {sample["srx_accession"]: sample for sample in config["source_samples"]}
    assert samples.keys() == set(table["SRX_accession"])
    assert {sample["organism"] for sample in samples.values()} == {"Homo sapiens"}
    assert sum(sample["n_cells"] for sample in samples.values()) == 900


def test_bad_samples_in_the_bucket(
    built: BuiltScBaseCount,
    gcs_server: ObjectServer,
    ingest: Callable[..., object],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
):
    import shutil

    bad = type(built)(tmp_path_factory.mktemp("bad") / "bucket", built.spec)
    shutil.copytree(built.path, bad.path)
    damage_sample(bad.file("SRX1009491", **PLACE), "truncated")
    damage_sample(bad.file("SRX1041167", **PLACE), "other-genes")
    damage_sample(bad.file("SRX1049086", **PLACE), "missing")
    env = {**gcs_server.environment}
    root = put(gcs_server, bad, "scb-bad")
    index, dest = tmp_path / "index.feather", tmp_path / "dest"
    said = ingest("index", "scbasecount", "--root", root, "--cells", "all", "-o", index, env=env).err
    assert "SRX1049086 (no-such-file)" in said
    assert "SRX1009491 (truncated)" in said
    ran = ingest("run", dest, "--index", index, "-c", 100, "-d", 2, env=env, code=3)
    assert "3 of 12 cannot be used" in ran.err
    for accession in ("SRX1009491", "SRX1041167", "SRX1049086"):
        assert accession in ran.err
    assert "--without-bad" in ran.err
    assert ingest("status", dest, env=env, code=3).out.count("chunk") > 1
    assert not (dest / "_SUCCESS.json").exists()

    ran = ingest("run", dest, "--without-bad", "--pool", "serial", "--json", env=env)
    facts = ran.json()
    assert facts["complete"]
    assert {Source.parse(entry["source"]).label: entry["kind"] for entry in facts["left_out"]} == {
        "SRX1009491": "truncated",
        "SRX1041167": "other-genes",
        "SRX1049086": "no-such-file",
    }
    table = pd.read_feather(index)
    good = table[~table["SRX_accession"].isin(["SRX1009491", "SRX1041167", "SRX1049086"])]
    assert len(pd.read_feather(dest / "metadata" / "cells.feather")) == len(good) == facts["cells"]
    check_counts(dest, built, good)
    ingest("verify", dest, "--source", env=env)
    assert "left out" in ingest("status", dest, env=env).out
    # Nothing is left to do, and it still says what is not there.
    assert "complete without" in ingest("run", dest, env=env).err


def test_a_census_and_a_scbasecount_become_one_dataset(ingest: Callable[..., object], tmp_path: Path):
    import tiledbsoma

    census = build_census(tmp_path / "census", CensusSpec(n_cells=1_500, n_genes=1_000, mean_nnz_per_cell=80))
    with tiledbsoma.DataFrame.open(f"{census.uri}/census_data/homo_sapiens/ms/RNA/var") as var:
        ids = var.read(column_names=["feature_id"]).concat()["feature_id"].to_pylist()
    spec = ScBaseCountSpec(mean_cells=60, n_genes=900, gene_ids=tuple(ids[:600]), releases=("2026-01-12",))
    samples = build_scbasecount(tmp_path / "scb", spec)
    names = {name: tmp_path / f"{name}.feather" for name in ("census", "scb", "both")}
    ingest("index", "census", "--uri", census.uri, "-o", names["census"])
    ingest("index", "scbasecount", "--root", samples.path, "--cells", "all", "-o", names["scb"])
    said = ingest("index", "select", names["census"], names["scb"], "--dedupe", "-o", names["both"]).err
    assert "taken out: the Census holds them" in said
    dest = tmp_path / "dest"
    ingest("run", dest, "--index", names["both"], "-c", 400, "-d", 2)
    ingest("verify", dest, "--source")

    chunks = [anndata.read_h5ad(path) for path in sorted((dest / "chunks").glob("*.h5ad"))]
    genes = list(chunks[0].var_names)
    assert set(genes) == set(ids) | set(anndata.read_h5ad(samples.file("SRX1009491", **PLACE)).var_names)
    joined = pd.concat([chunk.obs[["source", "soma_joinid", "dataset_id"]].astype(object) for chunk in chunks])
    assert joined.index.is_unique
    of_census = joined[joined["soma_joinid"] >= 0]
    of_samples = joined[joined["soma_joinid"] < 0]
    assert list(of_census.index) == [str(joinid) for joinid in of_census["soma_joinid"]]
    assert "NRX" not in {name[:3] for name in of_samples.index}
    assert of_census["source"].str.startswith("soma+file://").all()
    assert of_samples["source"].str.startswith("file://").all()
    assert of_samples["dataset_id"].isna().all()
    _check_joint_counts(chunks, census.uri, samples)
    _check_presence(dest, genes, ids, samples)


def _check_joint_counts(chunks: list[anndata.AnnData], uri: str, samples: BuiltScBaseCount) -> None:
    import tiledbsoma

    with tiledbsoma.Experiment.open(f"{uri}/census_data/homo_sapiens") as experiment:
        table = experiment.ms["RNA"].X["raw"].read().tables().concat().to_pandas()
        ids = experiment.ms["RNA"].var.read(column_names=["feature_id"]).concat()["feature_id"].to_numpy()
    census = {
        joinid: dict(zip(ids[mine["soma_dim_1"]], mine["soma_data"], strict=True))
        for joinid, mine in table.groupby("soma_dim_0")
    }
    for chunk in chunks:
        matrix, genes = sparse.csr_matrix(chunk.X), np.array(chunk.var_names)
        for at, (accession, row, joinid) in enumerate(chunk.obs[["SRX_accession", "row", "soma_joinid"]].to_numpy()):
            line = matrix[at]
            found = dict(zip(genes[line.indices], line.data, strict=True))
            if joinid >= 0:
                assert found == census[joinid]
                continue
            file = FILES.setdefault(accession, anndata.read_h5ad(samples.file(accession, **PLACE)))
            wanted = sparse.csr_matrix(file.X[row : row + 1])
            assert found == dict(zip(file.var_names.to_numpy()[wanted.indices], wanted.data, strict=True))


FILES: dict[str, anndata.AnnData] = {}


def _check_presence(dest: Path, genes: list[str], ids: list[str], samples: BuiltScBaseCount) -> None:
    with np.load(dest / "metadata" / "presence.npz") as presence:
        rows = dict(zip(presence["datasets"].tolist(), presence["presence"], strict=True))
        assert presence["genes"].tolist() == genes
    measured = set(anndata.read_h5ad(samples.file("SRX1009491", **PLACE)).var_names)
    assert {gene for gene, there in zip(genes, rows["SRX1009491"], strict=True) if there} == measured
    only_samples = [at for at, gene in enumerate(genes) if gene not in set(ids)]
    of_census = [row for name, row in rows.items() if "RX" not in name]
    assert of_census
    assert not any(row[only_samples].any() for row in of_census), "not measured, which is not zero"


def test_the_demo_of_scbasecount(ingest: Callable[..., object], tmp_path: Path):
    ran = ingest(
        "demo", tmp_path / "demo", "--source", "scbasecount", "--cells", 2_000, "--genes", 5_000, "--pool", "serial"
    )
    assert "Verify" in ran.err
    assert (tmp_path / "demo" / "dataset" / "_SUCCESS.json").exists()
