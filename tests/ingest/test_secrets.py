"""Credentials that would be known again anywhere: they must be nowhere, whatever goes well or wrong."""

from __future__ import annotations

import gc
import io
import json
import logging
import pickle
import socket
import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gcsfs
import pytest
import s3fs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ingest.cli.main import main
from ingest.errors import CredentialsError, IngestError, mask_secrets
from ingest.load.dataset import open_chunks
from ingest.opened import open_plan
from ingest.preparing import divide_work, profile_of_plan
from ingest.retry import Budget, Retrier
from ingest.settings import WorkSettings
from ingest.store.open import open_store
from ingest.testing.fault_proxy import Fault, FaultProxy
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.worker import ChunkWorkerFactory

# Sessions of fsspec's clients are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

# ruff: noqa: S105 # canaries, of no account anywhere
SECRET = "canarySecretKey/7fK3qLzPw9vXn2bTgYhJmR5sDcEe"
TOKEN = "canarySessionToken//9yQwErTyUiOpAsDfGhJkLzXcVbNm0123456789=="
PASSWORD = "canary-password-in-a-url"
SIGNATURE = "canarySignature0a1b2c3d4e5f"
BEARER = "ya29.canaryLiveToken-0123456789abcdef_ghij"
CANARIES = (SECRET, TOKEN, PASSWORD, SIGNATURE, BEARER)
HOST = "storage.googleapis.com"


@pytest.fixture(scope="module", autouse=True)
def _clients():
    """Sessions of fsspec's clients end here, where nobody minds, and not in whatever test comes next."""
    yield
    for client in (s3fs.S3FileSystem, gcsfs.GCSFileSystem):
        client.clear_instance_cache()
    gc.collect()


@pytest.fixture(autouse=True)
def _canaries(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARYCANARY0000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))


@pytest.fixture
def logs():
    """Everything that any library logs, at the lowest level, as a handler of the root writes it."""
    written, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(written), root.level
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        check(said.out, f"stdout of {words}")
        check(said.err, f"stderr of {words}")
        return int(ended.value.code or 0), said.out, said.err

    return call


def check(text: str | bytes, where: str) -> None:
    for canary in CANARIES:
        held = canary.encode() in text if isinstance(text, bytes) else canary in text
        assert not held, f"{canary!r} is in {where}"


