"""S3 and what speaks its language: conditional writes with SHA-256, checked reads, our own retries."""

from __future__ import annotations

import base64
import hashlib
from contextlib import closing, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import boto3.session
import botocore.loaders
import botocore.session
from botocore.config import Config

from ingest.bandwidth import Line
from ingest.errors import (
    AlreadyExistsError,
    ConfigError,
    ConflictError,
    CorruptError,
    CredentialsError,
    IngestError,
    NotFoundError,
    PreconditionError,
)
from ingest.masked_logs import mask_logs
from ingest.retry import Budget, Retrier
from ingest.store.action import CREDENTIALS_EXPIRED, Action, Pages
from ingest.store.base import ObjectStat
from ingest.store.body import FileBody, PacedReader, as_view, holds, open_body, readable
from ingest.store.keys import check_key, check_prefix
from ingest.store.s3_errors import CAUGHT, check_range, explain, page_of, with_fields
from ingest.store.s3_multipart import put_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from ingest.store.body import Body
    from ingest.store.url import StoreUrl

__all__ = ["S3Store"]

T = TypeVar("T")

mask_logs()

_SINGLE_PUT_BYTES = 1 << 30
_PART_BYTES = 64 << 20


class S3Store:
    """A prefix of an S3 bucket.

    Every write carries a condition and a SHA-256 that the store compares; a store that does not say it did is
    read back. botocore's own retries are off: they would hide how often the store was slow, know no common
    budget and ignore ``Retry-After``.

    Parameters
    ----------
    where
        Bucket and prefix.
    endpoint_url
        Of a look-alike; it is then addressed by path, since its host name knows no buckets.
    budget
        How long one operation may be tried again.
    line
        What all bytes pass; one without limit unless given.
    single_put_bytes, part_bytes
        Objects larger than the first go up in parts of the second (S3: at least 5 MiB, at most 10,000 of them).

    Raises
    ------
    ConfigError, CredentialsError, TransientError
        The first listing failed: no such bucket, no credentials, no permission, no answer.
    """

    def __init__(
        self,
        where: StoreUrl,
        *,
        endpoint_url: str | None = None,
        budget: Budget | None = None,
        line: Line | None = None,
        single_put_bytes: int = _SINGLE_PUT_BYTES,
        part_bytes: int = _PART_BYTES,
    ) -> None:
        self._where, self._endpoint_url = where, endpoint_url
        self._single_put_bytes, self._part_bytes = single_put_bytes, part_bytes
        self._base = f"{where.prefix}/" if where.prefix else ""
        self._credentials = "nowhere"
        self._retrier, self._line = Retrier(budget), line or Line()
        self._client = self._connect()
        self._page("", None, limit=1)

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return str(self._where)

    @property
    def retries(self) -> int:
        """Requests that were sent again so far."""
        return self._retrier.retries

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Create `key` if it is absent; see `Store.put_new`."""
        return self._put(check_key(key), as_view(data), {"IfNoneMatch": "*"}, AlreadyExistsError)

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Overwrite `key` only while its ETag is `expected`; see `Store.replace`.

        An earlier try of this call whose reply was lost makes the next one fail its condition; what is there is
        then read, and the call has succeeded when it is `data`.
        """
        return self._overwrite(key, as_view(data), expected)

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Create `key` from a local file, in parts when it is larger than one; see `Store.put_new_file`."""
        with open_body(path) as body:
            return self._put(check_key(key), body, {"IfNoneMatch": "*"}, AlreadyExistsError)

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Overwrite `key` by a local file, in parts when it is larger than one; see `replace`."""
        with open_body(path) as body:
            return self._overwrite(key, body, expected)

    def _overwrite(self, key: str, body: Body, expected: str) -> ObjectStat:
        before = self.retries
        try:
            return self._put(check_key(key), body, {"IfMatch": expected}, PreconditionError)
        except NotFoundError as error:
            raise PreconditionError(f"{self.url}/{key} is absent, expected version {expected}", key=key) from error
        except PreconditionError:
            if self.retries > before and holds(self, key, body):
                return self.stat(key)
            raise

    def get(self, key: str) -> bytes:
        """Return all bytes of `key`, compared with the checksum stored beside them."""
        name, action = self._name(key), self._action("GetObject", "read", key)

        def read(client: S3Client) -> bytes:
            reply = client.get_object(Bucket=self._where.bucket, Key=name, ChecksumMode="ENABLED")
            # Not `with`: entering it hands out the raw stream, past the checks of length and checksum.
            with closing(reply["Body"]) as body:
                with_fields(reply, action, "ETag")
                data = body.read()
            self._line.owe(len(data))
            return data

        return self._call(action, read)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start`; a shorter answer is a ``CorruptError``."""
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        if length == 0:
            self.stat(key)
            return b""
        name, span = self._name(key), f"bytes={start}-{start + length - 1}"
        action = self._action("GetObject", "read", key)

        def read(client: S3Client) -> bytes:
            found = client.get_object(Bucket=self._where.bucket, Key=name, Range=span)
            with closing(found["Body"]) as body:
                reply = with_fields(found, action, "ETag", "ContentLength")
                if reply["ContentLength"] != length:
                    said = f"{reply['ContentLength']} of {length} bytes from {start}"
                    raise CorruptError(f"{self.url}/{key}: {said}", kind="short-read", key=key)
                check_range(reply, action, start, length)
                self._line.owe(length)
                return body.read()

        return self._call(action, read)

    def stat(self, key: str) -> ObjectStat:
        """Return size and ETag of `key`."""
        name = self._name(key)
        reply = self._ask(
            self._action("HeadObject", "read", key),
            lambda client: client.head_object(Bucket=self._where.bucket, Key=name),
            "ContentLength",
            "ETag",
        )
        return ObjectStat(key, reply["ContentLength"], reply["ETag"])

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield every object whose key starts with `prefix` and comes after `after`, in key order, all pages."""
        check_prefix(prefix)
        token: str | None = None
        pages = Pages(self._action("ListObjectsV2", "list", ""))
        while True:
            page = self._page(prefix, token, after=after)
            for entry in page.get("Contents", []):
                key = entry["Key"][len(self._base) :]
                # Folder markers of other tools are no objects of ours; a look-alike may know nothing of StartAfter.
                if not key.endswith("/") and key > after:
                    yield ObjectStat(key, entry["Size"], entry["ETag"])
            token = pages.following(page.get("NextContinuationToken"))
            if token is None:
                return

    def delete(self, key: str, *, expected: str) -> None:
        """Remove `key` only while its ETag is `expected`; see `Store.delete`.

        S3 answers the deletion of what is absent with success, so the object is looked at first; the condition in
        the request itself closes the gap between the two.
        """
        name = self._name(key)
        found = self.stat(key).version
        if found != expected:
            raise PreconditionError(f"{self.url}/{key} has version {found}, expected {expected}", key=key)
        action = self._action("DeleteObject", "delete", key)
        try:
            self._call(
                action, lambda client: client.delete_object(Bucket=self._where.bucket, Key=name, IfMatch=expected)
            )
        except (NotFoundError, PreconditionError):
            if self._present(key):  # else it went in this instant: by an earlier try whose reply was lost
                raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _present(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFoundError:
            return False
        return True

    def _put(self, key: str, body: Body, condition: dict[str, str], refused: type[ConflictError]) -> ObjectStat:
        action = self._action("PutObject", "write", key, refused)
        # What lies in a file is not brought into memory for the sake of a single request.
        most = self._part_bytes if isinstance(body, FileBody) else self._single_put_bytes
        if len(body) > most:
            size = self._part_bytes
            etag, verified = put_parts(
                lambda run, *needed: self._ask(action, run, *needed),
                self._where.bucket,
                self._base + key,
                body,
                size,
                condition,
                self._line,
            )
            self._confirm(key, verified or holds(self, key, body))
            return ObjectStat(key, len(body), etag)
        view = body[:]
        digest = base64.b64encode(hashlib.sha256(view).digest()).decode()
        reply = self._ask(action, lambda client: self._put_once(client, key, view, digest, condition), "ETag")
        # Read back from a store that does not say that it compared the checksum.
        self._confirm(key, reply.get("ChecksumSHA256") == digest or self.get(key) == view)
        return ObjectStat(key, len(view), str(reply["ETag"]))

    def _put_once(self, client: S3Client, key: str, view: memoryview, digest: str, condition: dict[str, str]) -> object:
        return client.put_object(
            Bucket=self._where.bucket,
            Key=self._base + key,
            Body=cast("bytes", readable(view, self._line)),
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=digest,
            **cast("Any", condition),
        )

    def _confirm(self, key: str, same: bool) -> None:
        if not same:
            raise CorruptError(
                f"{self.url}/{key}: the store holds other bytes than were sent", kind="checksum-mismatch", key=key
            )

    def _page(self, prefix: str, token: str | None, limit: int = 1000, *, after: str = "") -> dict[str, Any]:
        more = {} if token is None else {"ContinuationToken": token}
        if after:
            more["StartAfter"] = self._base + after
        full, action = self._base + prefix, self._action("ListObjectsV2", "list", "")
        return self._call(
            action,
            lambda client: page_of(
                client.list_objects_v2(Bucket=self._where.bucket, Prefix=full, MaxKeys=limit, **cast("Any", more)),
                action,
            ),
        )

    def _ask(self, action: Action, run: Callable[[S3Client], object], *needed: str) -> dict[str, Any]:
        """Run a request whose reply must have these fields."""
        return self._call(action, lambda client: with_fields(run(client), action, *needed))

    def _call(self, action: Action, run: Callable[[S3Client], T]) -> T:
        """Run a request within the budget; expired credentials are fetched afresh once."""
        try:
            return self._retrier.call(lambda _: self._once(action, run))
        except CredentialsError as error:
            if error.kind != CREDENTIALS_EXPIRED:
                raise
        self._client = self._connect()
        return self._retrier.call(lambda _: self._once(action, run))

    def _once(self, action: Action, run: Callable[[S3Client], T]) -> T:
        self._line.begin()
        try:
            return run(self._client)
        except IngestError:
            raise
        except CAUGHT as error:
            raise explain(error, action) from error
        except RecursionError:
            # botocore asks where the bucket is, and is redirected again: a thousand causes that tell nobody anything.
            raise ConfigError(
                f"{action.where}: the store redirects and does not say where to",
                kind="store-refused",
                hint="set AWS_REGION to the bucket's, or check the endpoint",
                key=action.key,
            ) from None

    def _connect(self) -> S3Client:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=32,
            tcp_keepalive=True,
            s3=cast("Any", {"addressing_style": "path"} if self._endpoint_url else {}),
        )
        action = self._action("the configuration", "read", "")
        try:
            session = _session()
            client = session.client(
                "s3",
                endpoint_url=self._endpoint_url,
                # A look-alike has no regions, but a signature always names one.
                region_name=session.region_name or "us-east-1",
                config=config,
            )
            client.meta.events.register("before-send.s3", _on_its_way)
            self._credentials = _source(session)
        except CAUGHT as error:
            raise explain(error, action) from error
        except ValueError as error:
            raise ConfigError(f"{self.url}: {error}", kind="bad-endpoint") from error
        return client

    def _action(self, name: str, verb: str, key: str, refused: type[ConflictError] = PreconditionError) -> Action:
        return Action(name, verb, self.url, key, self._credentials, refused)

    def _name(self, key: str) -> str:
        return self._base + check_key(key)


def _on_its_way(request: Any, **_: object) -> None:
    """Hear from botocore that a request is signed and goes out now; it returns nothing, so that it does."""
    if isinstance(request.body, PacedReader):
        request.body.on_its_way()


def _session() -> boto3.session.Session:
    """Return a session of its own: it finds the credentials that are there now."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _service_models(core.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=core)


@cache
def _service_models(path: str | None) -> botocore.loaders.Loader:
    """Return what reads and keeps the descriptions of S3: a megabyte of JSON, nine tenths of a client's making."""
    return botocore.loaders.create_loader(path)


def _source(session: boto3.session.Session) -> str:
    """Say where the credentials come from; never what they are."""
    found = None
    with suppress(*CAUGHT):
        found = session.get_credentials()
    if found is None:
        return "nowhere"
    words = {
        "env": "the environment",
        "shared-credentials-file": "the credentials file",
        "iam-role": "the machine's role",
    }
    return f"{words.get(found.method, found.method)} (profile {session.profile_name})"
