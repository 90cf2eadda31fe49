"""What an older version began, this one finishes, as the older one would have; see `ingest.testing.begun`."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from ingest.cli.main import main
from ingest.layout import FORMAT_VERSION, RUNS
from ingest.load import open_chunks
from ingest.store.open import open_store
from ingest.testing.begun import BUCKET, DEST, begin, restore
from ingest.testing.servers import fast_s3_server

ARCHIVES = sorted((Path(__file__).parent / "begun").glob("*.tar.gz"))


@pytest.fixture
def bucket(monkeypatch):
    with fast_s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.create_bucket(BUCKET)
        yield f"s3://{BUCKET}"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_this_version_finishes_what_an_older_one_began(bucket, archive, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("ingest.running.__version__", "99.0.0")
    expected = json.loads(restore(archive))
    store = open_store(DEST)
    before = {stat.key: store.get(stat.key) for stat in store.list("")}
    assert run("run", DEST, "--pool", "serial") == 0
    assert json.loads(store.get("_SUCCESS.json"))["digest"] == expected["digest"]
    assert {key: store.get(key) for key in before} == before, "what was there is as it was"
    runs = [json.loads(store.get(stat.key)) for stat in store.list(RUNS) if stat.key.endswith("/start.json")]
    assert len({one["version"] for one in runs}) == 2
    assert run("verify", DEST, "--deep") == 0
    capsys.readouterr()
    cells = open_chunks(DEST).to_anndata(range(60))
    sources = [_read(f"{bucket}/sources/sample{number}.h5ad", tmp_path) for number in range(2)]
    assert np.array_equal(cells.X.toarray(), np.vstack([source.X for source in map(_dense, sources)]))


@pytest.mark.usefixtures("bucket")
def test_a_dataset_of_a_newer_format_is_refused_with_both_versions(capsys):
    restore(ARCHIVES[0])
    store = open_store(DEST)
    plan = json.loads(store.get("_ingest/plan.json"))
    stat = store.stat("_ingest/plan.json")
    newer = json.dumps({**plan, "format_version": FORMAT_VERSION + 1}).encode()
    store.replace("_ingest/plan.json", newer, expected=stat.version)
    assert run("run", DEST, "--pool", "serial") == 1
    said = capsys.readouterr().err
    assert str(FORMAT_VERSION + 1) in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("bucket")
def test_what_this_version_begins_could_be_kept_likewise():
    kept = begin()
    assert {"expected.json", "dest/_ingest/plan.json", "dest/chunks/chunk_000003.h5ad"} <= set(kept)
    assert "dest/_ingest/receipts/000000003-000000003.json" not in kept
    assert "dest/_SUCCESS.json" not in kept
    assert json.loads(kept["expected.json"])["digest"]


def _read(url, folder):
    path = folder / url.rsplit("/", 1)[-1]
    store = open_store(url.rsplit("/", 1)[0])
    path.write_bytes(store.get(path.name))
    return anndata.read_h5ad(path)


def _dense(data):
    if not isinstance(data.X, np.ndarray):
        data.X = data.X.toarray()
    return data
