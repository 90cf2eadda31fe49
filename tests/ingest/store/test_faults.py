"""Real clients, real HTTP, and a network that misbehaves: what S3 and GCS stores make of it."""

from __future__ import annotations

import itertools

import pytest

from ingest.errors import (
    AlreadyExistsError,
    ConfigError,
    CorruptError,
    CredentialsError,
    NotFoundError,
    PreconditionError,
    TransientError,
)
from ingest.testing.fault_proxy import Fault
from ingest.testing.store_bench import DATA, LOGIN, QUICK, reads, writes

# replies that are lost


def test_a_request_that_is_lost_is_sent_again(bench):
    bench.fail("lose-request", writes, times=2)
    bench.store.put_new("k", DATA)
    assert bench.direct("k") == DATA
    assert bench.store.retries >= 2


def test_a_creation_whose_reply_was_lost_says_already_exists(bench):
    bench.fail("lose-reply", writes)
    with pytest.raises(AlreadyExistsError):
        bench.store.put_new("k", DATA)
    assert bench.store.get("k") == DATA


def test_a_replacement_whose_reply_was_lost_is_recognised(bench):
    old = bench.store.put_new("k", b"old")
    bench.fail("lose-reply", writes)
    new = bench.store.replace("k", DATA, expected=old.version)
    assert (new.size, bench.direct("k")) == (len(DATA), DATA)
    assert bench.store.stat("k") == new


def test_a_lost_request_does_not_hide_somebody_elses_replacement(bench):
    old = bench.store.put_new("k", b"old")
    other = bench.store.replace("k", b"theirs", expected=old.version)
    bench.fail("lose-request", writes)
    with pytest.raises(PreconditionError):
        bench.store.replace("k", DATA, expected=old.version)
    assert bench.store.stat("k") == other


def test_a_deletion_whose_reply_was_lost_is_recognised(bench):
    stat = bench.store.put_new("k", DATA)
    bench.fail("lose-reply", lambda seen: seen.method == "DELETE")
    bench.store.delete("k", expected=stat.version)
    with pytest.raises(NotFoundError):
        bench.store.stat("k")


def test_a_store_that_never_answers_is_a_transient_failure(bench):
    bench.fail("lose-request", times=99)
    with pytest.raises(TransientError) as caught:
        bench.store.get("k")
    assert caught.value.kind == "unreachable"
    assert bench.store.retries == QUICK.attempts - 1


# busy stores


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_store_is_tried_again(bench, status):
    bench.answer(status, "SlowDown" if status == 503 else "", times=2)
    bench.store.put_new("k", DATA)
    assert bench.direct("k") == DATA
    assert bench.store.retries == 2


def test_a_store_that_stays_busy_says_how_long(bench):
    bench.answer(503, "SlowDown", times=99, **{"Retry-After": "3600"})
    with pytest.raises(TransientError) as caught:
        bench.store.put_new("k", DATA)
    assert (caught.value.kind, caught.value.retry_after_s) == ("throttled", 3600.0)
    assert bench.store.retries == 0


def test_retry_after_delays_the_next_try(bench, monkeypatch):
    slept = []
    monkeypatch.setattr(bench.store._retrier, "_sleep", slept.append)
    bench.answer(429, "", **{"Retry-After": "5"})
    bench.store.put_new("k", DATA)
    assert slept[0] >= 5.0


def test_a_conflict_of_simultaneous_writes_is_tried_again(bench):
    if bench.kind != "s3":
        pytest.skip("409 ConditionalRequestConflict is S3's")
    bench.answer(409, "ConditionalRequestConflict")
    bench.store.put_new("k", DATA)
    assert bench.direct("k") == DATA


# damage


def test_an_upload_damaged_once_is_sent_again(bench):
    # Past the head of a multipart body, into the object's bytes.
    bench.fail("flip-request", writes)
    bench.store.put_new("k", DATA)
    assert bench.direct("k") == DATA


def test_an_upload_damaged_every_time_creates_nothing(bench):
    bench.fail("flip-request", writes, times=99)
    with pytest.raises(CorruptError) as caught:
        bench.store.put_new("k", DATA)
    assert caught.value.kind == "checksum-mismatch"
    with pytest.raises(NotFoundError):
        bench.store.stat("k")


