"""Finding a Census: releases and aliases through a directory served here, copies on an S3 look-alike."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pandas as pd
import pytest
from cellxgene_census import _release_directory

from index.build import CensusOptions, index_census
from index.catalog.release import find_release
from ingest.errors import ConfigError, EmptySelectionError, TransientError
from ingest.testing.census import CensusSpec, build_census


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    spec = CensusSpec(n_cells=300, n_genes=40, mean_nnz_per_cell=5, n_datasets=2)
    return build_census(tmp_path_factory.mktemp("releases") / "cell-census" / "2025-11-08" / "soma", spec)


def _described(date: str, **more) -> dict:
    place = {"relative_uri": f"cell-census/{date}/soma/", "uri": "", "s3_region": None}
    return {"release_date": None, "release_build": date, "soma": place, "h5ads": place, **more}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def directory(small, tmp_path, monkeypatch):
    """The release directory as the real one is laid, on a loopback port."""
    retraction = {"date": "2025-02-01", "reason": "wrong genes", "info_url": None, "replaced_by": "2025-11-08"}
    releases = {
        "stable": "2025-11-08",
        "latest": "2025-12-15",
        "V1": "2025-01-30",
        "2025-12-15": _described("2025-12-15"),
        "2025-11-08": _described("2025-11-08", flags={"lts": True}),
        "2025-01-30": _described("2025-01-30", flags={"lts": True, "retracted": True}, retraction=retraction),
    }
    base = small.path.parents[2].as_uri() + "/"
    mirrors = {"default": "here", "here": {"provider": "file", "base_uri": base, "region": None}}
    (tmp_path / "release.json").write_text(json.dumps(releases))
    (tmp_path / "mirrors.json").write_text(json.dumps(mirrors))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(_release_directory, "CELL_CENSUS_RELEASE_DIRECTORY_URL", f"{url}/release.json")
    monkeypatch.setattr(_release_directory, "CELL_CENSUS_MIRRORS_DIRECTORY_URL", f"{url}/mirrors.json")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("directory")
def test_an_alias_is_resolved_and_the_date_recorded(small, tmp_path):
    report = index_census(CensusOptions(tmp_path / "i.feather", version="stable"))
    frame = pd.read_feather(report.path)
    assert set(frame["source"]) == {"census://2025-11-08/homo_sapiens"}
    assert len(frame) == small.spec.n_primary
    assert "Census 'stable' is 2025-11-08 today" in report.notes


@pytest.mark.usefixtures("directory")
def test_an_unknown_version_lists_what_there_is():
    with pytest.raises(ConfigError) as caught:
        find_release("2025-11-80")
    assert caught.value.kind == "unknown-version"
    assert str(caught.value) == "no Census version '2025-11-80'; did you mean '2025-11-08', '2025-01-30', '2025-12-15'?"
    assert caught.value.hint == (
        "there are V1 (2025-01-30), latest (2025-12-15), stable (2025-11-08), 2025-12-15, 2025-11-08, 2025-01-30"
    )


@pytest.mark.usefixtures("directory")
def test_a_retracted_version_says_so():
    assert find_release("2025-01-30").notes == ("Census 2025-01-30 was retracted: wrong genes; 2025-11-08 replaces it",)
    assert find_release("V1").date == "2025-01-30"


@pytest.mark.usefixtures("directory")
def test_a_listed_version_that_is_gone(tmp_path):
    with pytest.raises(ConfigError) as caught:
        index_census(CensusOptions(tmp_path / "i.feather", version="latest"))
    assert caught.value.kind == "no-census"


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("answer", [None, "no JSON"])
def test_no_directory_is_transient(tmp_path, monkeypatch, answer):
    if answer is None:
        monkeypatch.setattr(_release_directory, "CELL_CENSUS_RELEASE_DIRECTORY_URL", "http://127.0.0.1:9/release.json")
    else:
        (tmp_path / "release.json").write_text(answer)
    with pytest.raises(TransientError) as caught:
        find_release("stable")
    assert caught.value.kind == "network"


def test_a_copy_on_s3_is_the_copy_on_disk(small, s3_server, tmp_path, monkeypatch):
    bucket = s3_server.create_bucket("census-copy").removeprefix("s3://")
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    for file in small.path.rglob("*"):
        key = f"deep/census/{file.relative_to(small.path).as_posix()}"
        if file.is_file():
            client.upload_file(str(file), bucket, key)
    uri = f"s3://{bucket}/deep/census"
    there = index_census(CensusOptions(tmp_path / "s3.feather", uri=uri, value_filter="nnz >= 4"))
    here = index_census(CensusOptions(tmp_path / "disk.feather", uri=small.uri, value_filter="nnz >= 4"))
    frames = [pd.read_feather(report.path) for report in (there, here)]
    assert set(frames[0]["source"]) == {f"soma+{uri}#organism=homo_sapiens&build={small.spec.build_date}"}
    pd.testing.assert_frame_equal(*(frame.drop(columns="source") for frame in frames))
    with pytest.raises(EmptySelectionError):
        index_census(CensusOptions(tmp_path / "s3.feather", uri=uri, value_filter="nnz < 0"))
    with pytest.raises(ConfigError) as caught:
        index_census(CensusOptions(tmp_path / "s3.feather", uri=f"{uri}-not"))
    assert caught.value.kind == "no-census"


def test_credentials_in_a_uri_are_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        index_census(CensusOptions(tmp_path / "i.feather", uri="s3://key:secret@bucket/census"))
    assert caught.value.kind == "secret-url"
    assert "secret@" not in str(caught.value)


@pytest.mark.realdata
def test_the_real_look_alike_of_a_census(tmp_path):
    place = Path(__file__).parents[3] / ".." / "shared" / "data" / "census_like_soma"
    if not place.exists():
        pytest.skip("no ../shared/data beside this checkout")
    report = index_census(CensusOptions(tmp_path / "i.feather", uri=str(place), value_filter="tissue == 'blood'"))
    assert report.cells == 500
    with pytest.raises(EmptySelectionError, match=r"has tissue == 'blod'; did you mean 'blood'\?"):
        index_census(CensusOptions(tmp_path / "i.feather", uri=str(place), value_filter="tissue == 'blod'"))
