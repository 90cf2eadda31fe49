"""What `estimate` says is what `run` then does: bytes and requests, counted at the servers. Nothing is written."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import h5py
import pandas as pd
import pytest
import tiledbsoma

from ingest import trial
from ingest.cli.main import main
from ingest.source import Source
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.servers import ObjectServer, fast_s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

N_CELLS, CHUNK = 14 * 2_048, 512
READS = ("GetObject", "HeadObject")


@pytest.fixture(scope="module")
def far(tmp_path_factory) -> Iterator[tuple[ObjectServer, ObjectServer, Path]]:
    """A server with a Census of fourteen bands, one for DEST, and an index of all cells."""
    folder = tmp_path_factory.mktemp("far")
    census = build_census(folder / "census", CensusSpec(n_cells=N_CELLS, n_genes=500, mean_nnz_per_cell=150))
    with fast_s3_server() as sources, fast_s3_server() as dest:
        sources.create_bucket("sources")
        dest.create_bucket("dest")
        client = boto3.client(
            "s3",
            endpoint_url=sources.endpoint_url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106  # the look-alike's
            region_name="us-east-1",
        )
        for path in Path(census.path).rglob("*"):
            if path.is_file():
                key = f"census/{path.relative_to(census.path)}"
                client.put_object(Bucket="sources", Key=key, Body=path.read_bytes())
        client.close()
        source = str(Source("soma", "s3://sources/census", census.spec.build_date, "homo_sapiens"))
        with tiledbsoma.DataFrame.open(f"{census.uri}/census_data/homo_sapiens/obs") as obs:
            columns = ["soma_joinid", "cell_type", "nnz", "raw_sum"]
            index = obs.read(column_names=columns).concat().to_pandas().assign(source=source)
        index["source"] = index["source"].astype("category")
        index.to_feather(folder / "index.feather")
        yield sources, dest, folder / "index.feather"


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def call(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def stats(server):
    with urllib.request.urlopen(f"{server.endpoint_url}/-/stats") as reply:  # noqa: S310  # our own address
        found = json.load(reply)
    return Counter(found["requests"]) + Counter(read_bytes=found["bytes_out"])


def counted(found, *names):
    return sum(found[name] for name in names)


@pytest.mark.filterwarnings("ignore:.*obs names:UserWarning")
def test_an_estimate_is_what_the_run_then_reads_writes_and_asks_for(far, call, monkeypatch):
    sources, dest, index = far
    for name, value in sources.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(trial, "MOST_CELLS", 8 * CHUNK)
    same = ("--index", index, "-c", CHUNK, "-d", 3, "--pool", "serial", "--endpoint-url", dest.endpoint_url, "--json")
    code, out, err = call("estimate", "s3://dest/one", *same, "--parts", 3)
    assert code == 0, err
    said = json.loads(out)
    found = said["estimate"]
    assert len(said["trials"]) == 3
    assert sum(one["n_cells"] for one in said["trials"]) < N_CELLS * 0.6
    assert dest_objects(dest) == []  # nothing was written

    before = stats(sources), stats(dest)
    code, out, err = call("run", "s3://dest/one", *same)
    assert code == 0, err
    ran = json.loads(out)
    at_sources, at_dest = stats(sources) - before[0], stats(dest) - before[1]

    assert found["write_bytes"]["middle"] == pytest.approx(ran["bytes"], rel=0.05)
    assert found["write_bytes"]["low"] <= ran["bytes"] <= found["write_bytes"]["high"] * 1.02
    stored = sum(size for _, size in dest_objects(dest))
    assert found["storage_bytes"]["middle"] == pytest.approx(stored, rel=0.1)
    # All but what opening reads: tables, genes, and the groups that TileDB goes through.
    run_read = sum(run["end"]["bytes_read"] for run in ended_runs(dest))
    assert found["read_bytes"]["middle"] == pytest.approx(run_read, rel=0.1)
    assert run_read <= at_sources["read_bytes"]

    dest_said, sources_said = found["dest_requests"], found["source_requests"]
    assert dest_said["put"] == at_dest["PutObject"]
    # One worker ran, where three were asked for: the two others would each have opened the plan, and the Census.
    assert dest_said["get"] == pytest.approx(counted(at_dest, *READS) + 2 * 6, rel=0.1)
    assert dest_said["list"] == pytest.approx(at_dest["ListObjectsV2"] + 2 * 2, rel=0.1)
    assert sources_said["get"] == pytest.approx(counted(at_sources, *READS) + 2 * 40, rel=0.15)
    assert sources_said["list"] == pytest.approx(at_sources["ListObjectsV2"] + 2 * 35, rel=0.1)

    # Of a dataset that is finished nothing is left; of one that is not, the rest.
    code, out, _ = call("estimate", "s3://dest/one", *same[2:])
    assert (code, json.loads(out)["estimate"]) == (0, None)


def dest_objects(server):
    client = boto3.client("s3", endpoint_url=server.endpoint_url)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="dest")
    found = [(entry["Key"], entry["Size"]) for page in pages for entry in page.get("Contents", [])]
    client.close()
    return found


def ended_runs(server):
    client = boto3.client("s3", endpoint_url=server.endpoint_url)
    keys = [key for key, _ in dest_objects(server) if key.endswith("/end.json")]
    found = [{"end": json.load(client.get_object(Bucket="dest", Key=key)["Body"])} for key in keys]
    client.close()
    return found


@pytest.fixture
def local(tmp_path):
    """Two files and an index of their cells."""
    return write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_files=2, n_cells=40))


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_says_what_a_dry_run_says_and_leaves_nothing(local, call, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    same = ("--index", local, "-c", 10, "-d", 1, "--pool", "serial", "--scratch", scratch)
    code, out, err = call("estimate", tmp_path / "dest", *same)
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "cells", "read", "write", "storage", "requests", "work", "time", "memory", "cost",
    ]  # fmt: skip
    assert "80 in 8 chunks of 10; " in lines[0]
    assert "no list prices are built in" in lines[-1]
    assert re.search(r"Try      \d parts? of \d units?, 80 cells", err)
    code, out, _ = call("estimate", *same, "--json", "--price-per-core-hour", 1, "--price-per-gb-month", 2)
    said = json.loads(out)
    dry = json.loads(call("run", tmp_path / "dest", *same, "--dry-run", "--json")[1])
    assert {name: said[name] for name in dry} == dry
    assert list(said["cost"]) == ["compute", "the run", "storage a month"]
    assert said["estimate"]["source_requests"] == {"put": 0, "get": 0, "list": 0}
    # What stays on this machine passes no line, whatever its limit; a DEST that is not known yet is taken for a bucket.
    here, away = ((tmp_path / "dest",), ()), ("--bandwidth", 0.25, "--json")
    near, far_off = (json.loads(call("estimate", *where, *same, *away)[1])["estimate"] for where in here)
    assert near["wall_seconds"]["middle"] < 10
    assert far_off["wall_seconds"]["middle"] > far_off["write_bytes"]["middle"] / 0.25e6
    assert not (tmp_path / "dest").exists()
    assert left(scratch) == []


def test_of_a_dataset_that_was_begun_it_is_what_is_left(local, call, tmp_path):
    dest = tmp_path / "dest"
    run = ("--pool", "serial", "-d", 1)
    assert call("run", dest, "--index", local, "-c", 10, *run)[0] == 0
    for chunk in (2, 5):
        (dest / f"_ingest/receipts/{chunk:09d}-{chunk:09d}.json").unlink()
        (dest / f"chunks/chunk_{chunk:06d}.h5ad").unlink()
    before = left(dest), left(dest / "_ingest")
    code, out, err = call("estimate", dest, *run, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["missing_chunks"], said["missing_cells"]) == (2, 20)
    assert sum(trial["n_cells"] for trial in said["trials"]) == 20
    assert (left(dest), left(dest / "_ingest")) == before
    assert not (dest / "chunks/chunk_000002.h5ad").exists()
    code, _, err = call("estimate", dest, "-c", 99)
    assert (code, "settled" in err or "holds" in err) == (2, True)


def test_settings_of_a_cluster_are_reckoned_with_on_any_machine(local, call, monkeypatch):
    """It starts no worker: neither resources nor CPUs of the nodes are needed here."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cores = (os.cpu_count() or 1) + 1
    there = ("--resource", "spot=0.01", "--cpus", cores, "-d", 2, "--price-per-core-hour", 1, "--json")
    code, out, err = call("estimate", "--index", local, "-c", 10, *there)
    assert code == 0, err
    said = json.loads(out)
    hours = said["estimate"]["worker_seconds"]["middle"] / 3600
    assert said["cost"]["compute"]["middle"] == pytest.approx(hours * cores)
    assert said["if_workers_come"] is None
    code, _, err = call("estimate", "--index", local, "--resource", "spot")
    assert (code, "write NAME=AMOUNT" in err) == (2, True)


