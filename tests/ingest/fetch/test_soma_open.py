"""Opening a Census wherever it lies, and saying plainly what is wrong when it cannot be opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import cellxgene_census
import numpy as np
import pytest
import tiledbsoma

from ingest.cpu import require_avx2
from ingest.errors import (
    ConfigError,
    CredentialsError,
    ExhaustedError,
    SourceChangedError,
    SourceError,
    TransientError,
)
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.soma import SomaFetcher
from ingest.fetch.soma_config import tiledb_config
from ingest.fetch.soma_errors import explain
from ingest.fetch.soma_open import open_experiment
from ingest.source import Source, address_of
from ingest.survey.soma import survey_soma
from ingest.testing.census import CensusSpec, build_census

LIMITS = FetchLimits(256 << 20, 2, Path("unused"))


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=600, n_genes=200, mean_nnz_per_cell=20, n_datasets=2)
    return build_census(tmp_path_factory.mktemp("census") / "mini", spec)


@pytest.fixture
def environ(monkeypatch, tmp_path):
    """No AWS settings but those a test makes, and none that the machine has."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    return monkeypatch


def soma(address: str, organism: str = "homo_sapiens", version: str = "") -> Source:
    return Source("soma", address_of(address), version, organism)


@pytest.fixture(scope="module")
def bucket(s3_server, census):
    """The Census in two buckets of a look-alike: one for anybody, one for those with credentials."""
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106  # what the look-alike wants
        region_name="us-east-1",
    )
    for name, acl in (("public-census", "public-read"), ("private-census", "private")):
        s3_server.create_bucket(name)
        for file in census.path.rglob("*"):
            if file.is_file():
                client.upload_file(str(file), name, f"mini/{file.relative_to(census.path)}", ExtraArgs={"ACL": acl})
    client.put_bucket_acl(Bucket="public-census", ACL="public-read")
    return s3_server


def test_s3_with_credentials(bucket, census, environ):
    for name, value in bucket.environment.items():
        environ.setenv(name, value)
    there = survey_soma(soma("s3://private-census/mini"), LIMITS, datasets=None)
    here = survey_soma(soma(census.uri), LIMITS, datasets=None)
    assert (there.n_obs, there.nnz, there.genes.digest) == (here.n_obs, here.nnz, here.genes.digest)
    rows = np.arange(600)[::-1]
    far, near = (SomaFetcher(survey, survey.genes, FetchOptions(), LIMITS) for survey in (there, here))
    np.testing.assert_array_equal(far.read(rows).counts.data, near.read(rows).counts.data)
    far.close(), near.close()


def test_s3_anonymously(bucket, environ):
    environ.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint_url)
    assert survey_soma(soma("s3://public-census/mini"), LIMITS, datasets=None).n_obs == 600


def test_s3_without_the_permission(bucket, environ):
    environ.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint_url)
    with pytest.raises(CredentialsError, match="s3://private-census/mini") as caught:
        open_experiment(soma("s3://private-census/mini"), LIMITS)
    assert caught.value.kind == "access-denied"


@pytest.mark.parametrize("address", ["s3://no-such-bucket/mini", "s3://public-census/elsewhere"])
def test_s3_without_a_census(bucket, environ, address):
    environ.setenv("AWS_ENDPOINT_URL", bucket.endpoint_url)
    with pytest.raises(ConfigError, match="no Census") as caught:
        open_experiment(soma(address), LIMITS)
    assert caught.value.kind == "no-census"


def test_nobody_answers(environ):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        environ.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(TransientError, match="connect") as caught:
            open_experiment(soma("s3://census/mini"), LIMITS)
    assert caught.value.kind == "network"
    assert pickle.loads(pickle.dumps(caught.value)).kind == "network"  # noqa: S301  # our own bytes


def test_nothing_or_something_else_there(tmp_path, census):
    for address in (tmp_path, tmp_path / "absent", census.path / "census_data"):
        with pytest.raises(ConfigError, match="no Census") as caught:
            open_experiment(soma(str(address)), LIMITS)
        assert caught.value.kind == "no-census"


def test_an_organism_that_is_not_there(census):
    with pytest.raises(ConfigError, match="'homo_sapien'; did you mean 'homo_sapiens'") as caught:
        open_experiment(soma(census.uri, "homo_sapien"), LIMITS)
    assert caught.value.kind == "unknown-organism"
    assert caught.value.hint == "it has homo_sapiens"


def test_versions(census):
    with open_experiment(soma(census.uri), LIMITS) as opened:
        assert opened.version == census.spec.build_date
    with pytest.raises(SourceChangedError, match="not 2020-01-01"):
        open_experiment(soma(census.uri, version="2020-01-01"), LIMITS)


