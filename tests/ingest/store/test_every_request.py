"""Each request of each operation goes wrong once, in each way: parts of uploads, their ends, pages of listings too.

Afterwards the object is what it was or what it should become, and nothing else; who was told of an error was told so
in the project's own tree; and the same operation again has its way.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pyarrow as pa
import pytest

from ingest.errors import AlreadyExistsError, ConflictError, IngestError, NotFoundError, TransientError
from ingest.plan_index import IndexWriter, PlanIndex
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
    """A bucket behind a proxy, with a folder for every try: clients cost more than all that they do here."""

    def __init__(self, server, opened, proxy):
        self.proxy = proxy
        where = parse_store_url(f"{server.create_bucket('requests')}/{next(_number)}")
        sizes = (
            {"single_put_bytes": 1_000_000, "part_bytes": 5 << 20}
            if server.kind == "s3"
            else {"single_post_bytes": 1_000_000, "part_bytes": 4 << 20}
        )
        self.store = opened(where, endpoint_url=proxy.endpoint_url, budget=QUICK, **sizes)
        self.direct = opened(where, endpoint_url=server.endpoint_url, budget=QUICK)
        page = self.store._page
        self.store._page = lambda prefix, token, limit=1, **more: page(prefix, token, limit, **more)

    def begin(self, before):
        """Return a new folder with what is there before, and the version of ``k``."""
        folder = f"try-{next(_number)}/"
        versions = {key: self.direct.put_new(folder + key, data).version for key, data in before.items()}
        self.proxy.seen.clear()
        return folder, versions.get("k")

    def found(self, folder):
        return {stat.key.removeprefix(folder): self.direct.get(stat.key) for stat in self.direct.list(folder)}

    def strike(self, at, **fault):
        """Let one request from now go wrong."""
        self.proxy.faults[:] = [Fault(**fault, when=lambda _: len(self.proxy.seen) == at + 1)]

    def mend(self):
        """Return whether the cable was cut."""
        self.proxy.faults.clear()
        was_cut, self.proxy.is_cut = self.proxy.is_cut, False
        return was_cut


@pytest.fixture(scope="module", params=["s3", "gcs"])
def bucket(request, s3_server, gcs_server):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        server, opened = (s3_server, S3Store) if request.param == "s3" else (gcs_server, GCSStore)
        with FaultProxy(server.endpoint_url) as proxy:
            bucket = Bucket(server, opened, proxy)
            yield bucket
            bucket.store.close()
            bucket.direct.close()


def put(data):
    return lambda store, folder, _: store.put_new(f"{folder}k", data)


def replace(data):
    return lambda store, folder, version: store.replace(f"{folder}k", data, expected=version)


# name -> (what is there before, the operation, what is there after)
OPERATIONS = {
    "create": ({}, put(NEW), {"k": NEW}),
    "create in parts": ({}, put(LARGE), {"k": LARGE}),
    "replace": ({"k": OLD}, replace(NEW), {"k": NEW}),
    "replace in parts": ({"k": OLD}, replace(LARGE), {"k": LARGE}),
    "delete": ({"k": OLD}, lambda store, folder, version: store.delete(f"{folder}k", expected=version), {}),
    "get": ({"k": NEW}, lambda store, folder, _: store.get(f"{folder}k"), {"k": NEW}),
    "get a range": ({"k": NEW}, lambda store, folder, _: store.get_range(f"{folder}k", 7, 1000), {"k": NEW}),
    "stat": ({"k": NEW}, lambda store, folder, _: store.stat(f"{folder}k").size, {"k": NEW}),
    "list page by page": (
        {"k": OLD, "k2": OLD},
        lambda store, folder, _: [stat.key.removeprefix(folder) for stat in store.list(folder)],
        {"k": OLD, "k2": OLD},
    ),
}
FAULTS = {
    "lost request": {"effect": "lose-request"},
    "half a request": {"effect": "lose-middle"},
    "lost reply": {"effect": "lose-reply"},
    "half a reply": {"effect": "truncate-reply"},
    "503, seconds": {"effect": "answer", "status": 503, "headers": {"Retry-After": "0"}},
    "429, a date": {"effect": "answer", "status": 429, "headers": {"Retry-After": YESTERDAY}},
}


def requests_of(bucket, before, act):
    """Return how many requests an operation makes when nothing goes wrong, and what it returns."""
    folder, version = bucket.begin(before)
    result = act(bucket.store, folder, version)
    return len(bucket.proxy.seen), result


def named(names):
    """Parametrise by `names`; what costs a large object and adds little is left to the long run."""
    return [pytest.param(name, marks=[pytest.mark.long] if name == "replace in parts" else []) for name in names]


@pytest.mark.parametrize("operation", named(OPERATIONS))
def test_whatever_request_goes_wrong(bucket, operation):
    before, act, after = OPERATIONS[operation]
    n_requests, wanted = requests_of(bucket, before, act)
    assert n_requests >= {"create in parts": 3, "replace in parts": 3, "delete": 2, "list page by page": 2}.get(
        operation, 1
    )
    for at, (word, fault) in itertools.product(range(n_requests), FAULTS.items()):
        if "parts" in operation and "reply" not in word and "request" not in word:
            continue  # to be told to wait is no other than for a small object, and costs as much as a large one
        place = f"{word} at request {at}"
        folder, version = bucket.begin(before)
        bucket.strike(at, **fault)
        try:
            result = act(bucket.store, folder, version)
            assert not isinstance(wanted, bytes | list | int) or result == wanted, place
        except AlreadyExistsError:
            assert operation.startswith("create"), place
        finally:
            bucket.mend()
        assert bucket.found(folder) == after, place


@pytest.mark.parametrize("operation", named(name for name, (before, _, after) in OPERATIONS.items() if before != after))
def test_who_gives_up_leaves_the_old_or_the_new(bucket, operation):
    """The cable is cut at each request in turn, before it, within it and after it."""
    before, act, after = OPERATIONS[operation]
    n_requests, _ = requests_of(bucket, before, act)
    for at, effect in itertools.product(range(n_requests), ("lose-request", "lose-middle", "lose-reply")):
        place = f"{effect} at request {at}"
        folder, version = bucket.begin(before)
        bucket.strike(at, effect=effect, cuts=True)
        with suppress(TransientError):
            act(bucket.store, folder, version)
            # aiohttp repeats by itself what meets a connection that was kept too long: then there was one more before
            assert not bucket.proxy.is_cut, place
        was_cut, left = bucket.mend(), bucket.found(folder)
        assert left in (before, after), place
        assert left == before or effect != "lose-request" or not was_cut, place
        with suppress(ConflictError, NotFoundError):
            act(bucket.store, folder, version)
        assert bucket.found(folder) == after, place


@pytest.mark.parametrize("operation", ["create", "create in parts", "replace", "get"])
def test_flipped_bits_are_noticed_wherever_data_travel(bucket, operation):
    before, act, after = OPERATIONS[operation]
    effect = "flip-reply" if operation == "get" else "flip-request"
    n_requests, _ = requests_of(bucket, before, act)
    for at in range(n_requests):
        folder, version = bucket.begin(before)
        bucket.proxy.faults[:] = [
            Fault(effect, lambda seen, at=at: len(bucket.proxy.seen) == at + 1 and carries_data(seen))
        ]
        with suppress(IngestError):
            act(bucket.store, folder, version)
        bucket.mend()
        assert bucket.found(folder) in (before, after), at


def test_flipped_bits_are_noticed_in_ranges_of_the_plans_index(bucket, tmp_path):
    """Ranges carry no checksum of their own: what was written is known from the digests of its blocks."""
    table = pa.table({"source": pa.array(["a", "b"] * 50).dictionary_encode(), "row": range(100)})
    with IndexWriter(tmp_path / "index.feather") as writer:
        writer.add(table.to_batches()[0])

    def read(_store, folder, _version):
        return PlanIndex(bucket.store, f"{folder}k", 100, writer.blocks).rows(7, 90).to_pylist()

    before = {"k": writer.path.read_bytes()}
    n_requests, wanted = requests_of(bucket, before, read)
    assert wanted == table.to_pylist()[7:90]
    for at in range(n_requests):
        folder, _ = bucket.begin(before)
        bucket.proxy.faults[:] = [Fault("flip-reply", lambda _, at=at: len(bucket.proxy.seen) == at + 1)]
        assert read(bucket.store, folder, None) == wanted
        bucket.mend()


def carries_data(seen):
    return seen.method == "GET" or len(seen.body) > 1_000


def test_a_date_to_wait_for_is_waited_for(bucket, monkeypatch):
    folder, _ = bucket.begin({"k": NEW})
    slept = []
    monkeypatch.setattr(bucket.store._retrier, "_sleep", slept.append)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=15), usegmt=True)
    bucket.strike(0, effect="answer", status=503, headers={"Retry-After": later})
    assert bucket.store.get(f"{folder}k") == NEW
    assert 1.0 <= slept[0] <= 16.0
    bucket.mend()
    bucket.store._retrier._resume_at = 0.0
