"""One suite for all stores: a folder, S3 and GCS look-alikes over HTTP, and the one in memory."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ingest.errors import ConfigError
from ingest.store import check_preconditions, open_store
from ingest.testing.memory_store import MemoryObjects, MemoryStore
from ingest.testing.store_conformance import StoreConformance
from ingest.testing.store_machine import store_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.store import Store
    from ingest.testing.servers import ObjectServer

_number = itertools.count()


@pytest.fixture(scope="session")
def s3_bucket(s3_server: ObjectServer) -> str:
    return s3_server.create_bucket("conformance")


@pytest.fixture(scope="session")
def gcs_bucket(gcs_server: ObjectServer) -> str:
    return gcs_server.create_bucket("conformance")


@pytest.fixture(autouse=True)
def aws_variables(s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


class TestFolder(StoreConformance):
    @pytest.fixture
    def open_again(self, tmp_path):
        return lambda: open_store(str(tmp_path / "not" / "made" / "yet"))


class TestFolderByUrl(StoreConformance):
    @pytest.fixture
    def open_again(self, tmp_path):
        return lambda: open_store((tmp_path / "a b").as_uri())


class TestS3(StoreConformance):
    @pytest.fixture
    def open_again(self, s3_bucket):
        url = f"{s3_bucket}/run {next(_number)}/dest"
        return lambda: open_store(url)


class TestGCS(StoreConformance):
    @pytest.fixture
    def open_again(self, gcs_bucket, gcs_server):
        url = f"{gcs_bucket}/run {next(_number)}/dest/"
        return lambda: open_store(url, endpoint_url=gcs_server.endpoint_url)


class TestMemory(StoreConformance):
    """What stands in for a store in other tests is one."""

    @pytest.fixture
    def open_again(self):
        objects = MemoryObjects()
        return lambda: MemoryStore(objects)


def test_two_prefixes_that_begin_alike_do_not_mix(s3_bucket, gcs_bucket, gcs_server, tmp_path):
    for base, endpoint in ((str(tmp_path), None), (s3_bucket, None), (gcs_bucket, gcs_server.endpoint_url)):
        one, two = (open_store(f"{base}/{name}", endpoint_url=endpoint) for name in ("twin", "twin2"))
        one.put_new("k", b"1")
        two.put_new("k", b"2")
        assert [stat.key for stat in one.list("")] == ["k"]
        assert (one.get("k"), two.get("k")) == (b"1", b"2")
        one.close()
        two.close()


def test_a_bucket_itself_is_a_store(s3_server, gcs_server):
    for server in (s3_server, gcs_server):
        store = open_store(server.create_bucket("whole"), endpoint_url=server.endpoint_url)
        stat = store.put_new("a/k", b"1")
        assert list(store.list("")) == [stat]
        store.close()


def test_a_store_that_ignores_preconditions_is_found_out(plain_gcs_server):
    store = open_store(plain_gcs_server.create_bucket("careless"), endpoint_url=plain_gcs_server.endpoint_url)
    store.put_new("plan.json", b"{}")
    with pytest.raises(ConfigError, match="ignores preconditions") as caught:
        check_preconditions(store, "plan.json", b"{}")
    assert caught.value.kind == "store-ignores-preconditions"
    assert "--single-driver" in (caught.value.hint or "")
    store.close()


def _run_machine(open_empty: Callable[[], Store], examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(store_machine(open_empty), settings=chosen)


def test_any_sequence_on_a_folder(tmp_path):
    _run_machine(lambda: open_store(str(tmp_path / str(next(_number)))), examples=40, steps=30)


def test_any_sequence_on_s3(s3_bucket):
    _run_machine(lambda: open_store(f"{s3_bucket}/machine/{next(_number)}"), examples=6, steps=20)


def test_any_sequence_on_gcs(gcs_bucket, gcs_server):
    endpoint = gcs_server.endpoint_url
    _run_machine(lambda: open_store(f"{gcs_bucket}/machine/{next(_number)}", endpoint_url=endpoint), 8, 20)
