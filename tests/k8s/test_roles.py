"""Roles of `k8s/iam/` hold exactly what commands ask of a store: each is enforced, request by request, in real runs."""

from __future__ import annotations

import fnmatch
import json
import re
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

import ingest
from ingest.cli.main import main
from ingest.errors import AlreadyExistsError, IngestError
from ingest.store.gcs import GCSStore
from ingest.store.open import open_store
from ingest.store.s3 import S3Store
from ingest.store.url import parse_store_url
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.fault_proxy import Fault, FaultProxy

IAM = Path(ingest.__file__).parent.parent / "k8s" / "iam"
BUCKET = "roles"
PREDEFINED = {
    "roles/storage.objectViewer": {"get", "list"},
    "roles/storage.objectCreator": {"create"},
    "roles/storage.objectUser": {"get", "list", "create", "update", "delete"},
}
"""What of https://cloud.google.com/storage/docs/access-control/iam-roles concerns objects."""


def policy(cloud, role, dest):
    text = (IAM / f"{cloud}-{role}.json").read_text("utf-8")
    return json.loads(text.replace("BUCKET", BUCKET).replace("DEST", dest))


class AwsRole:
    """Decides as IAM does, for the few words that the policies use; keeps what was asked."""

    def __init__(self, role, dest):
        self.statements = policy("aws", role, dest)["Statement"]
        self.used = set()

    def allows(self, seen):
        action, key, context = self.asked(seen)
        self.used.add(action)
        arn = f"arn:aws:s3:::{BUCKET}" + ("" if action == "s3:ListBucket" else f"/{key}")
        effects = {s["Effect"] for s in self.statements if self._applies(s, action, arn, context)}
        return effects == {"Allow"}

    @staticmethod
    def _applies(statement, action, arn, context):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if action not in actions or not fnmatch.fnmatchcase(arn, statement["Resource"]):
            return False
        tests = {
            "StringLike": lambda name, value: fnmatch.fnmatchcase(context.get(name, ""), value),
            "Null": lambda name, value: (name not in context) == (value == "true"),
            "Bool": lambda name, value: context.get(name) == value,
        }
        conditions = statement.get("Condition", {}).items()
        return all(tests[word](name, value) for word, said in conditions for name, value in said.items())

    @staticmethod
    def asked(seen):
        parts = urlsplit(seen.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        if not key:
            return "s3:ListBucket", "", {"s3:prefix": query.get("prefix", "")}
        if seen.method in ("GET", "HEAD"):
            return "s3:GetObject", key, {}
        if seen.method == "DELETE":
            return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", key, {}
        # A multipart upload has no condition before its last request.
        context = {"s3:ObjectCreationOperation": str(not {"uploads", "partNumber"} & set(query)).lower()}
        if "if-none-match" in seen.headers:
            context["s3:if-none-match"] = seen.headers["if-none-match"]
        return "s3:PutObject", key, context

    def granted(self):
        allowed = (s["Action"] for s in self.statements if s["Effect"] == "Allow")
        return {action for said in allowed for action in (said if isinstance(said, list) else [said])}


class GcpRole:
    """The same for GCS: replacing an object takes the permission to delete it."""

    def __init__(self, role, dest):
        self.bindings = policy("gcp", role, dest)["bindings"]
        self.used = set()
        self._sessions = set()

    def allows(self, seen):
        if "upload_id=" in seen.path:  # a session was allowed when it began
            return True
        asked, key, prefix = self.asked(seen)
        self.used |= asked
        return all(any(self._grants(binding, each, key, prefix) for binding in self.bindings) for each in asked)

    @staticmethod
    def _grants(binding, permission, key, prefix):
        name, listed = re.findall(r"startsWith\('([^']*)'\)", binding["condition"]["expression"])
        in_place = f"projects/_/buckets/{BUCKET}/objects/{key}".startswith(name) if key else prefix.startswith(listed)
        return permission in PREDEFINED[binding["role"]] and in_place

    @staticmethod
    def asked(seen):
        parts = urlsplit(seen.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        key = unquote(parts.path.partition("/o/")[2])
        if seen.method == "POST":
            name = json.loads(re.search(rb"\{[^{}]*\"name\"[^{}]*\}", seen.body)[0])["name"]
            return {"create"} if query.get("ifGenerationMatch") == "0" else {"create", "delete"}, name, ""
        if seen.method == "DELETE":
            return {"delete"}, key, ""
        return ({"get"}, key, "") if key else ({"list"}, "", query.get("prefix", ""))

    def granted(self):
        return set().union(*(PREDEFINED[binding["role"]] for binding in self.bindings)) - {"update"}


DENIED = {
    "aws": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "gcp": json.dumps({"error": {"code": 403, "message": "denied", "errors": [{"reason": "forbidden"}]}}).encode(),
}


class Cloud:
    """A look-alike whose requests are held against a role."""

    def __init__(self, name, server):
        self.name, self.server = name, server
        self.scheme = "s3" if name == "aws" else "gs"
        self.url = f"{self.scheme}://{BUCKET}/{name}-lung"

    @contextmanager
    def acting_as(self, role):
        """Yield the role and an endpoint that gives its rights, and no others."""
        held = (AwsRole if self.name == "aws" else GcpRole)(role, f"{self.name}-lung")
        with FaultProxy(self.server.endpoint_url) as proxy:
            refusal = Fault("answer", when=lambda seen: not held.allows(seen), times=1 << 60, status=403)
            refusal.body = DENIED[self.name]
            refusal.headers = {"Content-Type": "application/xml" if self.name == "aws" else "application/json"}
            proxy.faults.append(refusal)
            yield held, proxy.endpoint_url

    def store(self):
        return open_store(self.url, endpoint_url=self.server.endpoint_url)


@pytest.fixture(scope="module", params=["aws", "gcp"])
def cloud(request, s3_server, gcs_server):
    server = s3_server if request.param == "aws" else gcs_server
    server.create_bucket(BUCKET)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            if name != "AWS_ENDPOINT_URL":
                patch.setenv(name, value)
        yield Cloud(request.param, server)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return write_h5ad_index(folder / "index.feather", write_sources(folder, n_files=2, n_cells=30, n_genes=50))


def asked(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code, capsys.readouterr().err


def test_each_role_does_its_work_and_no_other(cloud, index, capsys):
    run = ("run", cloud.url, "--index", index, "-c", 20, "--pool", "serial")
    with cloud.acting_as("reader") as (reader, endpoint):
        code, said = asked(capsys, *run, "--endpoint-url", endpoint)
        assert code == 2
        assert f"no write permission on {cloud.url}" in said
    with cloud.acting_as("writer") as (writer, endpoint):
        assert asked(capsys, *run, "--endpoint-url", endpoint)[0] == 0
        assert asked(capsys, *run, "--endpoint-url", endpoint)[0] == 0
        if cloud.name == "gcp":  # it draws, which takes longer than all else
            assert asked(capsys, "hvg", cloud.url, "--pool", "serial", "--endpoint-url", endpoint)[0] == 0
    with cloud.acting_as("reader") as (reader, endpoint):
        for command in (("verify", cloud.url, "--deep"), ("status", cloud.url), ("gc", cloud.url)):
            assert asked(capsys, *command, "--endpoint-url", endpoint)[0] == 0
        assert reader.used == reader.granted()
    store = cloud.store()
    chunk = min(stat.key for stat in store.list("chunks/"))
    store.replace(chunk, b"damaged", expected=store.stat(chunk).version)
    store.put_new("chunks/chunk_999999.h5ad", b"nobody's")
    collect = ("gc", cloud.url, "--delete", "--grace", 0)
    mend = ("repair", cloud.url, "--pool", "serial")
    with cloud.acting_as("writer") as (_, endpoint):
        code, said = asked(capsys, *mend, "--endpoint-url", endpoint)
        assert code
        assert "permission" in said
        for _ in range(2):  # the first marks
            code, said = asked(capsys, *collect, "--endpoint-url", endpoint)
        assert code
        assert "no delete permission" in said
    with cloud.acting_as("maintainer") as (maintainer, endpoint):
        assert asked(capsys, *mend, "--endpoint-url", endpoint)[0] == 0
        for _ in range(2):
            assert asked(capsys, *collect, "--endpoint-url", endpoint)[0] == 0
        assert asked(capsys, "verify", cloud.url, "--deep", "--endpoint-url", endpoint)[0] == 0
        assert maintainer.granted() - maintainer.used <= {"s3:AbortMultipartUpload"}
    assert "chunks/chunk_999999.h5ad" not in {stat.key for stat in store.list("chunks/")}
    store.close()
    assert writer.granted() - writer.used <= {"s3:AbortMultipartUpload"}


@pytest.mark.parametrize("role", ["writer", "maintainer"])
def test_roles_hold_for_uploads_in_parts(cloud, role):
    where, data = parse_store_url(cloud.url), bytes(6 << 20)
    with cloud.acting_as(role) as (held, endpoint):
        store = (
            S3Store(where, endpoint_url=endpoint, single_put_bytes=1, part_bytes=5 << 20)
            if cloud.name == "aws"
            else GCSStore(where, endpoint_url=endpoint, single_post_bytes=1, part_bytes=5 << 20)
        )
        there = store.put_new(f"parts/{role}", data)
        with pytest.raises(AlreadyExistsError):
            store.put_new(f"parts/{role}", data)
        if role == "maintainer":
            store.replace(f"parts/{role}", data, expected=there.version)
        else:
            with pytest.raises(IngestError) as caught:
                store.replace(f"parts/{role}", data, expected=there.version)
            assert caught.value.kind == "permission"
        store.close()
    if cloud.name == "aws":
        assert "s3:AbortMultipartUpload" in held.used


@pytest.mark.parametrize("role", ["reader", "writer", "maintainer"])
def test_what_lies_beside_dest_is_out_of_reach(cloud, role):
    beside = f"{cloud.url}-2"
    with cloud.acting_as(role) as (_, endpoint), pytest.raises(IngestError) as caught:
        open_store(beside, endpoint_url=endpoint)
    assert caught.value.kind == "permission"
