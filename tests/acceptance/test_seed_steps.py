"""The first seed's README, step by step, with our commands: to a folder, to S3 and to GCS."""

from __future__ import annotations

import io
import json
from functools import partial
from typing import TYPE_CHECKING

import anndata
import fsspec
import numpy as np
import pandas as pd
import pytest
import tiledbsoma

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.census import BuiltCensus
    from ingest.testing.servers import ObjectServer


def census_truth(uri: str, joinids: np.ndarray, organism: str = "homo_sapiens") -> tuple[np.ndarray, list[str]]:
    """Dense counts of some cells through tiledbsoma alone, and the gene ids."""
    with tiledbsoma.open(f"{uri}/census_data/{organism}") as experiment:
        rna = experiment.ms["RNA"]
        ids = rna.var.read(column_names=["feature_id"]).concat()["feature_id"].to_pylist()
        dense = np.zeros((len(joinids), len(ids)))
        place = {joinid: at for at, joinid in enumerate(joinids.tolist())}
        for table in rna.X["raw"].read((joinids.tolist(), slice(None))).tables():
            rows = [place[joinid] for joinid in table["soma_dim_0"].to_pylist()]
            np.add.at(dense, (rows, table["soma_dim_1"].to_numpy()), table["soma_data"].to_numpy())
    return dense, ids


def read_chunks(dest: str, storage: dict) -> list[anndata.AnnData]:
    filesystem, prefix = fsspec.core.url_to_fs(dest, **storage)
    paths = sorted(filesystem.find(f"{prefix}/chunks"))
    return [anndata.read_h5ad(io.BytesIO(filesystem.cat_file(path))) for path in paths]


def assert_chunks_equal_census(chunks: list[anndata.AnnData], uri: str, organism: str = "homo_sapiens") -> None:
    for chunk in chunks:
        joinids = chunk.obs["soma_joinid"].to_numpy()
        dense, ids = census_truth(uri, joinids, organism)
        columns = [ids.index(gene) for gene in chunk.var_names]
        assert np.array_equal(chunk.X.toarray(), dense[:, columns])
        assert list(chunk.obs_names) == [str(joinid) for joinid in joinids]


BESIDES = partial(pytest.param, marks=pytest.mark.long)
"""Of a destination that another test of `make test` goes to."""


@pytest.fixture(params=[BESIDES("folder"), "s3", "gcs"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str], dict]:
    """DEST, the environment that reaches it, and how fsspec, an independent reader, reaches it."""
    if request.param == "folder":
        return str(tmp_path / "personal" / "foo"), {}, {}
    server: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    bucket = server.create_bucket("braingeneers")
    url = f"{bucket}/personal/{tmp_path.name}"
    if request.param == "s3":
        storage = {"endpoint_url": server.endpoint_url, "key": "test", "secret": "test", "skip_instance_cache": True}
        return url, dict(server.environment), storage
    storage = {"endpoint_url": server.endpoint_url, "token": "anon", "skip_instance_cache": True}
    return url, dict(server.environment), storage


def test_index_filter_in_pandas_and_bring_two_genes(
    census: BuiltCensus,
    ingest: Callable[..., object],
    destination: tuple[str, dict[str, str], dict],
    tmp_path: Path,
):
    """``index.py``; ``pd.read_feather``; ``ingest.py -n 1 -c 1 -d 1 --gene-filter A,B personal/foo``."""
    dest, env, storage = destination
    path = tmp_path / "index.feather"
    ingest("index", "census", "--uri", census.uri, "-o", path)
    frame = pd.read_feather(path)
    seed_columns = ["soma_joinid", "assay", "cell_type", "tissue", "tissue_general", "suspension_type", "disease"]
    assert set(seed_columns) <= set(frame.columns)
    kept = frame[frame["disease"] == "normal"]
    kept.to_feather(path)

    _, ids = census_truth(census.uri, np.array([0]))
    genes = ids[100:102][::-1]
    ingest("run", dest, "--index", path, "-n", 1, "-c", 1, "-d", 1, "--gene-filter", ",".join(genes), env=env)
    (chunk,) = read_chunks(dest, storage)
    assert chunk.shape == (1, 2)
    assert list(chunk.var_names) == genes
    assert_chunks_equal_census([chunk], census.uri)
    assert chunk.obs["soma_joinid"].tolist() == kept["soma_joinid"].tolist()[:1]
    ingest("verify", dest, "--deep", "--source", env=env)


