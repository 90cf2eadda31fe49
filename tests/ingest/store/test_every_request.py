"""Each request of each operation goes wrong once, in each way: parts of uploads, their ends, pages of listings too.

Afterwards the object is what it was or what it should become, and nothing else; who was told of an error was told so
in the project's own tree; and the same operation again has its way.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ingest.errors import AlreadyExistsError, ConflictError, IngestError, NotFoundError, TransientError
from ingest.store import Budget
from ingest.store.gcs import GCSStore
from ingest.store.s3 import S3Store
from ingest.store.url import parse_store_url
from ingest.testing.fault_proxy import Fault, FaultProxy

_number = itertools.count()
QUICK = Budget(attempts=3, total_s=20.0, first_s=0.01, most_s=0.02)
OLD, NEW = b"old" * 100, bytes(range(256)) * 64
LARGE = bytes(range(251)) * 21_000
"""Two parts: S3 takes none below 5 MiB but for the last."""
YESTERDAY = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)


class Bucket:
    """A place of its own for every try, behind a proxy."""

    def __init__(self, server, opened, proxy):
        self.server, self.opened, self.proxy = server, opened, proxy
        self.url = server.create_bucket("requests")
        self.sizes = (
            {"single_put_bytes": 1_000_000, "part_bytes": 5 << 20}
            if server.kind == "s3"
            else {"single_post_bytes": 1_000_000, "part_bytes": 4 << 20}
        )

    def open(self, name, *, direct=False):
        endpoint = (self.server if direct else self.proxy).endpoint_url
        return self.opened(parse_store_url(f"{self.url}/{name}"), endpoint_url=endpoint, budget=QUICK, **self.sizes)


@pytest.fixture(params=["s3", "gcs"])
def bucket(request, s3_server, gcs_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    server, opened = (s3_server, S3Store) if request.param == "s3" else (gcs_server, GCSStore)
    with FaultProxy(server.endpoint_url) as proxy:
        yield Bucket(server, opened, proxy)


def put(data):
    return lambda store, _: store.put_new("k", data)


def replace(data):
    return lambda store, version: store.replace("k", data, expected=version)


def list_by_pages(store, _):
    page = store._page
    store._page = lambda prefix, token, limit=1: page(prefix, token, limit)
    return [stat.key for stat in store.list("")]


# name -> (what is there before, the operation, what is there after)
OPERATIONS = {
    "create": ({}, put(NEW), {"k": NEW}),
    "create in parts": ({}, put(LARGE), {"k": LARGE}),
    "replace": ({"k": OLD}, replace(NEW), {"k": NEW}),
    "replace in parts": ({"k": OLD}, replace(LARGE), {"k": LARGE}),
    "delete": ({"k": OLD}, lambda store, version: store.delete("k", expected=version), {}),
    "get": ({"k": NEW}, lambda store, _: store.get("k"), {"k": NEW}),
    "get a range": ({"k": NEW}, lambda store, _: store.get_range("k", 7, 1000), {"k": NEW}),
    "stat": ({"k": NEW}, lambda store, _: store.stat("k").size, {"k": NEW}),
    "list": ({"k": OLD, "k2": OLD}, list_by_pages, {"k": OLD, "k2": OLD}),
}
FAULTS = {
    "lost request": {"effect": "lose-request"},
    "half a request": {"effect": "lose-middle"},
    "lost reply": {"effect": "lose-reply"},
    "half a reply": {"effect": "truncate-reply"},
    "503, seconds": {"effect": "answer", "status": 503, "headers": {"Retry-After": "0"}},
    "429, a date": {"effect": "answer", "status": 429, "headers": {"Retry-After": YESTERDAY}},
}


def found(bucket, name):
    store = bucket.open(name, direct=True)
    try:
        return {stat.key: store.get(stat.key) for stat in store.list("")}
    finally:
        store.close()


def begin(bucket, before):
    """Return a new place with what is there before, and the version of ``k``."""
    name = f"try-{next(_number)}"
    store = bucket.open(name, direct=True)
    versions = {key: store.put_new(key, data).version for key, data in before.items()}
    store.close()
    return name, versions.get("k")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_request_goes_wrong(bucket, operation):
    before, act, after = OPERATIONS[operation]
    name, version = begin(bucket, before)
    store = bucket.open(name)
    bucket.proxy.seen.clear()
    wanted = act(store, version)
    n_requests = len(bucket.proxy.seen)
    assert found(bucket, name) == after
    assert n_requests >= {"create in parts": 3, "replace in parts": 3, "delete": 2, "list": 2}.get(operation, 1)
    store.close()
    for at, (word, fault) in itertools.product(range(n_requests), FAULTS.items()):
        if "parts" in operation and "reply" not in word and "request" not in word:
            continue  # to be told to wait is no other than for a small object, and costs as much as a large one
        place = f"{word} at request {at}"
        name, version = begin(bucket, before)
        store = bucket.open(name)
        bucket.proxy.seen.clear()
        bucket.proxy.faults[:] = [Fault(**fault, when=lambda _, at=at: len(bucket.proxy.seen) == at + 1)]
        try:
            result = act(store, version)
            assert not isinstance(wanted, bytes | list | int) or result == wanted, place
        except AlreadyExistsError:
            assert operation.startswith("create"), place
        bucket.proxy.faults.clear()
        assert found(bucket, name) == after, place
        store.close()


@pytest.mark.parametrize("operation", [name for name, (before, _, after) in OPERATIONS.items() if before != after])
def test_who_gives_up_leaves_the_old_or_the_new(bucket, operation):
    """The cable is cut at each request in turn, before it, within it and after it."""
    before, act, after = OPERATIONS[operation]
    name, version = begin(bucket, before)
    store = bucket.open(name)
    bucket.proxy.seen.clear()
    act(store, version)
    n_requests = len(bucket.proxy.seen)
    store.close()
    for at, effect in itertools.product(range(n_requests), ("lose-request", "lose-middle", "lose-reply")):
        place = f"{effect} at request {at}"
        name, version = begin(bucket, before)
        store = bucket.open(name)
        bucket.proxy.seen.clear()
        bucket.proxy.faults[:] = [Fault(effect, lambda _, at=at: len(bucket.proxy.seen) == at + 1, cuts=True)]
        with suppress(TransientError):
            act(store, version)
            # aiohttp repeats by itself what meets a connection that was kept too long: then there was one more before
            assert not bucket.proxy.is_cut, place
        struck, bucket.proxy.is_cut = bucket.proxy.is_cut, False
        bucket.proxy.faults.clear()
        left = found(bucket, name)
        assert left in (before, after), place
        assert left == before or effect == "lose-reply" or not struck, place
        with suppress(ConflictError, NotFoundError):
            act(store, version)
        assert found(bucket, name) == after, place
        store.close()


@pytest.mark.parametrize("operation", ["create", "create in parts", "replace", "get"])
def test_flipped_bits_are_noticed_wherever_data_travel(bucket, operation):
    before, act, after = OPERATIONS[operation]
    effect = "flip-reply" if operation == "get" else "flip-request"
    for at in range(6):
        name, version = begin(bucket, before)
        store = bucket.open(name)
        bucket.proxy.seen.clear()
        bucket.proxy.faults[:] = [
            Fault(effect, lambda seen, at=at: len(bucket.proxy.seen) == at + 1 and carries_data(seen))
        ]
        with suppress(IngestError):
            act(store, version)
        bucket.proxy.faults.clear()
        assert found(bucket, name) in (before, after), at
        store.close()


def carries_data(seen):
    return seen.method == "GET" or len(seen.body) > 1_000


def test_a_date_to_wait_for_is_waited_for(bucket, monkeypatch):
    name, _ = begin(bucket, {"k": NEW})
    store, slept = bucket.open(name), []
    monkeypatch.setattr(store._retrier, "_sleep", slept.append)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=15), usegmt=True)
    bucket.proxy.faults.append(Fault("answer", status=503, headers={"Retry-After": later}))
    assert store.get("k") == NEW
    assert 5.0 <= slept[0] <= 16.0
    store.close()
