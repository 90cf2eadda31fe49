"""Files over HTTP, S3 and GCS: the same rows, few requests, and every fault of a server in the project's own words."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys

import fsspec
import numpy as np
import pytest
from gcsfs.retry import validate_response
from scipy import sparse

from ingest.errors import (
    ConfigError,
    CredentialsError,
    HostileFileError,
    SourceChangedError,
    SourceError,
    TransientError,
)
from ingest.fetch import h5ad_remote
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.h5ad import H5adFetcher
from ingest.fetch.h5ad_open import file_version, open_h5ad
from ingest.fetch.h5ad_remote import remote_error
from ingest.retry import Budget
from ingest.source import Source
from ingest.survey.h5ad import survey_h5ad
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.range_server import range_server

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BUDGET", Budget(attempts=4, first_s=0.001))
    with range_server() as server:
        yield server


@pytest.fixture(scope="module")
def matrix():
    return sample_counts(300, 200, density=0.3)


@pytest.fixture(scope="module")
def content(matrix, tmp_path_factory):
    path = write_h5ad_variant(tmp_path_factory.mktemp("remote") / "a.h5ad", matrix, compression="gzip")
    return path.read_bytes()


@contextlib.contextmanager
def fetching(url, tmp_path):
    survey = survey_h5ad(Source.parse(url))
    fetcher = H5adFetcher(survey, survey.genes, FetchOptions(), FetchLimits(1 << 22, 1, tmp_path))
    try:
        yield fetcher, survey
    finally:
        fetcher.close()


def assert_all_rows(fetcher, matrix):
    rows = np.random.default_rng(0).permutation(matrix.shape[0])
    fetched = fetcher.read(rows)
    counts = fetched.counts
    got = sparse.csr_matrix((counts.data, counts.indices, counts.indptr), (len(rows), counts.n_genes))
    assert (got != matrix[rows]).nnz == 0
    return fetched


def test_http_gives_the_rows_pinned_by_etag(server, content, matrix, tmp_path):
    url = server.put("a.h5ad", content, "abc")
    assert file_version(url) == "abc"
    with fetching(url, tmp_path) as (fetcher, survey):
        assert survey.source == Source("h5ad", url, "abc")
        assert_all_rows(fetcher, matrix)


def test_without_an_etag_the_length_is_the_version(server, content):
    assert file_version(server.put("a.h5ad", content)) == str(len(content))


def test_blocks_are_fetched_once_and_neighbours_together(server, tmp_path, monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BLOCK_BYTES", 4096)
    path = write_h5ad_variant(tmp_path / "big.h5ad", sample_counts(3000, 100, density=0.4))
    url = server.put("big.h5ad", path.read_bytes(), "abc")
    with open_h5ad(url) as file:
        server.ranges.clear()
        before = file.bytes_read
        values = file.dataset("X/data")[:]
        assert file.bytes_read - before > values.nbytes * 0.9  # some blocks came with the headers
        assert len(server.ranges) <= values.nbytes // (8 * 4096) + 4
        assert all(start % 4096 == 0 for start, _ in server.ranges)
        server.ranges.clear()
        file.dataset("X/data")[-100:]
        assert not server.ranges


def test_bytes_read_are_those_that_came_over_the_wire(server, content, matrix, tmp_path):
    url = server.put("a.h5ad", content, "abc")
    with fetching(url, tmp_path) as (fetcher, _):
        server.ranges.clear()
        assert assert_all_rows(fetcher, matrix).bytes_read >= sum(stop - start for start, stop in server.ranges)
        assert fetcher.read(np.arange(3)).bytes_read == 0  # all in the cache


@pytest.mark.parametrize("fault", [503, 500, 429, "cut"])
def test_a_passing_fault_is_retried_and_a_lasting_one_is_transient(server, content, matrix, tmp_path, fault):
    url = server.put("a.h5ad", content, "abc")
    server.faults = [fault, fault]
    with fetching(url, tmp_path) as (fetcher, _):
        assert_all_rows(fetcher, matrix)
    server.faults = [fault] * 1000
    with pytest.raises(TransientError) as caught:
        open_h5ad(url)
    assert caught.value.source == url


def test_a_server_that_dies_in_the_middle_is_transient(server, matrix, tmp_path, monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BLOCK_BYTES", 8192)
    monkeypatch.setattr(h5ad_remote, "_HEAD_BYTES", 0)  # or the file would be in memory already
    monkeypatch.setattr(h5ad_remote, "_TAIL_BYTES", 0)
    path = write_h5ad_variant(tmp_path / "a.h5ad", matrix)
    url = server.put("a.h5ad", path.read_bytes(), "abc")
    with fetching(url, tmp_path) as (fetcher, _):
        server.faults = [503] * 1000
        with pytest.raises(TransientError):
            fetcher.read(np.arange(300))
        server.faults = []
        assert_all_rows(fetcher, matrix)


def test_what_people_must_mend_is_said(server, content):
    url = server.put("a.h5ad", content, "abc")
    with pytest.raises(SourceError) as caught:
        open_h5ad(f"{url}.gone")
    assert caught.value.kind == "no-such-file"
    with pytest.raises(SourceChangedError) as caught:
        open_h5ad(f"{url}.gone#version=abc")
    assert caught.value.kind == "source-gone"
    with pytest.raises(ConfigError) as caught:
        file_version("ftp://host/a.h5ad")
    assert caught.value.kind == "unknown-scheme"
    server.faults = [403] * 10
    with pytest.raises(CredentialsError):
        open_h5ad(url)


def test_a_bucket_of_google_that_refuses_is_no_trouble_that_passes():
    with pytest.raises(OSError, match="Forbidden") as raised:
        validate_response(403, b'{"error": {"message": "no storage.objects.get access"}}', "b/a.h5ad")
    error = remote_error("gs://b/a.h5ad", raised.value)
    assert isinstance(error, CredentialsError)
    assert "no permission to read" in error.message
    assert isinstance(remote_error("gs://b/a.h5ad", OSError("cut off")), TransientError)


def test_a_server_without_ranges_is_refused_and_not_downloaded(server, content, monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BLOCK_BYTES", 4096)
    server.serves_ranges = False
    url = server.put("a.h5ad", content + bytes(8 << 20), "abc")
    with pytest.raises(SourceError) as caught:
        open_h5ad(url)
    assert caught.value.kind == "no-ranges"


def test_another_version_is_refused_at_open_and_after_a_read(server, content, tmp_path):
    url = server.put("a.h5ad", content, "abc")
    with fetching(url, tmp_path) as (fetcher, survey):
        server.put("a.h5ad", content, "xyz")
        with pytest.raises(SourceChangedError):
            fetcher.read(np.arange(3))
    with pytest.raises(SourceChangedError, match="was version abc, now it is xyz"):
        open_h5ad(survey.source)


def test_damaged_content_is_refused_over_the_network_too(server, content):
    for data, kind in ((content[: len(content) // 2], "truncated"), (b"<html>", "not-hdf5"), (b"", "no-ranges")):
        with pytest.raises(SourceError) as caught:
            open_h5ad(server.put("bad.h5ad", data, "abc"))
        assert caught.value.kind in (kind, "not-hdf5"), kind
    assert isinstance(caught.value, HostileFileError | SourceError)


@pytest.mark.parametrize("store", ["s3_server", "gcs_server"])
def test_object_stores_give_the_rows_and_notice_a_replacement(store, content, matrix, tmp_path, request, monkeypatch):
    server = request.getfixturevalue(store)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"{server.create_bucket('h5ad-remote')}/deep/a.h5ad"
    filesystem = h5ad_remote.remote_filesystem(url)
    filesystem.pipe_file(url, content)
    with fetching(url, tmp_path) as (fetcher, survey):
        assert survey.source.version == file_version(url)
        assert_all_rows(fetcher, matrix)
        filesystem.pipe_file(url, content + b"x")
        with pytest.raises(SourceChangedError):
            fetcher.read(np.arange(3))
    with pytest.raises(SourceChangedError):
        open_h5ad(survey.source)
    filesystem.rm_file(url)
    with pytest.raises(SourceChangedError) as caught:
        open_h5ad(survey.source)
    assert caught.value.kind == "source-gone"
    with pytest.raises(SourceError) as caught:
        open_h5ad(url)
    assert caught.value.kind == "no-such-file"


def test_s3_is_read_anonymously_only_without_credentials(monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    assert h5ad_remote.remote_filesystem("s3://bucket/a.h5ad").anon
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    assert not h5ad_remote.remote_filesystem("s3://bucket/a.h5ad").anon


def test_a_bucket_that_bills_its_readers_says_which_variable_to_set():
    error = remote_error("gs://b/a.h5ad", ValueError("Bucket is requester pays. Set `requester_pays=True`"))
    assert isinstance(error, CredentialsError)
    assert error.kind == "requester-pays"
    assert "CELL_INGEST_BILLING_PROJECT" in str(error.hint)


def test_the_collector_rests_during_requests_and_wakes_after_nested_ones():
    pause = h5ad_remote._collector_pause
    assert gc.isenabled()
    with pause:
        with pause:
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with pause:
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_process_that_ends_with_a_remote_file_open_ends_well(server, content):
    url = server.put("a.h5ad", content, "abc")
    code = f"from ingest.fetch.h5ad_open import open_h5ad; kept = open_h5ad({url!r}); kept.dataset('X/data')[:3]"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0


def test_listings_that_others_cached_do_not_hide_a_new_version(server, content):
    url = server.put("a.h5ad", content, "abc")
    fsspec.filesystem("http").info(url)
    server.put("a.h5ad", content, "xyz")
    assert file_version(url) == "xyz"