def test_on_a_cluster_without_d_it_says_for_how_many_workers(local, call, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    same = ("estimate", "--index", local, "-c", 10)
    code, out, err = call(*same, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["if_workers_come"] == said["workers"] > 1
    assert said["workers_follow_cluster"] is True
    _, out, err = call(*same)
    assert f"if {said['workers']} workers come, start and end included" in out
    assert "say with -d how many" in err
    _, out, err = call(*same, "-d", 2)
    assert "with 2 workers, start and end included" in out
    assert "say with -d" not in err


def test_what_is_timed_has_been_made_before_and_thrown_away(local, call, monkeypatch):
    """The first chunk of each layout waits for kernels: it is made once more than it counts."""
    monkeypatch.setattr(trial, "MOST_CELLS", 20)
    made, run_unit = [], trial.run_unit

    def heard(worker, task):
        made.append(task.chunks)
        return run_unit(worker, task)

    monkeypatch.setattr(trial, "run_unit", heard)
    code, out, err = call("estimate", "--index", local, "-c", 10, "--pool", "serial", "-d", 4, "--parts", 4, "--json")
    assert code == 0, err
    timed = [tuple(one["chunks"]) for one in json.loads(out)["trials"]]
    before = made[: len(made) - len(timed)]
    assert made[len(before) :] == timed
    assert [len(chunks) for chunks in before] == [1, 1]
    assert {chunks[0] < 4 for chunks in before} == {True, False}, "of each file"


def test_windows_are_tried_whole(local, call):
    same = ("--index", local, "-c", 10, "--shuffle", "window", "--shuffle-window", 20, "--pool", "serial", "-d", 1)
    code, out, err = call("estimate", *same, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert all(len(trial["chunks"]) % 2 == 0 for trial in said["trials"])
    assert said["mixing"]["window_cells"] == 20


def test_quality_rules_are_those_of_run(local, call):
    same = ("--index", local, "-c", 10, "--pool", "serial", "-d", 1)
    code, out, err = call("estimate", *same, "--qc", "leave_out_column=cell_type=neuron", "--json")
    assert code == 0, err
    cells = pd.read_feather(local)
    assert json.loads(out)["cells"] == int((cells.cell_type != "neuron").sum())
    code, out, err = call(
        "estimate", *same, "--qc", "min_genes=1", "--json"
    )  # judged by counts: the first of two steps
    assert code == 0, err
    assert json.loads(out)["cells"] == 80
    assert "Step 1" in err


def test_a_part_that_cannot_be_made_is_told_and_left_out(local, call, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "MOST_CELLS", 20)
    same = ("--index", local, "-c", 10, "--pool", "serial", "-d", 4, "--json")
    code, _, err = call("estimate", *same)  # the survey is kept now
    assert code == 0, err
    path = tmp_path / "sources" / "sample1.h5ad"
    before = path.stat()
    damage_counts(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    code, out, err = call("estimate", *same, "--parts", 8)
    assert code == 0, err
    assert "cannot be made, and is left out" in err
    made = {chunk for one in json.loads(out)["trials"] for chunk in one["chunks"]}
    assert made
    assert made <= {0, 1, 2, 3}
    pd.read_feather(local).iloc[40:].reset_index(drop=True).to_feather(local)
    code, _, err = call("estimate", *same)  # and where nothing at all can be made it is an error, in a line
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")


def damage_counts(path):
    """Make one count negative, in place."""
    with h5py.File(path, "r+") as file:
        file["X"][5:, 3] = -7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "error: nothing to estimate"),
        (("--index", "no.feather"), "no such index"),
        (("nowhere",), "holds no dataset"),
        (("d", "--bandwith", "3"), "--bandwidth"),
        (("d", "--bandwidth", "5MB"), "it is megabytes a second, such as 50"),
        (("d", "--bandwidth", "0"), "carry nothing"),
        (("d", "--parts", "0"), "--parts"),
        (("d", "--price-per-core-hour", "cheap"), "--price-per-core-hour"),
    ],
)
def test_mistakes_are_a_line(call, arguments, said):
    code, out, err = call("estimate", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) <= 2


def test_a_bucket_may_be_made_later(far, local, call, monkeypatch):
    for name, value in far[1].environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = call("estimate", "s3://not-yet/x", "--index", local, "-c", 10, "--pool", "serial", "-d", 1)
    assert code == 0, err
    assert "there is no such bucket yet" in err
    assert "cells" in out