def test_a_read_damaged_once_is_read_again(bench):
    bench.store.put_new("k", DATA)
    bench.fail("flip-reply", reads)
    assert bench.store.get("k") == DATA
    assert bench.store.retries == 1


def test_a_read_damaged_every_time_is_never_delivered(bench):
    bench.store.put_new("k", DATA)
    bench.fail("flip-reply", reads, times=99)
    with pytest.raises(CorruptError) as caught:
        bench.store.get("k")
    assert caught.value.kind == "checksum-mismatch"


@pytest.mark.parametrize("read", [lambda store: store.get("k"), lambda store: store.get_range("k", 0, len(DATA))])
def test_a_truncated_answer_is_read_again(bench, read):
    bench.store.put_new("k", DATA)
    bench.fail("truncate-reply", reads, times=2)
    assert read(bench.store) == DATA
    assert bench.store.retries == 2


def test_a_store_that_always_truncates_is_transient(bench):
    bench.store.put_new("k", DATA)
    bench.fail("truncate-reply", reads, times=99)
    with pytest.raises(TransientError) as caught:
        bench.store.get("k")
    assert caught.value.kind == "truncated"


def test_every_write_carries_condition_and_checksum(bench):
    old = bench.store.put_new("k", DATA)
    bench.store.replace("k", b"new", expected=old.version)
    for seen, s3_condition, generation in zip(
        filter(writes, bench.proxy.seen), ["if-none-match", "if-match"], ["0", old.version], strict=True
    ):
        if bench.kind == "s3":
            assert s3_condition in seen.headers
            assert "x-amz-checksum-sha256" in seen.headers
        else:
            assert f"ifGenerationMatch={generation}" in seen.path
            assert b'"crc32c": "' in seen.body


def test_a_listing_that_breaks_between_pages_goes_on(bench):
    for i in range(3):
        bench.store.put_new(f"k{i}", b"")
    page = bench.store._page
    bench.store._page = lambda prefix, token, limit=1, **more: page(prefix, token, limit, **more)
    bench.fail("lose-reply", lambda seen: "oken=" in seen.path, times=2)
    assert [stat.key for stat in bench.store.list("")] == ["k0", "k1", "k2"]
    assert bench.store.retries >= 1  # aiohttp itself sends a GET again on a connection that was kept too long


def test_a_listing_after_a_key_asks_for_no_more(bench):
    for i in range(4):
        bench.store.put_new(f"k{i}", b"")
    page, pages = bench.store._page, []

    def keep(prefix, token, limit=2, **more):
        pages.append(page(prefix, token, limit, **more))
        return pages[-1]

    bench.store._page = keep
    assert [stat.key for stat in bench.store.list("k", after="k2")] == ["k3"]
    assert len(pages) == 1
    asked = next(seen.path for seen in reversed(bench.proxy.seen) if "prefix=" in seen.path)
    assert "start-after=dest%2Fk2" in asked or "startOffset=dest%2Fk2" in asked


# answers that are not the store's