@pytest.fixture
def releases(monkeypatch, tmp_path, census):
    """The release directory, over HTTP, with one release whose data are the mini Census."""
    release = {
        "release_date": None,
        "release_build": "2025-11-08",
        "soma": {"relative_uri": str(census.path)},
        "h5ads": {},
    }
    site = tmp_path / "site"
    site.mkdir()
    (site / "release.json").write_text(json.dumps({"stable": "2025-11-08", "2025-11-08": release}))
    mirror = {"provider": "S3", "base_uri": "/", "region": "us-west-2"}
    (site / "mirrors.json").write_text(json.dumps({"default": "here", "here": mirror}))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    module = cellxgene_census._release_directory
    for name in ("RELEASE", "MIRRORS"):
        url = f"http://127.0.0.1:{server.server_port}/{'release' if name == 'RELEASE' else 'mirrors'}.json"
        monkeypatch.setattr(module, f"CELL_CENSUS_{name}_DIRECTORY_URL", url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("releases")
def test_a_release_keeps_its_date_whatever_it_was_built_on():
    source = Source("census", "2025-11-08", "2025-11-08", "homo_sapiens")
    survey = survey_soma(source, LIMITS, datasets=None)
    assert survey.source == source
    assert survey.n_obs == 600
    assert survey.stored_bytes == 2 * survey.nnz


@pytest.mark.usefixtures("releases")
def test_a_release_that_is_gone():
    source = Source("census", "2025-11-01", "2025-11-01", "homo_sapiens")
    with pytest.raises(ConfigError, match="no Census version '2025-11-01'; did you mean '2025-11-08'") as caught:
        open_experiment(source, LIMITS)
    assert (caught.value.kind, caught.value.hint) == ("unknown-version", "there are stable (2025-11-08), 2025-11-08")


def test_a_release_directory_that_does_not_answer(releases):
    releases.shutdown()
    releases.server_close()
    with pytest.raises(TransientError, match="release directory does not answer"):
        open_experiment(Source("census", "2025-11-08", "2025-11-08", "homo_sapiens"), LIMITS)


class Refusing(BaseHTTPRequestHandler):
    """Says yes to listings and no to what comes after: a credential that expires in mid-run."""

    def do_GET(self):
        body = b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  # the base class' naming

    def log_message(self, *_):
        pass


def test_expired_credentials(environ):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    environ.setenv("AWS_ACCESS_KEY_ID", "old")
    environ.setenv("AWS_SECRET_ACCESS_KEY", "old")
    with pytest.raises(CredentialsError, match="ExpiredToken"):
        open_experiment(soma("s3://census/mini"), LIMITS)
    server.shutdown()
    server.server_close()


SOURCE = Source("soma", "s3://census/mini", "2025-11-08", "homo_sapiens")


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("S3: x[HTTP Response Code: 503] [Exception: SlowDown] : nope", "network", TransientError),
        ("S3: x[HTTP Response Code: 429] : nope", "network", TransientError),
        ("S3: x[HTTP Response Code: -1] : curlCode: 28, Timeout was reached", "network", TransientError),
        ("S3: x[HTTP Response Code: 404] [Exception: NoSuchKey] : gone", "soma-missing", SourceError),
        ("FragmentMetadata: memory budget exceeded", "soma-memory", ConfigError),
        ("[TileDB::C++API] Error: std::bad_alloc", "out-of-memory", ExhaustedError),
        (
            "TileDB internal: Error initializing thread pool of concurrency level 0; Resource temporarily unavailable",
            "no-threads",
            ExhaustedError,
        ),
        ("VFS: Cannot open file; Too many open files", "no-files", ExhaustedError),
        ("Chunk: decompress failed", "soma-read", SourceError),
    ],
)
def test_what_an_error_means(text, kind, wanted):
    error = explain(tiledbsoma.SOMAError(text), SOURCE)
    assert type(error) is wanted
    assert (error.kind, error.source) == (kind, str(SOURCE))
    assert "Response Code" not in str(error)


@pytest.mark.usefixtures("environ")
def test_settings_follow_the_share_and_the_environment():
    here = Source("soma", "file:///c", "", "homo_sapiens")
    small, large = (tiledb_config(here, FetchLimits(size, 1, Path("x")), {}) for size in (1, 1 << 40))
    assert (small["soma.init_buffer_bytes"], large["soma.init_buffer_bytes"]) == (str(4 << 20), str(16 << 20))
    assert {value for name, value in small.items() if name.endswith("level") or name.endswith("ops")} == {"1"}
    assert small["sm.query.sparse_global_order.preprocess_tile_merge"] == "0"  # else the process dies now and then
    settings = {"AWS_ENDPOINT_URL": "https://other:1", "AWS_ENDPOINT_URL_S3": "http://h:2", "AWS_REGION": "eu-west-1"}
    far = tiledb_config(SOURCE, LIMITS, settings)
    assert far["vfs.s3.endpoint_override"] == "h:2"
    assert (far["vfs.s3.scheme"], far["vfs.s3.region"]) == ("http", "eu-west-1")
    assert far["vfs.s3.no_sign_request"] == "true"
    public = tiledb_config(Source("census", "2025-11-08", "2025-11-08", "homo_sapiens"), LIMITS, settings)
    assert not any(name.startswith("vfs.s3.endpoint") or name == "vfs.s3.region" for name in public)


def test_a_cpu_without_avx2(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx\n")
    with pytest.raises(ConfigError, match="no AVX2") as caught:
        require_avx2(cpuinfo, system="linux", machine="x86_64")
    assert caught.value.kind == "cpu-no-avx2"
    assert "git clone https://github.com/single-cell-data/TileDB-SOMA.git" in caught.value.hint
    require_avx2(cpuinfo, system="linux", machine="aarch64")
    require_avx2(cpuinfo, system="darwin", machine="x86_64")
    require_avx2(cpuinfo, system="linux", machine="x86_64", built_here=True)
    require_avx2(tmp_path / "absent", system="linux", machine="x86_64")
    cpuinfo.write_text("flags : fpu avx avx2\n")
    require_avx2(cpuinfo, system="linux", machine="x86_64")


def test_the_cpu_is_asked_before_the_library_is_imported():
    code = "import sys, ingest.cpu, ingest.fetch.soma, ingest.survey.soma; print('tiledbsoma' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_census_without_raw_counts(census, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(census.path, copy)
    with tiledbsoma.open(str(copy / "census_data/homo_sapiens/ms/RNA/X"), "d") as group:
        del group["raw"]
    with pytest.raises(SourceError, match="no ms/RNA/X/raw: where 'raw' should be is nothing") as caught:
        survey_soma(soma(str(copy)), LIMITS, datasets=None)
    assert caught.value.kind == "no-raw-counts"
