"""Files by path and by URL, over real HTTP; what a server may do wrong meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from ingest import named_files
from ingest.errors import ConfigError, CorruptError, SourceChangedError, SourceError, TransientError
from ingest.fetch import h5ad_remote
from ingest.named_files import fetched, is_remote, local_path, read_text
from ingest.scratch import Scratch


@pytest.fixture
def scratch(tmp_path):
    scratch = Scratch(tmp_path)
    yield scratch
    scratch.close()


@pytest.mark.parametrize(
    ("name", "remote"),
    [("a/b.feather", False), ("file:///a/b", False), ("s3://b/k", True), ("GS://b/k", True), ("https://h/k", True)],
)
def test_what_is_remote(name, remote):
    assert is_remote(name) == remote


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("s3://user:hunter2@bucket/k", "secret-in-url"),
        ("https://h/k?X-Amz-Signature=abcdef", "secret-in-url"),
        ("ftp://h/k", "unknown-scheme"),
        ("hdfs://h/k", "unknown-scheme"),
        ("s3://bucket", "no-object-name"),
        ("s3://bucket/", "no-object-name"),
        ("gs://bucket/folder/", "no-object-name"),
        ("S3:///index.feather", "no-object-name"),
    ],
)
def test_what_is_refused_says_no_secret(name, kind):
    with pytest.raises(ConfigError) as caught:
        is_remote(name)
    assert caught.value.kind == kind
    assert not any(secret in str(caught.value) for secret in ("hunter2", "abcdef"))


def test_a_file_url_is_a_path(tmp_path, scratch):
    path = tmp_path / "a b#c.txt"
    path.write_text("ENSG1")
    assert local_path(path.as_uri()) == path
    assert read_text(path.as_uri()) == "ENSG1"
    assert fetched(str(path), scratch) == path


class Web:
    """One file behind HTTP/1.1, with ranges or without, which may change or be cut short."""

    def __init__(self, body: bytes, *, ranges: bool = True) -> None:
        self.body, self.ranges, self.tag, self.cut, self.asked = body, ranges, "one", 0, 0

    @contextmanager
    def serving(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index.feather"
        finally:
            server.shutdown()
            server.server_close()

    def _handler(web):  # noqa: N805  # `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):  # the base's name
                self._answer(send=False)

            def do_GET(self):  # the base's name
                web.asked += 1
                self._answer(send=True)

            def _answer(self, *, send):
                span = self.headers.get("Range")
                body = web.body
                if web.ranges and span:
                    first, last = span.removeprefix("bytes=").split("-")
                    body = web.body[int(first) : int(last) + 1]
                self.send_response(206 if web.ranges and span else 200)
                if web.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                    if span:
                        self.send_header("Content-Range", f"bytes {span.removeprefix('bytes=')}/{len(web.body)}")
                self.send_header("ETag", web.tag)
                if send and web.cut:
                    web.cut -= 1
                    body = body[:-1]
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if send:
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


BODY = bytes(range(256)) * 40


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(named_files, "_PART_BYTES", 1_000)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("n_bytes", [0, 1, 999, 1_000, 1_001, 10_240])
def test_all_parts_come_in_order(scratch, n_bytes):
    with Web(BODY[:n_bytes]).serving() as url:
        path = fetched(url, scratch)
    assert path.name == "index.feather", "messages name it"
    assert path.parent == scratch.path
    assert path.read_bytes() == BODY[:n_bytes]


def test_what_fits_into_one_part_needs_no_ranges(scratch):
    with Web(BODY, ranges=False).serving() as url:
        assert fetched(url, scratch).read_bytes() == BODY


@pytest.mark.usefixtures("small_parts")
def test_a_larger_file_does(scratch):
    with Web(BODY, ranges=False).serving() as url, pytest.raises(SourceError, match="serves no ranges"):
        fetched(url, scratch)


@pytest.mark.usefixtures("small_parts")
def test_an_answer_cut_short_is_asked_for_again(scratch, monkeypatch):
    monkeypatch.setattr(h5ad_remote, "_BUDGET", h5ad_remote.Budget(attempts=4, total_s=60.0, first_s=0.0))
    web = Web(BODY)
    with web.serving() as url:
        web.cut = 2
        assert fetched(url, scratch).read_bytes() == BODY
    assert web.asked == 11 + 2


@pytest.mark.usefixtures("small_parts")
def test_a_file_that_is_replaced_meanwhile_is_refused(scratch, monkeypatch):
    web = Web(BODY)
    part = named_files._part

    def replaced(*arguments):
        web.tag = "two"
        return part(*arguments)

    monkeypatch.setattr(named_files, "_part", replaced)
    with web.serving() as url, pytest.raises(SourceChangedError, match="changed while it was read"):
        fetched(url, scratch)


def test_bytes_that_do_not_fit_the_stores_checksum_are_refused(scratch, monkeypatch):
    stat = h5ad_remote.stat_remote
    monkeypatch.setattr(
        h5ad_remote, "stat_remote", lambda *a: h5ad_remote.RemoteStat(stat(*a).size, stat(*a).version, "AAAAAA==")
    )
    with Web(BODY).serving() as url, pytest.raises(CorruptError, match="checksum"):
        fetched(url, scratch)


def test_settings_of_any_size_are_not_taken_into_memory(monkeypatch):
    monkeypatch.setattr(named_files, "_MOST_TEXT_BYTES", 100)
    with Web(BODY).serving() as url, pytest.raises(ConfigError, match="10,240 bytes are too many"):
        read_text(url)


def test_what_is_not_there_is_the_persons_mistake(s3_server, scratch, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.create_bucket("named")
    with pytest.raises(ConfigError, match="s3://named/none: there is no such file") as caught:
        fetched("s3://named/none", scratch)
    assert (caught.value.kind, caught.value.exit_code) == ("no-such-file", 2)


def test_where_nobody_answers_the_names_may_be_wrong(s3_server, scratch, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(h5ad_remote, "_BUDGET", h5ad_remote.Budget(attempts=1, total_s=60.0, first_s=0.0))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TransientError, match=r"s3://bucket/index.feather") as caught:
        fetched("s3://bucket/index.feather", scratch, endpoint_url="http://127.0.0.1:9")
    assert "AWS_ENDPOINT_URL" in caught.value.hint


@pytest.mark.parametrize("said", ["option", "environment"])
def test_an_endpoint_is_that_of_the_option_or_of_the_environment(s3_server, monkeypatch, said):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.create_bucket("named")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    client.put_object(Bucket="named", Key="genes.txt", Body=b"ENSG1\n")
    if said == "option":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    endpoint = s3_server.endpoint_url if said == "option" else None
    assert read_text("s3://named/genes.txt", endpoint_url=endpoint) == "ENSG1\n"


def test_gcs_too(gcs_server, monkeypatch):
    for name, value in gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = gcs_server.create_bucket("named")
    h5ad_remote.remote_filesystem(bucket, endpoint_url=gcs_server.endpoint_url).pipe(f"{bucket}/genes.txt", b"ENSG2")
    assert read_text(f"{bucket}/genes.txt") == "ENSG2"
