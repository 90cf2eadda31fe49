"""Roles of `k8s/iam/` hold exactly what commands ask of a store: each is enforced, request by request, in real runs."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import fsspec
import pandas as pd
import pytest
from botocore.exceptions import ClientError

import ingest
from ingest.cli.main import main
from ingest.errors import AlreadyExistsError, CredentialsError, IngestError
from ingest.fetch.h5ad_open import file_version
from ingest.layout import (
    AMENDMENTS,
    CELLS_KEY,
    CHUNKS,
    FAILURES,
    GARBAGE,
    GENE_LIST_KEY,
    PLAN_KEY,
    RECEIPTS,
    RUNS,
    SUCCESS_KEY,
    garbage_key,
)
from ingest.settings import DataSettings, WorkSettings
from ingest.source import Source
from ingest.store.gcs import GCSStore
from ingest.store.open import open_store
from ingest.store.s3 import S3Store
from ingest.store.url import parse_store_url
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.testing.fault_proxy import Fault, FaultProxy

IAM = Path(ingest.__file__).parent.parent / "k8s" / "iam"
BUCKET, INPUTS = "roles", "inputs"
PREDEFINED = {
    "roles/storage.objectViewer": {"get", "list"},
    "roles/storage.objectCreator": {"create"},
    "roles/storage.objectUser": {"get", "list", "create", "update", "delete"},
}
"""What of https://cloud.google.com/storage/docs/access-control/iam-roles concerns objects."""


def policy(cloud, role, dest, inputs):
    text = (IAM / f"{cloud}-{role}.json").read_text("utf-8")
    return json.loads(text.replace("BUCKET", BUCKET).replace("DEST", dest).replace("INPUTS", inputs))


def listed(said):
    return said if isinstance(said, list) else [said]