@pytest.mark.parametrize("destination", ["folder", BESIDES("s3"), BESIDES("gcs")], indirect=True)
def test_many_files_from_a_pool(
    census: BuiltCensus,
    census_index: Path,
    ingest: Callable[..., object],
    program: Callable[..., object],
    destination: tuple[str, dict[str, str], dict],
):
    """``ingest-pool.py -n 2000 -c 100 -d 2``: what it prints, what it writes."""
    dest, env, storage = destination
    ran = program("run", dest, "--index", census_index, "-n", 2000, "-c", 100, "-d", 2, env=env)
    for word in ("files 20", "minutes", "hours per 1 M cells", "average file"):
        assert word in ran.out
    chunks = read_chunks(dest, storage)
    assert [chunk.n_obs for chunk in chunks] == [100] * 20
    assert_chunks_equal_census(chunks, census.uri)
    assert all(isinstance(chunk.obs["cell_type"].dtype, pd.CategoricalDtype) for chunk in chunks)
    assert list(chunks[0].var.columns) == ["feature_id", "feature_name", "feature_length"]
    again = ingest("run", dest, "--index", census_index, "-n", 2000, "-c", 100, "-d", 2, env=env)
    assert "all 20 chunks are there" in again.err
    assert "complete" in ingest("status", dest, env=env).out
    ingest("verify", dest, "--deep", env=env)


@pytest.mark.parametrize("destination", [BESIDES("folder"), "s3", BESIDES("gcs")], indirect=True)
def test_another_plan_is_refused(
    census_index: Path, ingest: Callable[..., object], destination: tuple[str, dict[str, str], dict]
):
    dest, env, _ = destination
    ingest("run", dest, "--index", census_index, "-n", 300, "-c", 100, "--pool", "serial", env=env)
    refused = ingest("run", dest, "--index", census_index, "-n", 300, "-c", 150, "--pool", "serial", env=env, code=1)
    assert refused.err.splitlines()[-2].endswith("holds another plan: cells a chunk 100 there, 150 here")
    ingest("run", dest, "-c", 150, "--pool", "serial", env=env, code=2)
    ingest("verify", dest, "--deep", env=env)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("organism", "n_cells", "destination"),
    [
        ("homo_sapiens", 820, "folder"),
        ("homo_sapiens", 820, "s3"),
        ("homo_sapiens", 820, "gcs"),
        ("mus_musculus", 1000, "folder"),
    ],
    indirect=["destination"],
)
def test_the_census_that_others_made(
    organism: str,
    n_cells: int,
    real_data: Path,
    ingest: Callable[..., object],
    destination: tuple[str, dict[str, str], dict],
    tmp_path: Path,
):
    dest, env, storage = destination
    uri, index = str(real_data / "census_like_soma"), tmp_path / "index.feather"
    ingest("index", "census", "--uri", uri, "--organism", organism, "--all-cells", "-o", index)
    ingest("run", dest, "--index", index, "-c", 300, "--pool", "serial", env=env)
    chunks = read_chunks(dest, storage)
    assert sum(chunk.n_obs for chunk in chunks) == n_cells
    assert_chunks_equal_census(chunks, uri, organism)
    ingest("verify", dest, "--deep", "--source", env=env)


def test_two_identical_runs_give_identical_bytes(census_index: Path, ingest: Callable[..., object], tmp_path: Path):
    receipts = []
    for name, pool in (("a", "serial"), ("b", "ray")):
        ingest("run", tmp_path / name, "--index", census_index, "-c", 1000, "--pool", pool, "-d", 2)
        index = json.loads((tmp_path / name / "chunk_index.json").read_text())
        receipts.append([(chunk["key"], chunk["sha256"]) for chunk in index["chunks"]])
        files = {path.name: path.read_bytes() for path in (tmp_path / name / "chunks").iterdir()}
        assert len(files) == len(receipts[-1])
    assert receipts[0] == receipts[1]


def test_a_store_that_ignores_preconditions_is_refused(
    plain_gcs_server: ObjectServer, census_index: Path, ingest: Callable[..., object]
):
    dest = f"{plain_gcs_server.create_bucket('careless')}/x"
    env = dict(plain_gcs_server.environment)
    command = ("run", dest, "--index", census_index, "-n", 200, "-c", 100, "--pool", "serial")
    refused = ingest(*command, env=env, code=2)
    assert "ignores preconditions" in refused.err
    assert "--single-driver" in refused.err
    ingest(*command, "--single-driver", env=env)
