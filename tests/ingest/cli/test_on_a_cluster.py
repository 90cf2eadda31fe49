"""What the command line makes of a cluster, and of files that are elsewhere; nothing is joined here."""

from __future__ import annotations

import json
from contextlib import nullcontext

import boto3
import click
import pytest

from ingest.cli.pools import on_cluster, pool_for, resource_amounts
from ingest.cli.run import run as run_command
from ingest.errors import ConfigError
from ingest.settings import WorkSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources


@pytest.fixture
def index(tmp_path):
    return write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_cells=200))


@pytest.fixture
def bucket(s3_server, monkeypatch, index):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url = s3_server.create_bucket("far")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    client.upload_file(str(index), "far", "index.feather")
    client.put_object(Bucket="far", Key="run.toml", Body=b"chunk_size = 50\nresource = ['spot=0.01', 'disk=2']\n")
    client.put_object(Bucket="far", Key="genes.txt", Body=b"ENSG00000000407 ENSG00000000037\n")
    return url


@pytest.mark.parametrize(
    ("address", "away"), [(None, False), ("", False), ("local", False), ("auto", True), ("head:6379", True)]
)
def test_a_cluster_is_what_ray_address_names(monkeypatch, address, away):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert on_cluster("ray") == away
    assert not on_cluster("serial")


def test_resources_are_names_with_amounts():
    assert resource_amounts([], away=False) == {}
    assert resource_amounts(["spot=0.01", "disk = 2"], away=True) == {"spot": 0.01, "disk": 2.0}


@pytest.mark.parametrize(
    "text", ["spot", "spot=", "spot=x", "spot=0", "spot=-1", "spot=1.5", "spot=nan", "=1", "spot=inf"]
)
def test_what_is_no_resource_says_how_to_write_one(text):
    with pytest.raises(ConfigError, match="write NAME=AMOUNT") as caught:
        resource_amounts([text], away=True)
    assert caught.value.kind == "bad-resource"


@pytest.mark.parametrize(("text", "option"), [("CPU=1", "--cpus"), ("memory=1e9", "--memory")])
def test_what_has_an_option_of_its_own_is_no_custom_resource(text, option):
    with pytest.raises(ConfigError, match=f"{option} says that"):
        resource_amounts([text], away=True)


def test_a_resource_that_stands_twice_is_refused():
    with pytest.raises(ConfigError, match=r"spot stands twice, the first time with 0\.01") as caught:
        resource_amounts(["spot=0.01", "disk=1", " spot =0.5"], away=True)
    assert caught.value.kind == "bad-resource"


def test_a_line_is_shared_on_a_cluster_by_so_many_as_are_said(run, tmp_path, index, monkeypatch):
    """Without -d as many as there are units might come: too many for the line, or each with next to nothing."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    command = ("run", tmp_path / "d", "--index", index, "-c", 4, "--bandwidth", 5, "--dry-run", "--json")
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert err.splitlines()[0].startswith("error: --bandwidth 5 on a cluster: of how many workers")
    assert "-d" in err.splitlines()[1]
    assert json.loads(run(*command, "-d", 3)[1])["workers"] == 3
    monkeypatch.delenv("RAY_ADDRESS")
    assert run(*command)[0] == 0, "this machine's number of workers is known"


@pytest.fixture
def finished(index, tmp_path):
    make_dataset(str(tmp_path / "dest"), index)
    return tmp_path / "dest"


WHO_HAS_WORKERS = pytest.mark.parametrize(
    ("command", "more"),
    [("run", ()), ("repair", ("--chunk", 0)), ("hvg", ()), ("qc", ()), ("memmap", ("-o", "archive"))],
)


@WHO_HAS_WORKERS
def test_resources_without_a_cluster_are_refused(run, finished, monkeypatch, command, more):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = sorted(finished.rglob("*"))
    code, _, err = run(command, finished, *more, "--resource", "spot=1")
    assert code == 2
    assert sorted(finished.rglob("*")) == before
    assert err.splitlines()[0] == "error: --resource spot=1: only nodes of a cluster have resources of their own"


@WHO_HAS_WORKERS
def test_every_worker_asks_for_the_resource(run, finished, index, tmp_path, monkeypatch, command, more):
    """As far as to Ray's pool, which is not opened: there is no cluster."""
    asked = {}

    def pool(_factory, _size, **options):
        asked.update(options["resources"])
        raise ConfigError("as far as here", kind="opened")

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr("actors.pool.RayPool", pool)
    monkeypatch.setattr("actors.cluster.connect", lambda **_: nullcontext())
    monkeypatch.chdir(tmp_path)
    (finished / "chunks" / "chunk_000000.h5ad").unlink()
    where = {"run": (tmp_path / "other", "--index", index)}.get(command, (finished,))
    code, _, err = run(command, *where, *more, "--resource", "spot=0.01", "-d", 2)
    assert (code, err.splitlines()[-1]) == (2, "error: as far as here")
    assert asked == {"spot": 0.01}