OTHERS = {
    "a page": LOGIN,
    "a broken page": b"<html><p>Welcome<br>",
    "nothing": b"",
    "a list": b"[]",
    "an object": b"{}",
    "an error in JSON": b'{"error": "please log in"}',
    "a deep one": b"[" * 100_000,
    "half a listing": b'{"kind": "storage#objects", "items": [{"name": "dest/k"}]}',
    "half a listing in XML": b"<L><IsTruncated>false</IsTruncated><Contents><Key>dest/k</Key></Contents></L>",
    "a listing that goes on nowhere": b"<L><IsTruncated>true</IsTruncated></L>",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_listing_is_not_taken_for_an_empty_one(bench, name):
    bench.store.put_new("k", DATA)
    bench.fail("answer", reads, status=200, body=OTHERS[name], times=99)
    with pytest.raises(TransientError) as caught:
        list(bench.store.list(""))
    assert caught.value.kind in ("other-answer", "store-busy")  # botocore itself makes a 500 of a 200 that is no XML
    assert bench.store.retries == QUICK.attempts - 1
    assert "\n" not in str(caught.value)
    bench.proxy.faults[:] = [Fault("answer", reads, status=200, body=OTHERS[name])]
    assert [stat.key for stat in bench.store.list("")] == ["k"]


def test_a_listing_by_somebody_else_is_told_so(bench):
    bench.fail("answer", reads, status=203, body=OTHERS["a broken page"], times=99)
    with pytest.raises(TransientError, match=r"not .*the store") as caught:
        list(bench.store.list(""))
    assert (caught.value.kind, bool(caught.value.hint)) == ("other-answer", True)


def test_an_empty_listing_is_one(bench):
    assert list(bench.store.list("")) == list(bench.store.list("nothing/")) == []


def test_what_is_no_description_is_asked_for_again(bench):
    written = bench.store.put_new("k", DATA)
    bench.fail("answer", status=200, body=LOGIN, times=2)
    assert bench.store.stat("k") == written
    bench.fail("answer", status=200, body=LOGIN, times=99)
    with pytest.raises(TransientError) as caught:
        bench.store.stat("k")
    assert caught.value.kind == "other-answer"


def test_a_write_that_a_page_answers_is_no_success(bench):
    bench.fail("answer", writes, status=200, body=LOGIN)
    bench.store.put_new("k", DATA)
    assert bench.direct("k") == DATA
    bench.fail("answer", writes, status=200, body=LOGIN, times=99)
    with pytest.raises(TransientError) as caught:
        bench.store.put_new("k2", DATA)
    assert caught.value.kind == "other-answer"


@pytest.mark.parametrize("read", [lambda store: store.get("k"), lambda store: store.get_range("k", 5, len(LOGIN))])
def test_a_page_is_not_taken_for_an_object_or_a_part_of_it(bench, read):
    bench.store.put_new("k", DATA)
    bench.fail("answer", reads, status=200, body=LOGIN)
    assert read(bench.store) in (DATA, DATA[5 : 5 + len(LOGIN)])
    bench.fail("answer", reads, status=200, body=LOGIN, times=99)
    with pytest.raises(TransientError) as caught:
        read(bench.store)
    assert caught.value.kind == "other-answer"


def test_being_sent_elsewhere_is_no_refusal(bench):
    bench.store.put_new("k", DATA)
    bench.fail("answer", reads, status=302, body=LOGIN, headers={"Location": "https://airport.example/login"})
    assert bench.store.get("k") == DATA


@pytest.mark.parametrize("said", ["bytes 100-199/16384", None])
def test_another_range_of_the_same_length_is_not_believed(bench, said):
    bench.store.put_new("k", DATA)
    headers = {"ETag": '"an etag"', **({} if said is None else {"Content-Range": said})}
    bench.fail("answer", reads, status=206, body=DATA[100:200], headers=headers)
    assert bench.store.get_range("k", 0, 100) == DATA[:100]
    bench.fail("answer", reads, status=206, body=DATA[100:200], headers=headers, times=99)
    with pytest.raises(TransientError) as caught:
        bench.store.get_range("k", 0, 100)
    assert caught.value.kind == "other-answer"


@pytest.mark.parametrize("read", [lambda store: store.get("k"), lambda store: store.get_range("k", 0, len(DATA))])
def test_an_answer_of_unknown_length_is_no_error_of_this_program(bench, read):
    bench.store.put_new("k", DATA)
    bench.fail("measure-no-reply", reads)
    assert read(bench.store) == DATA


def test_a_listing_that_goes_round_in_circles_comes_to_an_end(bench):
    for i in range(3):
        bench.store.put_new(f"k{i}", b"")
    page = bench.store._page
    tokens = itertools.cycle(["one", "other"])

    def again(prefix, _, limit=1000, **more):
        return page(prefix, None if bench.kind == "s3" else "", limit, **more) | {
            ("NextContinuationToken" if bench.kind == "s3" else "nextPageToken"): next(tokens)
        }

    bench.store._page = again
    with pytest.raises(TransientError, match="round in circles") as caught:
        list(bench.store.list(""))
    assert (caught.value.kind, bool(caught.value.hint)) == ("other-answer", True)


# refusals that a person must mend


def test_no_permission_says_for_what_and_whose_credentials(bench):
    bench.answer(403, "AccessDenied" if bench.kind == "s3" else "forbidden")
    with pytest.raises(CredentialsError, match=r"no write permission on .*/dest \(403 on .*credentials came from") as e:
        bench.store.put_new("k", DATA)
    assert (e.value.kind, e.value.exit_code, bench.store.retries) == ("permission", 2, 0)
    assert e.value.hint


def test_no_permission_to_overwrite_says_so_and_what(bench, tmp_path):
    stat = bench.store.put_new("config.json", DATA)
    (tmp_path / "body").write_bytes(b"other")
    for replace in (
        lambda: bench.store.replace("config.json", b"other", expected=stat.version),
        lambda: bench.store.replace_file("config.json", tmp_path / "body", expected=stat.version),
    ):
        bench.answer(403, "AccessDenied" if bench.kind == "s3" else "forbidden")
        with pytest.raises(CredentialsError, match=r"no permission to replace .*/dest/config.json.*\(403 on") as e:
            replace()
        assert (e.value.kind, e.value.exit_code, e.value.key) == ("permission", 2, "config.json")
        assert "overwrite" in e.value.hint
        assert "needs" not in e.value.hint, "it has what a writer needs"
    assert bench.direct("config.json") == DATA


def test_expired_credentials_are_fetched_afresh_once(bench):
    status, code = (400, "ExpiredToken") if bench.kind == "s3" else (401, "authError")
    bench.answer(status, code)
    bench.store.put_new("k", DATA)
    assert bench.direct("k") == DATA
    bench.answer(status, code, times=2)
    with pytest.raises(CredentialsError) as caught:
        bench.store.get("k")
    assert caught.value.kind == "credentials-expired"


def test_expired_credentials_of_which_nothing_but_a_status_is_said_are_fetched_afresh_once(bench):
    # To a HEAD S3 answers nothing else, and botocore asks for the bucket's region before it gives up.
    method, status, times = ("HEAD", 400, 2) if bench.kind == "s3" else ("GET", 401, 1)
    stat = bench.store.put_new("k", DATA)
    bench.fail("answer", lambda seen: seen.method == method, status=status, times=times)
    assert bench.store.stat("k") == stat
    bench.fail("answer", lambda seen: seen.method == method, status=status, times=99)
    with pytest.raises(CredentialsError, match="came from") as caught:
        bench.store.stat("k")
    assert caught.value.kind == "credentials-expired"
    assert caught.value.hint


def test_unknown_credentials(bench):
    if bench.kind != "s3":
        pytest.skip("GCS answers 401 for all of them")
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        bench.answer(403, code)
        with pytest.raises(CredentialsError, match=code):
            bench.store.get("k")


def test_a_rate_limit_in_a_403_is_no_missing_permission(bench):
    if bench.kind != "gcs":
        pytest.skip("GCS only")
    bench.answer(403, "rateLimitExceeded")
    bench.store.put_new("k", DATA)
    assert bench.store.retries == 1


def test_a_bucket_that_vanishes_is_no_missing_object(bench):
    if bench.kind == "s3":
        bench.answer(404, "NoSuchBucket")
    else:
        bench.answer(404, "notFound", "The specified bucket does not exist.")
    with pytest.raises(ConfigError) as caught:
        bench.store.get("k")
    assert caught.value.kind == "no-bucket"


def test_a_condition_that_the_store_does_not_know(bench):
    bench.answer(501, "NotImplemented")
    if bench.kind == "gcs":
        bench.proxy.faults[-1].times = 99
    with pytest.raises((ConfigError, TransientError)):
        bench.store.put_new("k", DATA)


def test_an_answer_of_a_proxy_in_between_is_one_line(bench):
    bench.fail("answer", status=418, body=b"<html>\n<body>I am\na teapot</body></html>")
    with pytest.raises(ConfigError) as caught:
        bench.store.put_new("k", DATA)
    assert "\n" not in str(caught.value)
