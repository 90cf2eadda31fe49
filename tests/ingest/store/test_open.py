"""Which URLs open what, what importing costs, and what is said when it does not work."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, CredentialsError, TransientError
from ingest.store import Budget, open_store
from ingest.store.url import StoreUrl, check_endpoint, parse_store_url

ROOT = Path(__file__).parents[3]
ONCE = Budget(attempts=1)


@pytest.mark.parametrize(
    ("url", "scheme", "bucket", "prefix"),
    [
        ("s3://bucket", "s3", "bucket", ""),
        ("s3://bucket/", "s3", "bucket", ""),
        ("s3://bucket/a/b c/", "s3", "bucket", "a/b c"),
        ("S3://bucket/a", "s3", "bucket", "a"),
        ("gs://bucket.with.dots/a", "gs", "bucket.with.dots", "a"),
        ("gcs://bucket/a", "gs", "bucket", "a"),
        ("/absolute/path", "file", "", "/absolute/path"),
        ("/trailing/", "file", "", "/trailing"),
        ("file:///a%20b/c", "file", "", "/a b/c"),
        ("file://localhost/a", "file", "", "/a"),
        ("/with:colon/a", "file", "", "/with:colon/a"),
    ],
)
def test_urls(url, scheme, bucket, prefix):
    assert parse_store_url(url) == StoreUrl(scheme, bucket, prefix)


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_store_url("a:b/c").prefix == str(tmp_path / "a:b/c")
    assert parse_store_url(".").prefix == str(tmp_path)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", "bad-url"),
        ("  ", "bad-url"),
        ("s3:/bucket/a", "bad-url"),
        ("gs:bucket", "bad-url"),
        ("s3://", "bad-url"),
        ("s3:///a", "bad-url"),
        ("s3://UP?versionId=1", "bad-url"),
        ("s3://bucket/a#b", "bad-url"),
        ("s3://bucket/a//b", "bad-url"),
        ("s3://bucket/../b", "bad-url"),
        ("gs://Upper/a", "bad-url"),
        ("file://elsewhere/a", "bad-url"),
        ("https://example.org/a", "unknown-scheme"),
        ("az://container/a", "unknown-scheme"),
        ("s3a://bucket/a", "unknown-scheme"),
        ("s3://KEY:hidden@bucket/a", "secret-in-url"),
        ("https://bucket.example/a?X-Amz-Signature=hidden", "secret-in-url"),
        ("s3://bucket/a?token=hidden", "secret-in-url"),
    ],
)
def test_urls_that_are_refused(url, kind):
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert caught.value.kind == kind
    assert caught.value.hint
    assert "hidden" not in f"{caught.value} {caught.value.hint}"


@given(st.text(max_size=40))
def test_any_text_is_a_store_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        where = parse_store_url(text)
        assert parse_store_url(str(where)) == where


@pytest.mark.parametrize(
    ("given_url", "wanted"),
    [
        ("http://h:9000/", "http://h:9000"),
        ("https://s3.example.org", "https://s3.example.org"),
        ("h:9000", "http://h:9000"),
    ],
)
def test_endpoints(given_url, wanted):
    assert check_endpoint(given_url) == wanted


@pytest.mark.parametrize(
    "endpoint", ["ftp://h", "http://", "http://h:nine", "http://h:99999999", "http://user:hidden@h"]
)
def test_endpoints_that_are_refused(endpoint):
    with pytest.raises(ConfigError) as caught:
        open_store("s3://bucket/a", endpoint_url=endpoint)
    assert caught.value.kind in ("bad-endpoint", "secret-in-url")
    assert "hidden" not in str(caught.value)


def test_endpoints_come_from_the_environment(s3_server, gcs_server, monkeypatch):
    for name, value in {**s3_server.environment, **gcs_server.environment}.items():
        monkeypatch.setenv(name, value)
    for server in (s3_server, gcs_server):
        url = f"{server.create_bucket('environment')}/dest"
        store = open_store(url)
        store.put_new("k", b"1")
        assert store.url == url
        store.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint_url)
    open_store("s3://environment/dest").close()


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_a_missing_bucket(kind, s3_server, gcs_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    server, url = (s3_server, "s3://no-such-bucket/a") if kind == "s3" else (gcs_server, "gs://no-such-bucket/a")
    with pytest.raises(ConfigError, match=r"://no-such-bucket/a: there is no such bucket") as caught:
        open_store(url, endpoint_url=server.endpoint_url)
    assert (caught.value.kind, bool(caught.value.hint)) == ("no-bucket", True)


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """Nobody's environment: no variables, no files, no machine role."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "STORAGE_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.mark.usefixtures("nobody")
def test_no_credentials(s3_server):
    with pytest.raises(CredentialsError, match="no usable credentials for s3://bucket/a") as caught:
        open_store("s3://bucket/a", endpoint_url=s3_server.endpoint_url, budget=ONCE)
    assert (caught.value.kind, "AWS_PROFILE" in caught.value.hint) == ("no-credentials", True)
    with pytest.raises(CredentialsError, match="no usable credentials for gs://bucket/a") as caught:
        open_store("gs://bucket/a", budget=ONCE)
    assert (caught.value.kind, "gcloud" in caught.value.hint) == ("no-credentials", True)


@pytest.mark.usefixtures("nobody")
def test_a_profile_that_does_not_exist(monkeypatch, s3_server):
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this")
    with pytest.raises(CredentialsError, match="nobody-has-this"):
        open_store("s3://bucket/a", endpoint_url=s3_server.endpoint_url, budget=ONCE)


@pytest.mark.parametrize("url", ["s3://bucket/a", "gs://bucket/a"])
def test_nobody_listens(url, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TransientError, match="no answer") as caught:
        open_store(url, endpoint_url="http://127.0.0.1:1", budget=ONCE)
    assert caught.value.kind == "unreachable"


def python(code):
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_the_stores_imports_no_client():
    code = "import sys, ingest.store; print(*sys.modules)"
    assert {"boto3", "botocore", "gcsfs", "aiohttp", "fsspec"}.isdisjoint(python(code))


def test_gcs_never_asks_for_the_experimental_file_system():
    unset = "import os, sys; os.environ.pop('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', None)"
    code = f"{unset}; import ingest.store.gcs; print(*sys.modules)"
    modules = python(code)
    assert "gcsfs.core" in modules
    assert "gcsfs.extended_gcsfs" not in modules


def test_a_server_ends_with_the_program_that_started_it():
    code = (
        "import os\nfrom ingest.testing.servers import s3_server\n"
        "with s3_server() as server:\n    print(server.endpoint_url, flush=True)\n    os._exit(9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 9
    endpoint = run.stdout.strip()
    wait = "import sys, time, urllib.request\n" + (
        "for _ in range(200):\n"
        "    try: urllib.request.urlopen(sys.argv[1], timeout=5).close()\n"
        "    except OSError: sys.exit(0)\n"
        "    time.sleep(0.05)\n"
        "sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", wait, endpoint], check=False).returncode == 0