@pytest.mark.parametrize(("workers", "most", "at_once"), [(None, 200, False), (3, 3, True)])
def test_a_pool_on_a_cluster_follows_its_size(monkeypatch, workers, most, at_once):
    """And a worker asks for the plan's projection of its memory."""
    from actors.growth import Growth

    made = {}

    class Pool:
        def __init__(self, _factory, size, **options):
            made.update(options, size=size)

        def close(self):
            pass

    monkeypatch.setattr("actors.pool.RayPool", Pool)
    monkeypatch.setattr("actors.cluster.connect", lambda **_: nullcontext())
    settings = WorkSettings(workers=workers, cpus=2, on_cluster=True, resources={"spot": 0.01})
    factory = type("Factory", (), {"threads": 2})()
    with pool_for(settings)(factory, workers or 200, memory_bytes=700):
        pass
    assert made == {
        "size": most,
        "num_cpus": 2,
        "memory_bytes": 700,
        "resources": {"spot": 0.01},
        "growth": Growth(most, at_once=at_once),
    }


def test_without_a_cluster_a_pool_has_one_size(monkeypatch):
    made = {}
    closing = type("Pool", (), {"close": lambda _: None})
    monkeypatch.setattr("actors.pool.RayPool", lambda *_, **options: made.update(options) or closing())
    monkeypatch.setattr("actors.cluster.connect", lambda **_: nullcontext())
    with pool_for(WorkSettings())(type("Factory", (), {"threads": 2})(), 4, memory_bytes=1):
        pass
    assert made["growth"] is None


def test_without_d_the_work_is_cut_for_a_cluster_not_for_this_machine(run, tmp_path, index, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    command = ("run", tmp_path / "d", "--index", index, "-c", 4, "--dry-run", "--json")
    facts = json.loads(run(*command)[1])
    assert facts["workers"] > 20
    assert json.loads(run(*command, "-d", 3)[1])["workers"] == 3


def test_index_settings_and_genes_come_from_a_bucket(run, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    names = ("--index", f"{bucket}/index.feather", "--config", f"{bucket}/run.toml")
    genes = ("--gene-filter", f"@{bucket}/genes.txt")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code, out, err = run("run", f"{bucket}/d", *names, *genes, "--scratch", scratch, "--dry-run", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["cells"], facts["cells_per_chunk"], facts["genes"]) == (400, 50, 2)
    assert f"{bucket}/index.feather" in err
    assert list(scratch.iterdir()) == [], "the copy is gone"


def test_settings_are_looked_for_where_the_endpoint_is(run, bucket, s3_server, index, monkeypatch):
    """In whatever order the two stand: settings are read before all other options."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    command = ("run", f"{bucket}/d", "--config", f"{bucket}/run.toml", "--index", index, "--dry-run")
    for said in (("--endpoint-url", s3_server.endpoint_url), (f"--endpoint-url={s3_server.endpoint_url}",)):
        code, _, err = run(*command, *said)
        assert code == 0, err
        assert "of 50," in err
    monkeypatch.setenv("CELL_INGEST_ENDPOINT_URL", s3_server.endpoint_url)
    assert run(*command)[0] == 0


@pytest.mark.parametrize("option", ["--index", "--config"])
def test_a_url_with_a_secret_is_refused_and_not_repeated(run, tmp_path, option, index):
    code, out, err = run("run", tmp_path / "d", "--index", index, option, "https://me:hunter2@host/file")
    assert code == 2
    assert "hunter2" not in out + err
    assert "https://***@host/file" in err


def test_an_option_for_several_is_a_list_in_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    for written, meant in (("['a=1', 'b=2']", ("a=1", "b=2")), ("'a=1'", ("a=1",))):
        path = tmp_path / "run.toml"
        path.write_text(f"resource = {written}\nqc = ['min_genes=3']\n")
        context = run_command.make_context("run", ["d", "--config", str(path)])
        assert context.params["resource"] == meant
        assert context.params["qc"] == ("min_genes=3",)
    assert isinstance(context, click.Context)
