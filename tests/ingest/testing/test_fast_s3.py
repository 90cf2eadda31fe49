"""The look-alike that benchmarks measure against keeps S3's rules as far as our store and boto3 rely on them."""

from __future__ import annotations

import itertools
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from ingest.errors import AlreadyExistsError, PreconditionError
from ingest.store import open_store
from ingest.store.s3 import S3Store
from ingest.store.url import parse_store_url
from ingest.testing import servers
from ingest.testing.store_conformance import StoreConformance

_number = itertools.count()


@pytest.fixture(scope="module")
def server():
    with servers.fast_s3_server() as server:
        server.create_bucket("fast")
        yield server


@pytest.fixture(autouse=True)
def aws_variables(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def client():
    client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
    yield client
    client.close()


class TestFastS3(StoreConformance):
    @pytest.fixture
    def open_again(self):
        url = f"s3://fast/run {next(_number)}/dest"
        return lambda: open_store(url)


@pytest.fixture
def parts(server):
    """Open a store that sends what is larger than 100 bytes in parts."""
    where = parse_store_url(f"s3://fast/parts {next(_number)}/dest")
    store = S3Store(where, endpoint_url=server.endpoint_url, single_put_bytes=100, part_bytes=5 << 20)
    yield store
    store.close()


def _stats(server):
    with urllib.request.urlopen(f"{server.endpoint_url}/-/stats") as reply:  # noqa: S310  # our own address
        return json.load(reply)


def _reset(server, delay_ms=0):
    request = urllib.request.Request(  # noqa: S310  # our own address
        f"{server.endpoint_url}/-/reset?delay_ms={delay_ms}", method="POST"
    )
    urllib.request.urlopen(request).close()  # noqa: S310  # our own address


def test_wrong_checksums_are_refused(client):
    for wrong in ({"ChecksumSHA256": "A" * 43 + "="}, {"ChecksumCRC32": "AAAAAA=="}, {"ContentMD5": "A" * 22 + "=="}):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.put_object(Bucket="fast", Key="wrong", Body=b"bytes", **wrong)
        assert caught.value.response["Error"]["Code"] in ("XAmzContentChecksumMismatch", "BadDigest")
    with pytest.raises(botocore.exceptions.ClientError, match="404"):
        client.head_object(Bucket="fast", Key="wrong")


def test_boto3_transfers_files_in_one_part_and_in_several(client, tmp_path):
    for size in (10, 20_000_000):
        path = tmp_path / str(size)
        path.write_bytes(bytes(range(250)) * (size // 250 + 1))
        client.upload_file(str(path), "fast", f"file-{size}")
        client.download_file("fast", f"file-{size}", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_objects_in_parts_meet_the_same_conditions(parts):
    data = bytes(range(256)) * 40_000
    stat = parts.put_new("k", data)
    assert parts.get("k") == data
    with pytest.raises(AlreadyExistsError):
        parts.put_new("k", data)
    with pytest.raises(PreconditionError):
        parts.replace("k", data[1:], expected="another")
    parts.replace("k", data[1:], expected=stat.version)
    assert parts.get("k") == data[1:]


def test_requests_are_counted_by_kind_and_forgotten(server, client):
    _reset(server)
    client.put_object(Bucket="fast", Key="a", Body=b"12345")
    client.get_object(Bucket="fast", Key="a")["Body"].read()
    client.list_objects_v2(Bucket="fast")
    stats = _stats(server)
    assert stats["requests"] == {"GetObject": 1, "ListObjectsV2": 1, "PutObject": 1}
    assert (stats["bytes_in"], stats["objects"], stats["object_bytes"]) == (5, 1, 5)
    _reset(server)
    assert _stats(server)["requests"] == {}
    assert _stats(server)["objects"] == 0


def test_delayed_requests_wait_side_by_side(server):
    _reset(server, delay_ms=1_000)
    clients = [boto3.client("s3") for _ in range(8)]
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda client: client.head_bucket(Bucket="fast"), clients))
    took = time.monotonic() - start
    _reset(server)
    for client in clients:
        client.close()
    assert took >= 1
    assert took < 8  # one after the other would take this long on any machine


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_a_delimiter_lists_folders_once_whatever_the_pages(client, most):
    for name in ("a", "b/1", "b/2", "b/c/3", "d/4", "e"):
        client.put_object(Bucket="fast", Key=f"tree/{name}", Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket="fast", Prefix="tree/", Delimiter="/", PaginationConfig={"PageSize": most}
    )
    found = [
        entry
        for page in pages
        for entry in [
            *(one["Key"] for one in page.get("Contents", [])),
            *(one["Prefix"] for one in page.get("CommonPrefixes", [])),
        ]
    ]
    assert sorted(found) == ["tree/a", "tree/b/", "tree/d/", "tree/e"]