class AwsRole:
    """Decides as IAM does, for the few words that the policies use; keeps what was asked."""

    def __init__(self, role, dest, inputs):
        self.statements = policy("aws", role, dest, inputs)["Statement"]
        self.used = set()
        self.keys = set()

    def allows(self, seen):
        action, key, context = self.asked(seen)
        self.used.add(action)
        self.keys.add(key)
        arn = f"arn:aws:s3:::{BUCKET}" + ("" if action == "s3:ListBucket" else f"/{key}")
        effects = {s["Effect"] for s in self.statements if self._applies(s, action, arn, context)}
        return effects == {"Allow"}

    @staticmethod
    def _applies(statement, action, arn, context):
        resources = listed(statement["Resource"])
        if action not in listed(statement["Action"]) or not any(fnmatch.fnmatchcase(arn, each) for each in resources):
            return False
        tests = {
            "StringLike": lambda name, value: any(
                fnmatch.fnmatchcase(context.get(name, ""), each) for each in listed(value)
            ),
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
        context |= {f"s3:{name}": seen.headers[name] for name in ("if-none-match", "if-match") if name in seen.headers}
        return "s3:PutObject", key, context

    def granted(self):
        return {action for s in self.statements if s["Effect"] == "Allow" for action in listed(s["Action"])}


class Name(str):
    """Text with the one method that the conditions call."""

    __slots__ = ()

    def startsWith(self, start):  # noqa: N802  # CEL's
        return self.startswith(start)


def holds_here(condition, key, prefix):
    """Evaluate a condition of CEL: with these few words it is one of Python, but for how and, or, not are spelled."""
    for theirs, ours in {"||": " or ", "&&": " and ", "!": " not "}.items():
        condition = condition.replace(theirs, ours)
    place = f"projects/_/buckets/{BUCKET}" + (f"/objects/{key}" if key else "")
    words = {
        "resource": SimpleNamespace(name=Name(place)),
        "api": SimpleNamespace(getAttribute=lambda _, default: Name(prefix or default)),
    }
    return eval(condition, {"__builtins__": {}}, words)  # noqa: S307  # our own file


class GcpRole:
    """The same for GCS: replacing an object takes the permission to delete it."""

    def __init__(self, role, dest, inputs):
        self.bindings = policy("gcp", role, dest, inputs)["bindings"]
        self.used = set()
        self.keys = set()
        self._sessions = set()

    def allows(self, seen):
        if "upload_id=" in seen.path:  # a session was allowed when it began
            return True
        asked, key, prefix = self.asked(seen)
        self.used |= asked
        self.keys.add(key)
        return all(any(self._grants(binding, each, key, prefix) for binding in self.bindings) for each in asked)

    @staticmethod
    def _grants(binding, permission, key, prefix):
        condition = binding["condition"]["expression"]
        return permission in PREDEFINED[binding["role"]] and holds_here(condition, key, prefix)

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

    def __init__(self, name, server, dest="lung"):
        self.name, self.server, self.dest = name, server, f"{name}-{dest}"
        self.scheme = "s3" if name == "aws" else "gs"
        self.url = f"{self.scheme}://{BUCKET}/{self.dest}"

    def at(self, dest):
        """Return the same with another DEST."""
        return Cloud(self.name, self.server, dest)

    @contextmanager
    def acting_as(self, role, inputs=INPUTS):
        """Yield the role and an endpoint, the environment's too, that gives its rights and no others."""
        held = (AwsRole if self.name == "aws" else GcpRole)(role, self.dest, inputs)
        with FaultProxy(self.server.endpoint_url) as proxy, self.reached_at(proxy.endpoint_url):
            refusal = Fault("answer", when=lambda seen: not held.allows(seen), times=1 << 60, status=403)
            refusal.body = DENIED[self.name]
            refusal.headers = {"Content-Type": "application/xml" if self.name == "aws" else "application/json"}
            proxy.faults.append(refusal)
            yield held, proxy.endpoint_url

    @contextmanager
    def reached_at(self, endpoint):
        """Have sources, which know of no option, go by it."""
        filesystem = fsspec.get_filesystem_class(self.scheme)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL" if self.name == "aws" else "STORAGE_EMULATOR_HOST", endpoint)
            filesystem.clear_instance_cache()  # it would keep the endpoint that it had
            yield
        filesystem.clear_instance_cache()

    def store(self, url=None):
        return open_store(url or self.url, endpoint_url=self.server.endpoint_url)


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
def index(cloud, tmp_path_factory):
    """Return an index in the bucket: the first half of its cells lies there, too, the rest in a folder."""
    folder = tmp_path_factory.mktemp("sources")
    first, second = write_sources(folder, n_files=2, n_cells=30, n_genes=50)
    url = f"{cloud.scheme}://{BUCKET}/{INPUTS}"
    store = open_store(url, endpoint_url=cloud.server.endpoint_url)
    store.put_new("first.h5ad", first.read_bytes())
    table = pd.read_feather(write_h5ad_index(folder / "index.feather", [first, second]))
    with cloud.reached_at(cloud.server.endpoint_url):
        there = str(Source("h5ad", f"{url}/first.h5ad", file_version(f"{url}/first.h5ad")))
    table.loc[: len(table) // 2 - 1, "source"] = there
    table.to_feather(folder / "index.feather")
    store.put_new("index.feather", (folder / "index.feather").read_bytes())
    store.close()
    return f"{url}/index.feather"


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """Have plots be some bytes, others each time: to draw them takes longer than all else."""
    numbers = count()
    for name in ("ingest.hvg.plot.draw_hvgs", "ingest.qc.plot.draw_qc"):
        monkeypatch.setattr(name, lambda *_, **__: b"picture %d" % next(numbers))


def of_inputs(role):
    return {key for key in role.keys if key.startswith(f"{INPUTS}/")}


def asked(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code, capsys.readouterr().err


def test_each_role_does_its_work_and_no_other(cloud, index, tmp_path, capsys):
    run = ("run", cloud.url, "--index", index, "-c", 20, "--pool", "serial")
    files = write_sources(tmp_path, n_files=1, n_cells=30, n_genes=50)
    in_reach = write_h5ad_index(tmp_path / "index.feather", files)
    with cloud.acting_as("reader") as (reader, endpoint):
        code, said = asked(capsys, *run, "--index", in_reach, "--endpoint-url", endpoint)
        assert code == 2, said
        assert f"no write permission on {cloud.url}" in said
    with cloud.acting_as("writer") as (writer, endpoint):
        assert asked(capsys, *run, "--endpoint-url", endpoint)[0] == 0
        assert of_inputs(writer) == {f"{INPUTS}/index.feather", f"{INPUTS}/first.h5ad"}
        assert asked(capsys, *run, "--endpoint-url", endpoint)[0] == 0
        for command in (("hvg", "--n-hvgs", 5), ("hvg", "--n-hvgs", 6, "--force")):
            assert asked(capsys, *command, cloud.url, "--pool", "serial", "--endpoint-url", endpoint) == (0, ANY)
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
        assert of_inputs(maintainer) == {f"{INPUTS}/first.h5ad"}
        for _ in range(2):
            assert asked(capsys, *collect, "--endpoint-url", endpoint)[0] == 0
        assert asked(capsys, "verify", cloud.url, "--deep", "--endpoint-url", endpoint)[0] == 0
        assert maintainer.granted() - maintainer.used <= {"s3:AbortMultipartUpload"}
    assert "chunks/chunk_999999.h5ad" not in {stat.key for stat in store.list("chunks/")}
    store.close()
    assert writer.granted() - writer.used <= {"s3:AbortMultipartUpload"}


@contextmanager
def missing_a_source(cloud, folder, endpoint):
    """Plan three chunks while both of two files are there; yield the command that goes on while one is not."""
    files = write_sources(folder, n_files=2, n_cells=30, n_genes=50)
    index = write_h5ad_index(folder / "index.feather", files)
    work = WorkSettings(workers=1, endpoint_url=endpoint)
    make_dataset(cloud.url, index, data=DataSettings(cells_per_chunk=20), work=work, stop_requested=lambda: True)
    away = files[1].rename(folder / "away")
    yield "run", cloud.url, "--pool", "serial", "--endpoint-url", endpoint
    away.rename(files[1])


def test_a_writer_finishes_what_was_incomplete(cloud, tmp_path, capsys):
    """Once ended with exit code 3, then the source is there again; and results are made again with other rules."""
    mended = cloud.at("mended")
    with mended.acting_as("writer") as (_, endpoint):
        with missing_a_source(mended, tmp_path, endpoint) as again:
            assert asked(capsys, *again)[0] == 3
        assert asked(capsys, *again) == (0, ANY)
        for rules in (("--min-genes", 1), ("--min-genes", 2, "--force")):
            judge = ("qc", mended.url, *rules, "--pool", "serial", "--endpoint-url", endpoint)
            assert asked(capsys, *judge) == (0, ANY)
        assert asked(capsys, "verify", mended.url, "--deep", "--endpoint-url", endpoint) == (0, ANY)


def is_written_again(key):
    return key.startswith("_ingest/qc/") or not key.startswith(("_ingest/", "chunks/", SUCCESS_KEY))


def test_a_writer_replaces_summaries_and_results_and_nothing_else(cloud, tmp_path, capsys):
    """Whatever runs without bad cells and of two steps left: chunks, receipts, plan and all that is on record stay."""
    bad, judged = cloud.at("bad"), cloud.at("judged")
    with bad.acting_as("writer") as (_, endpoint), missing_a_source(bad, tmp_path, endpoint) as again:
        assert asked(capsys, *again)[0] == 3
        assert asked(capsys, *again, "--without-bad") == (0, ANY)
    bad.store().put_new(garbage_key("one"), b"marked")
    left = [stat.key for stat in bad.store().list("")]
    once = (CHUNKS, PLAN_KEY, RECEIPTS, AMENDMENTS, FAILURES, RUNS, GARBAGE, SUCCESS_KEY)
    assert [prefix for prefix in once if not any(key.startswith(prefix) for key in left)] == []
    with judged.acting_as("writer") as (_, endpoint):
        run = ("run", judged.url, "--index", tmp_path / "index.feather", "-c", 20, "--pool", "serial")
        assert asked(capsys, *run, "--qc", "min_cells=2", "--endpoint-url", endpoint) == (0, ANY)
    with judged.acting_as("reader") as (_, endpoint):
        assert asked(capsys, "verify", f"{judged.url}-raw", "--endpoint-url", endpoint) == (0, ANY)
    for dest, urls in ((bad, [bad.url]), (judged, [judged.url, f"{judged.url}-raw"])):
        with dest.acting_as("writer") as (_, endpoint):
            for url in urls:
                replaced, removed = replaced_and_removed(dest.store(url), open_store(url, endpoint_url=endpoint))
                # On GCS who may replace an object may delete it.
                assert removed == (replaced if cloud.name == "gcp" else set())


def replaced_and_removed(store, held):
    """Try both on one object of each kind; return where the role let it happen."""
    kinds = {re.sub(r"[0-9a-f]{3,}", "", stat.key): stat.key for stat in store.list("")}
    there = set(kinds.values())
    replaced = {key for key in there if may(held.replace, key, b"other", expected=store.stat(key).version)}
    assert replaced == set(filter(is_written_again, there)) != there
    return replaced, {key for key in there if may(held.delete, key, expected=store.stat(key).version)}


def may(request, *arguments, **named):
    try:
        request(*arguments, **named)
    except CredentialsError as error:
        return error.kind != "permission"
    return True


def test_a_writer_replaces_nothing_on_s3_that_it_has_not_seen(cloud):
    if cloud.name == "aws":
        blind = cloud.at("blind")
        blind.store().put_new(GENE_LIST_KEY, b"{}")
        with blind.acting_as("writer") as (_, endpoint):
            client = boto3.client("s3", endpoint_url=endpoint)
            with pytest.raises(ClientError, match="AccessDenied"):
                client.put_object(Bucket=BUCKET, Key=f"{blind.dest}/{GENE_LIST_KEY}", Body=b"blind")


@pytest.mark.parametrize("path", sorted(IAM.glob("gcp-*.json")), ids=lambda path: path.stem)
def test_conditions_are_as_short_as_iam_wants_them(path):
    """At most twelve logical operators each."""
    for binding in json.loads(path.read_text("utf-8"))["bindings"]:
        assert len(re.findall(r"&&|\|\||!", binding["condition"]["expression"])) <= 12


def test_a_writer_reads_no_other_inputs(cloud, index, capsys):
    run = ("run", f"{cloud.url}/again", "--index", index, "-c", 20, "--pool", "serial")
    with cloud.acting_as("writer", inputs="others") as (writer, endpoint):
        code, said = asked(capsys, *run, "--endpoint-url", endpoint)
    assert code
    assert re.search(f"{index}: .*(no permission to read|Forbidden)", said)
    assert of_inputs(writer) == {f"{INPUTS}/index.feather"}


@pytest.mark.parametrize("cloud_name", ["aws", "gcp"])
def test_what_the_run_of_an_overlay_reads_is_what_its_role_may(cloud_name):
    """As they stand: the index of `run.toml`, in the place that the policy names."""
    settings = tomllib.loads((IAM.parent / "overlays" / cloud_name / "platform" / "run.toml").read_text("utf-8"))
    bucket, _, key = settings["index"].partition("://")[2].partition("/")
    assert bucket == "BUCKET"
    text = (IAM / f"{cloud_name}-writer.json").read_text("utf-8")
    places = re.findall(r"(?:arn:aws:s3:::BUCKET/|/buckets/BUCKET/objects/)(\w+)/", text)
    assert key.partition("/")[0] in places


@pytest.mark.parametrize("role", ["writer", "maintainer"])
def test_roles_hold_for_uploads_in_parts(cloud, role):
    dest, data = cloud.at(f"parts-{role}"), bytes(6 << 20)
    where = parse_store_url(dest.url)
    with dest.acting_as(role) as (held, endpoint):
        store = (
            S3Store(where, endpoint_url=endpoint, single_put_bytes=1, part_bytes=5 << 20)
            if cloud.name == "aws"
            else GCSStore(where, endpoint_url=endpoint, single_post_bytes=1, part_bytes=5 << 20)
        )
        for key in (f"{CHUNKS}{role}", CELLS_KEY):
            there = dest.store().put_new(key, b"smaller")
            with pytest.raises(AlreadyExistsError):
                store.put_new(key, data)
            replaces = role == "maintainer" or key == CELLS_KEY
            assert may(store.replace, key, data, expected=there.version) is replaces
        store.close()
    if cloud.name == "aws":
        assert "s3:AbortMultipartUpload" in held.used


@pytest.mark.parametrize("role", ["reader", "writer", "maintainer"])
@pytest.mark.parametrize("suffix", ["-2", "-raw-2", ""])
def test_what_lies_elsewhere_is_out_of_reach(cloud, role, suffix):
    """All of the bucket but DEST and DEST-raw, also what merely begins as these do."""
    beside = f"{cloud.url}{suffix}" if suffix else cloud.at("others").url
    with cloud.acting_as(role) as (_, endpoint), pytest.raises(IngestError) as caught:
        open_store(beside, endpoint_url=endpoint)
    assert caught.value.kind == "permission"
