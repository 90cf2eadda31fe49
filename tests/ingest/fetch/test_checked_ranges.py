"""Answers of other bytes than were asked for: from S3, Google and the web, asked again and never believed."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.bandwidth import Line
from ingest.errors import SourceError, TransientError
from ingest.fetch import h5ad_remote
from ingest.fetch.checked.ranges import AnotherRangeError, check_range
from ingest.fetch.h5ad_remote import remote_filesystem, retried
from ingest.fetch.tiles import folder
from ingest.retry import Budget
from ingest.testing.fault_proxy import Fault, FaultProxy
from ingest.testing.range_server import range_server

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

DATA = bytes(range(256)) * 64
_number = itertools.count()


class Shelf:
    """An object of `DATA` behind a proxy, and those who read it as the package does."""

    def __init__(self, proxy, url, **options):
        self.proxy, self.url = proxy, url
        self.filesystem = remote_filesystem(url, **options)

    def by_request(self, start, stop):
        return retried(self.url, lambda: self.filesystem.cat_file(self.url, start=start, end=stop))

    def by_handle(self, start, stop):
        def read():
            with self.filesystem.open(self.url, "rb", cache_type="none") as file:
                file.seek(start)
                return file.read(stop - start)

        return retried(self.url, read)

    def answer(self, said, body, *, times, status=206):
        headers = {"ETag": '"an etag"', **({} if said is None else {"Content-Range": said})}
        self.proxy.faults[:] = [
            Fault(
                "answer", lambda seen: "range" in seen.headers, status=status, headers=headers, body=body, times=times
            )
        ]


@pytest.fixture(params=["s3", "gcs", "http"])
def shelf(request, monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BUDGET", Budget(attempts=4, first_s=0.001))
    if request.param == "http":
        with range_server() as web:
            place, _, name = web.put("a", DATA, "an etag").rpartition("/")
            with FaultProxy(place) as proxy:
                yield Shelf(proxy, f"{proxy.endpoint_url}/{name}")
        return
    server = request.getfixturevalue(f"{request.param}_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"{server.create_bucket(f'ranges{next(_number)}')}/a"
    remote_filesystem(url).pipe_file(url, DATA)
    with FaultProxy(server.endpoint_url) as proxy:
        yield Shelf(proxy, url, endpoint_url=proxy.endpoint_url)


@pytest.mark.parametrize("way", [Shelf.by_request, Shelf.by_handle])
@pytest.mark.parametrize("said", ["bytes 200-299/16384", "bytes 100-150/16384", "bytes 100-300/16384", "bytes", None])
def test_other_bytes_of_the_right_number_are_not_believed(shelf, way, said):
    shelf.answer(said, DATA[200:300], times=2)
    assert way(shelf, 100, 200) == DATA[100:200]
    assert not shelf.proxy.faults[0].times, "it was asked again"
    shelf.answer(said, DATA[200:300], times=99)
    with pytest.raises(TransientError) as caught:
        way(shelf, 100, 200)
    assert (caught.value.kind, caught.value.source) == ("other-answer", shelf.url)
    assert "bytes=100-199" in caught.value.message


@pytest.mark.parametrize("way", [Shelf.by_request, Shelf.by_handle])
def test_a_page_of_the_right_length_is_not_believed(shelf, way):
    shelf.answer(None, DATA[200:300], times=99, status=200)
    with pytest.raises(TransientError) as caught:
        way(shelf, 100, 200)
    assert caught.value.kind == "other-answer"


def test_what_starts_at_the_first_byte_may_be_all_of_it(shelf):
    shelf.answer(None, DATA, times=1, status=200)
    assert shelf.by_request(0, len(DATA)) == DATA
    assert not shelf.proxy.faults[0].times


@pytest.mark.parametrize("way", [Shelf.by_request, Shelf.by_handle])
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 16_384), (16_000, 16_384), (16_383, 16_384)])
def test_the_range_that_was_asked_for_comes(shelf, way, start, stop):
    assert way(shelf, start, stop) == DATA[start:stop]


@pytest.mark.parametrize("shelf", ["http"], indirect=True)
def test_who_serves_no_ranges_is_told_by_that(shelf):
    shelf.answer(None, DATA, times=99, status=200)
    with pytest.raises(SourceError) as caught:
        shelf.by_handle(100, 200)
    assert caught.value.kind == "no-ranges"


@pytest.mark.parametrize("shelf", ["s3"], indirect=True)
def test_tiles_of_another_place_are_not_believed(shelf, monkeypatch):
    monkeypatch.setattr(folder, "_BUDGET", Budget(attempts=4, first_s=0.001))
    place = shelf.url.rpartition("/")[0]
    options = {"endpoint_url": shelf.proxy.endpoint_url, "anon": False}
    array = folder.RemoteArray(place, options, Line())
    shelf.answer("bytes 200-299/16384", DATA[200:300], times=2)
    (piece,) = array.read([("a", 100, 200)])
    assert piece.tobytes() == DATA[100:200]
    shelf.answer("bytes 200-299/16384", DATA[200:300], times=99)
    with pytest.raises(TransientError) as caught:
        array.read([("a", 100, 200)])
    assert caught.value.kind == "other-answer"


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 60), st.integers(0, 3), st.integers(-3, 3))
def test_only_the_range_itself_passes_or_all_that_is_left_of_it(start, length, size, shift, more):
    """What a server of `size` bytes may answer, moved by `shift` and longer by `more`."""
    start %= size
    stop = min(start + length, size)
    first, last = start + shift, stop - 1 + more
    if first > last:
        return
    asked, said = f"bytes={start}-{start + length - 1}", f"bytes {first}-{last}/{size}"
    if (first, last) == (start, stop - 1):
        check_range(asked, said, 206)
    elif (first, last) == (start, start + length - 1):
        check_range(asked, said, 206)  # of an object that has grown, which its version tells
    else:
        with pytest.raises(AnotherRangeError, match=re.escape(said)):
            check_range(asked, said, 206)


def test_errors_and_questions_without_a_range_are_not_its_business():
    check_range(None, None, 200)
    check_range(None, "bytes 5-9/10", 206)
    check_range("bytes=-5", "bytes 5-9/10", 206)
    check_range("bytes=5-9", None, 503)
    check_range("bytes=5-", "bytes 5-9/10", 206)
    check_range("bytes=5-9", "bytes 5-9/*", 206)
    with pytest.raises(AnotherRangeError):
        check_range("bytes=5-", "bytes 5-8/10", 206)
    with pytest.raises(AnotherRangeError):
        check_range("bytes=5-9", "bytes 5-8/*", 206)
