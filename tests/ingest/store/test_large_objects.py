"""Objects that go up in parts, over a network that misbehaves: parts lost, repeated, damaged, given up."""

from __future__ import annotations

import itertools

import pytest

from ingest.errors import (
    AlreadyExistsError,
    CorruptError,
    PreconditionError,
    TransientError,
)
from ingest.store.action import Action
from ingest.store.body import FileBody
from ingest.store.gcs import GCSStore
from ingest.store.gcs_resumable import ResumableUpload
from ingest.store.url import parse_store_url
from ingest.testing.fault_proxy import Fault, FaultProxy
from ingest.testing.store_bench import DATA, LOGIN, QUICK, reads, writes

_number = itertools.count()


@pytest.mark.parametrize(
    "where", ["{}?upload_id=", "http://[::1?upload_id=", "ftp://x/y?upload_id=", "https:///?upload_id="]
)
def test_where_an_upload_goes_on_is_joined_and_never_told(gcs_server, where):
    url = gcs_server.create_bucket(f"uploads{next(_number)}")
    with FaultProxy(gcs_server.endpoint_url) as proxy:
        store = GCSStore(
            parse_store_url(url), endpoint_url=proxy.endpoint_url, budget=QUICK, single_post_bytes=1, part_bytes=1 << 18
        )
        location = where.format("/elsewhere") + "bearer-of-rights"
        proxy.faults.append(Fault("answer", writes, status=200, headers={"Location": location}, times=1))
        if where.startswith("{}"):
            proxy.faults.append(Fault("answer", lambda seen: "/elsewhere?upload_id=bearer" in seen.path, status=404))
            with pytest.raises(TransientError) as caught:
                store.put_new("k", DATA)
            assert caught.value.kind == "upload-gone"
        else:
            store.put_new("k", DATA)
            assert store.get("k") == DATA
            proxy.faults[0].times = 99
            with pytest.raises(TransientError) as caught:
                store.put_new("k2", DATA)
            assert caught.value.kind == "other-answer"
        assert "bearer" not in f"{caught.value} {caught.value.hint}"
        store.close()


@pytest.fixture
def large(bench):
    """Return a store that sends anything beyond 1 MB in parts, and 12 MB for it."""
    sizes = (
        {"single_put_bytes": 1_000_000, "part_bytes": 5 << 20}
        if bench.kind == "s3"
        else {"single_post_bytes": 1_000_000, "part_bytes": 4 << 20}
    )
    store = bench.open(**sizes)
    yield store, bytes(range(251)) * 48_000
    store.close()


def last_part(bench):
    if bench.kind == "s3":
        return lambda seen: seen.method == "POST" and "uploadId" in seen.path
    return lambda seen: seen.headers.get("content-range", "").startswith("bytes 8388608-")


def test_parts_make_one_object(bench, large):
    store, data = large
    stat = store.put_new("big", memoryview(data))
    assert store.stat("big") == stat
    assert bench.direct("big") == data
    with pytest.raises(AlreadyExistsError):
        store.put_new("big", data)
    new = store.replace("big", data[::-1], expected=stat.version)
    assert bench.direct("big") == data[::-1]
    with pytest.raises(PreconditionError):
        store.replace("big", data, expected=stat.version)
    assert store.stat("big") == new


def test_a_large_file_goes_up_in_parts_and_is_never_whole_in_memory(bench, large, tmp_path, monkeypatch):
    store, data = large
    path = tmp_path / "large"
    path.write_bytes(data)
    before = len(bench.proxy.seen)
    read, cut = [], FileBody.__getitem__
    monkeypatch.setattr(
        FileBody, "__getitem__", lambda self, span: read.append(span.stop - span.start) or cut(self, span)
    )
    stat = store.put_new_file("big", path)
    assert sum(seen.method == "PUT" for seen in bench.proxy.seen[before:]) == 3
    assert max(read) <= 5 << 20
    assert store.stat("big") == stat
    assert bench.direct("big") == data
    with pytest.raises(AlreadyExistsError):
        store.put_new_file("big", path)
    path.write_bytes(data[::-1])
    new = store.replace_file("big", path, expected=stat.version)
    assert bench.direct("big") == data[::-1]
    with pytest.raises(PreconditionError):
        store.replace_file("big", path, expected=stat.version)
    assert store.stat("big") == new


def test_a_large_file_outlives_lost_requests_and_replies(bench, large, tmp_path):
    store, data = large
    path = tmp_path / "large"
    path.write_bytes(data)

    def middle(seen):
        return "partNumber=2" in seen.path or seen.headers.get("content-range", "").startswith("bytes 4194304-")

    bench.fail("lose-request", middle)
    bench.fail("lose-reply", middle)
    stat = store.put_new_file("big", path)
    assert bench.direct("big") == data
    path.write_bytes(data[::-1])
    bench.fail("lose-reply", last_part(bench))
    store.replace_file("big", path, expected=stat.version)
    assert bench.direct("big") == data[::-1]


def test_parts_that_get_lost_or_damaged_are_sent_again(bench, large):
    store, data = large

    def middle(seen):
        return "partNumber=2" in seen.path or seen.headers.get("content-range", "").startswith("bytes 4194304-")

    bench.fail("lose-request", middle)
    bench.fail("lose-reply", middle)
    if bench.kind == "s3":
        bench.fail("flip-request", middle)
    store.put_new("big", data)
    assert bench.direct("big") == data


def test_pages_in_place_of_any_answer_to_a_large_object(bench, large):
    store, data = large
    for at in range(5):
        n_before, key = len(bench.proxy.seen), f"big{at}"
        bench.proxy.faults[:] = [
            Fault("answer", lambda _, last=n_before + at + 1: len(bench.proxy.seen) == last, status=200, body=LOGIN)
        ]
        store.put_new(key, data)
        assert bench.proxy.faults[0].times == 0 or at == 4, at
        assert bench.direct(key) == data