def chain(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_run_from_and_to_a_bucket_says_and_writes_none(s3_server, logs, run, tmp_path, monkeypatch):
    """index, run, status, verify, hvg, repair, gc, loading: what is printed, logged, written, and sent to workers."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    bucket = s3_server.create_bucket("canaries")
    store = open_store(f"{bucket}/in")
    store.put_new("a.h5ad", write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 12)).read_bytes())
    index, dest = tmp_path / "index.feather", f"{bucket}/dest"
    assert run("index", "h5ad", f"{bucket}/in/a.h5ad", "-o", index)[0] == 0
    logged = ("--log-format", "json")
    assert run("run", dest, "--index", index, "-c", 10, "--pool", "serial", "--json", *logged)[0] == 0
    for words in (
        ("status", dest, "--json"),
        ("status", dest, "--watch", "--log-format", "json"),
        ("verify", dest, "--deep", "--json"),
        ("hvg", dest, "--n-hvgs", 3, "--pool", "serial", "--json"),
        ("repair", dest, "--pool", "serial", "--json"),
        ("gc", dest, "--json"),
        ("memmap", dest, "-o", tmp_path / "archive", "--pool", "serial", "--json"),
    ):
        assert run(*words)[0] == 0
    with open_chunks(dest, cache_dir=str(tmp_path / "cache")) as cells:
        assert cells.counts(range(30)).n_cells == 30
        check(pickle.dumps(cells), "pickled cells")
    opened = open_plan(open_store(dest))
    factory = ChunkWorkerFactory(dest, s3_server.endpoint_url, "run", 1 << 20, 1 << 20, 1, str(tmp_path))
    work = divide_work(profile_of_plan(opened, WorkSettings(workers=1)), opened, set(), WorkSettings(workers=1))
    check(pickle.dumps((factory, work.units, opened.plan)), "what travels to workers")
    written = [stat.key for stat in opened.store.list("")]
    assert len(written) > 20
    for key in written:
        check(opened.store.get(key), key)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            check(path.read_bytes(), str(path))
    assert "botocore" in logs.getvalue()  # which was listened to
    check(logs.getvalue(), "the logs")


class Echo(BaseHTTPRequestHandler):
    """Refuses everything, and sends back what it was sent: headers, address and all."""

    def answer(self):
        code = int(self.server.code)
        heard = f"<Error><Code>{self.server.word}</Code><Message>{self.requestline} {self.headers}</Message></Error>"
        data = heard.replace("&", "&amp;").encode()
        self.send_response(code, "No")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 # http.server's names

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # clients keep their connections
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def echo():
    with serving(Echo) as server:
        server.code, server.word = 403, "AccessDenied"
        yield server


@pytest.mark.parametrize(
    ("code", "word"),
    [(403, "AccessDenied"), (400, "ExpiredToken"), (404, "NoSuchBucket"), (409, "Other"), (301, "Moved")],
)
def test_a_store_that_sends_requests_back_is_not_repeated(echo, logs, run, monkeypatch, code, word):
    echo.code, echo.word = code, word
    monkeypatch.setattr("ingest.store.s3.Retrier", lambda _: Retrier(Budget(attempts=1)))
    monkeypatch.setattr("ingest.fetch.h5ad_remote._BUDGET", Budget(attempts=1))
    address = f"http://127.0.0.1:{echo.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for words in (("--debug", "status", "s3://bucket/x"), ("--debug", "index", "h5ad", "s3://bucket/a.h5ad")):
        status, _, err = run(*words)
        assert status in (1, 2), err
        assert "Traceback" in err
    with pytest.raises(IngestError) as caught:
        open_store("s3://bucket/x")
    check(str(caught.value), "the message")
    check(pickle.dumps(caught.value), "the pickled error")
    check(mask_secrets(chain(caught.value)), "its traceback, as workers report it")
    check(logs.getvalue(), "the logs")


def _unknown(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_a_store_that_is_not_there(logs, run, monkeypatch, address):
    """Refused, and no such name: signed requests stand in what the clients complain of."""
    monkeypatch.setattr("ingest.store.s3.Retrier", lambda _: Retrier(Budget(attempts=1)))
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setattr("socket.getaddrinfo", _unknown if "invalid" in address else socket.getaddrinfo)
    status, _, err = run("--debug", "status", "s3://bucket/x")
    assert status in (1, 2), err
    check(logs.getvalue(), "the logs")


def test_addresses_with_secrets_are_refused_unread(logs, run, tmp_path):
    index = tmp_path / "i.feather"
    for url in (
        f"https://user:{PASSWORD}@127.0.0.1:1/a.h5ad",
        f"https://127.0.0.1:1/a.h5ad?X-Amz-Signature={SIGNATURE}&X-Amz-Expires=60",
        f"https://127.0.0.1:1/a.h5ad?X-Goog-Signature={SIGNATURE}",
        f"s3://key:{PASSWORD}@bucket/a.h5ad",
    ):
        for words in (("index", "h5ad", url, "-o", index), ("memmap", url, "-o", tmp_path / "m"), ("status", url)):
            assert run("--debug", *words)[0] == 2
    for endpoint in (f"http://user:{PASSWORD}@127.0.0.1:1", f"http://127.0.0.1:1/?Signature={SIGNATURE}"):
        assert run("--debug", "status", "s3://bucket/x", "--endpoint-url", endpoint)[0] == 2
    check(logs.getvalue(), "the logs")


def test_a_key_of_a_service_account_that_cannot_be_used(logs, run, tmp_path, monkeypatch):
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "k",
        "private_key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
        "client_email": "a@p.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:1/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    status, _, err = run("--debug", "status", "gs://bucket/x")
    assert status in (1, 2), err
    with pytest.raises(CredentialsError) as caught:
        open_store("gs://bucket/x")
    check(mask_secrets(chain(caught.value)), "the traceback")
    check(logs.getvalue(), "the logs")


class Tokens(BaseHTTPRequestHandler):
    """Gives out live tokens, as Google's own server does for a key."""

    def do_POST(self):  # http.server's name
        self.rfile.read(int(self.headers["Content-Length"]))
        data = json.dumps({"access_token": BEARER, "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def account(tmp_path, monkeypatch):
    """The key of a service account, for which tokens are to be had."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    with serving(Tokens) as server:
        facts = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "k",
            "private_key": private,
            "client_email": "a@p.iam.gserviceaccount.com",
            "token_uri": f"http://127.0.0.1:{server.server_port}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(facts))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        yield private.splitlines()[3]


@pytest.fixture
def googles(gcs_server, monkeypatch):
    """A bucket's server under a name of Google's, which alone are sent tokens."""
    find = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: find("127.0.0.1" if host == HOST else host, *a, **k)
    )
    with FaultProxy(gcs_server.endpoint_url) as proxy:
        yield proxy, f"http://{HOST}:{proxy.endpoint_url.rpartition(':')[2]}"


def test_a_live_token_of_google_goes_to_google_and_nowhere_else(account, googles, gcs_server, logs, run, tmp_path):
    """And one that Google has ended: what is said of it, and what a refusal sends back."""
    proxy, endpoint = googles
    source, index, dest = tmp_path / "a.h5ad", tmp_path / "index.feather", f"{gcs_server.create_bucket('live')}/dest"
    write_h5ad_variant(source, sample_counts(30, 12))
    assert run("index", "h5ad", source, "-o", index)[0] == 0
    words = ("--endpoint-url", endpoint, "--json")
    assert run("run", dest, "--index", index, "-c", 10, "--pool", "serial", *words)[0] == 0
    assert run("verify", dest, "--deep", *words)[0] == 0
    assert {seen.headers["authorization"] for seen in proxy.seen} == {f"Bearer {BEARER}"}
    store = open_store(dest, endpoint_url=endpoint)
    for stat in store.list(""):
        check(store.get(stat.key), stat.key)
    sent_back = f'{{"error": {{"code": 401, "message": "Authorization: Bearer {BEARER}"}}}}'.encode()
    proxy.faults.append(Fault("answer", times=99, status=401, body=sent_back))
    assert run("--debug", "status", dest, "--endpoint-url", endpoint)[0] in (1, 2)
    with pytest.raises(CredentialsError) as caught:
        store.get("_ingest/plan.json")
    check(str(caught.value), "the error")
    check(pickle.dumps(caught.value), "the error on its way")
    check(mask_secrets(chain(caught.value)), "the traceback")
    store.close()
    check(logs.getvalue(), "the logs")
    assert account not in logs.getvalue(), "the key"


@pytest.mark.parametrize(
    "text",
    [
        f"{{'X-Amz-Security-Token': b'{TOKEN}', 'Authorization': b'AWS4-HMAC-SHA256 Credential=A/b, Signature=ab'}}",
        f"X-Amz-Security-Token: {TOKEN}\nHost: x",
        "Authorization: Bearer ya29.canary-token_value~+/=\n",
        '{"access_token": "ya29.canary-token", "private_key": "canary-key"}',
        "<SecretAccessKey>canary-key</SecretAccessKey>",
    ],
)
def test_what_headers_and_bodies_hold_is_masked(text):
    masked = mask_secrets(text)
    assert "canary" not in masked
    assert "***" in masked
    assert mask_secrets("the token: a word; private keys, and Authorization of nobody").startswith("the token: a word")


def test_what_the_environment_holds_is_masked_wherever_it_stands():
    assert mask_secrets(f"<x>{SECRET}</x> and {TOKEN}") == "<x>***</x> and ***"