def upload_of(bench, answers):
    """Return a resumable upload of 10 bytes whose requests are answered so, the last answer again and again."""
    for number, (status, headers) in enumerate(answers, start=1):
        last = 99 if number == len(answers) else 1
        body = b"" if status != 200 else b'{"size": "10", "generation": "7"}'
        bench.fail("answer", status=status, body=body, times=last, headers=headers)
    bench.proxy.seen.clear()
    client = bench.store._client
    action = Action("objects.insert", "write", bench.url, "k", "nowhere")
    return ResumableUpload(client, action, f"{client.base}/session", memoryview(b"0123456789"), 4)


def sent(bench):
    return [seen.headers["content-range"] for seen in bench.proxy.seen]


@pytest.mark.parametrize("bench", ["gcs"], indirect=True)
def test_an_upload_that_has_all_bytes_and_is_no_object_yet_is_asked_after(bench):
    whole = (308, {"Range": "bytes=0-9"})
    upload = upload_of(bench, [(308, {"Range": "bytes=0-3"}), (503, {}), whole, whole, (200, {})])
    assert upload.run(bench.store._retrier)["generation"] == "7"
    assert sent(bench) == ["bytes 0-3/10", "bytes 4-7/10", "bytes */10", "bytes */10", "bytes */10"]


@pytest.mark.parametrize("bench", ["gcs"], indirect=True)
@pytest.mark.parametrize("answer", [(308, {"Range": "bytes=0-9"}), (308, {"Range": "bytes=0-99"}), (308, {})])
def test_an_upload_that_comes_to_no_end_is_given_up(bench, answer):
    with pytest.raises(TransientError) as caught:
        upload_of(bench, [answer]).run(bench.store._retrier)
    assert caught.value.kind == "store-busy"
    assert len(sent(bench)) <= 2 * QUICK.attempts
    assert not [span for span in sent(bench) if span.startswith("bytes 10-")]


@pytest.fixture
def ignorant(bench):
    """Return an S3 that knows nothing of checksums, and says so of none: old look-alikes are like that."""
    with FaultProxy(bench.server.endpoint_url, unheard=("x-amz-checksum", "x-amz-sdk", "x-amz-content")) as proxy:
        bench.proxy = proxy
        store = bench.open(single_put_bytes=1_000_000, part_bytes=5 << 20)
        yield store
        store.close()


@pytest.mark.parametrize("bench", ["s3"], indirect=True)
@pytest.mark.parametrize("size", [16_384, 6 << 20])
def test_what_a_store_says_no_checksum_of_is_read_back(bench, ignorant, tmp_path, size):
    data, path = (DATA * (size // len(DATA) + 1))[:size], tmp_path / "file"
    path.write_bytes(data)
    for key, put in (("bytes", ignorant.put_new), ("file", ignorant.put_new_file)):
        given = data if key == "bytes" else path
        bench.proxy.seen.clear()
        assert put(key, given).size == size
        assert any(map(reads, bench.proxy.seen))
        assert bench.direct(key) == data
        bench.fail("flip-request", lambda seen: seen.method == "PUT")
        with pytest.raises(CorruptError) as caught:
            put(f"{key}-damaged", given)
        assert caught.value.kind == "checksum-mismatch"


def test_parts_whose_checksum_the_store_says_are_not_read_again(bench, large):
    store, data = large
    bench.proxy.seen.clear()
    store.put_new("big", data)
    assert not any(map(reads, bench.proxy.seen))


def test_a_last_part_whose_reply_was_lost(bench, large):
    store, data = large
    bench.fail("lose-reply", last_part(bench))
    try:
        store.put_new("big", data)
    except AlreadyExistsError:
        assert bench.kind == "s3"
    assert bench.direct("big") == data


def test_a_replacement_in_parts_whose_last_reply_was_lost(bench, large):
    store, data = large
    old = store.put_new("big", data)
    bench.fail("lose-reply", last_part(bench))
    store.replace("big", data[::-1], expected=old.version)
    assert bench.direct("big") == data[::-1]


def test_somebody_creates_it_between_first_and_last_part(bench, large):
    store, data = large
    rival = bench.opened(parse_store_url(bench.url), endpoint_url=bench.server.endpoint_url, budget=QUICK)

    def cut_in(seen):
        if last_part(bench)(seen) and not list(rival.list("big")):
            rival.put_new("big", b"rival")
        return False

    bench.fail("lose-request", cut_in)
    with pytest.raises(AlreadyExistsError):
        store.put_new("big", data)
    assert rival.get("big") == b"rival"
    rival.close()


def test_an_upload_given_up_is_aborted(bench, large):
    if bench.kind != "s3":
        pytest.skip("a session of GCS ends by itself after a week and costs nothing")
    store, data = large
    bench.fail("lose-request", lambda seen: "partNumber=2" in seen.path, times=99)
    with pytest.raises(TransientError):
        store.put_new("big", data)
    assert bench.proxy.seen[-1].method == "DELETE"
    assert "uploadId" in bench.proxy.seen[-1].path


def test_an_abort_that_fails_too_hides_nothing_and_is_in_nobodys_way(bench, large):
    if bench.kind != "s3":
        pytest.skip("a session of GCS ends by itself after a week and costs nothing")
    store, data = large
    bench.fail("lose-request", lambda seen: "partNumber=2" in seen.path or seen.method == "DELETE", times=99)
    with pytest.raises(TransientError):
        store.put_new("big", data)
    assert bench.proxy.seen[-1].method == "DELETE"
    bench.proxy.faults.clear()
    assert list(store.list("big")) == []
    store.put_new("big", data)
    assert store.get("big") == data
