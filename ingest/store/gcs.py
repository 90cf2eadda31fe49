"""GCS: writes on a condition over the generation, CRC32C compared both ways, our own retries."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

import google_crc32c

from ingest.bandwidth import Line
from ingest.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptError,
    CredentialsError,
    NotFoundError,
    PreconditionError,
)
from ingest.retry import Budget, Retrier
from ingest.store.action import CREDENTIALS_EXPIRED, Action, Pages, is_range
from ingest.store.base import ObjectStat
from ingest.store.body import FileBody, as_view, holds, open_body, pieces
from ingest.store.gcs_answers import description, other_answer, page, session_url
from ingest.store.gcs_errors import explain
from ingest.store.gcs_http import GCSClient
from ingest.store.gcs_resumable import ResumableUpload
from ingest.store.keys import check_key, check_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ingest.store.body import Body
    from ingest.store.gcs_http import Reply
    from ingest.store.url import StoreUrl

__all__ = ["GCSStore"]

T = TypeVar("T")

_SINGLE_POST_BYTES = 256 << 20
_PART_BYTES = 64 << 20
_PARTIAL = 206
_OF_OBJECTS = ("X-Goog-Hash", "X-Goog-Generation", "ETag")
"""Headers of which an object's bytes bring one, at least; login pages and proxies answer 200, too."""


class GCSStore:
    """A prefix of a GCS bucket.

    Every write carries ``ifGenerationMatch`` (0: only if absent) and the CRC32C of its bytes, with which GCS
    refuses a damaged upload before it becomes an object; the CRC32C in the answer is compared once more. Whole
    reads are compared with the ``X-Goog-Hash`` beside them. A version is a generation.

    Parameters
    ----------
    where
        Bucket and prefix.
    endpoint_url
        Of a look-alike.
    budget
        How long one operation may be tried again.
    line
        What all bytes pass; one without limit unless given.
    single_post_bytes, part_bytes
        Objects larger than the first go up by a resumable upload in parts of the second, a multiple of 256 KiB.

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
        single_post_bytes: int = _SINGLE_POST_BYTES,
        part_bytes: int = _PART_BYTES,
    ) -> None:
        self._where = where
        self._single_post_bytes, self._part_bytes = single_post_bytes, part_bytes
        self._base = f"{where.prefix}/" if where.prefix else ""
        self._retrier = Retrier(budget)
        self._client = GCSClient(endpoint_url, str(where), line or Line())
        self._page("", "", limit=1)

    @property
    def url(self) -> str:
        """``gs://bucket/prefix``."""
        return str(self._where)

    @property
    def retries(self) -> int:
        """Requests that were sent again so far."""
        return self._retrier.retries

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Create `key` if it is absent; see `Store.put_new`."""
        return self._put(check_key(key), as_view(data), "0", AlreadyExistsError)

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Overwrite `key` only while its generation is `expected`; see `Store.replace`.

        An earlier try of this call whose reply was lost makes the next one fail its condition; what is there is
        then read, and the call has succeeded when it is `data`.
        """
        return self._overwrite(key, as_view(data), expected)

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Create `key` from a local file, in parts when it is larger than one; see `Store.put_new_file`."""
        with open_body(path) as body:
            return self._put(check_key(key), body, "0", AlreadyExistsError)

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Overwrite `key` by a local file, in parts when it is larger than one; see `replace`."""
        with open_body(path) as body:
            return self._overwrite(key, body, expected)

    def _overwrite(self, key: str, body: Body, expected: str) -> ObjectStat:
        if not expected.isdecimal() or expected == "0":  # 0 would mean: only if absent
            raise PreconditionError(f"{self.url}/{key}: {expected!r} is no generation", key=key)
        before = self.retries
        try:
            return self._put(check_key(key), body, expected, PreconditionError)
        except PreconditionError:
            if self.retries > before and holds(self, key, body):
                return self.stat(key)
            raise

    def get(self, key: str) -> bytes:
        """Return all bytes of `key`, compared with the checksum stored beside them."""
        action = self._action("objects.get", "read", key)

        def check(reply: Reply) -> bytes:
            if not any(name in reply.headers for name in _OF_OBJECTS):
                raise other_answer(reply, action)
            wanted = _hash_header(reply)
            if wanted is not None and wanted != _crc32c(memoryview(reply.body)):
                raise self._damaged(key)
            return reply.body

        return self._request(action, "GET", self._media_url(key), check)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start`; a shorter answer is a ``CorruptError``."""
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        if length == 0:
            self.stat(key)
            return b""

        action = self._action("objects.get", "read", key)

        def check(reply: Reply) -> bytes:
            if reply.status == _PARTIAL and len(reply.body) != length:
                said = f"{len(reply.body)} of {length} bytes from {start}"
                raise CorruptError(f"{self.url}/{key}: {said}", kind="short-read", key=key)
            if reply.status != _PARTIAL or not is_range(reply.headers.get("Content-Range"), start, length):
                raise other_answer(reply, action)
            return reply.body

        span = {"Range": f"bytes={start}-{start + length - 1}"}
        return self._request(action, "GET", self._media_url(key), check, headers=span)

    def stat(self, key: str) -> ObjectStat:
        """Return size and generation of `key`."""
        url = self._client.object_url(self._where.bucket, self._name(key), fields="size,generation")
        action = self._action("objects.get", "read", key)
        found = self._request(action, "GET", url, lambda reply: description(reply, action))
        return ObjectStat(key, int(found["size"]), str(found["generation"]))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield every object whose key starts with `prefix` and comes after `after`, in key order, all pages."""
        check_prefix(prefix)
        token, pages = "", Pages(self._action("objects.list", "list", ""))
        while True:
            found = self._page(prefix, token, after=after)
            for entry in found["items"] or []:
                key = entry["name"][len(self._base) :]
                # Folder markers of other tools are no objects of ours; startOffset is of what is listed, the first.
                if not key.endswith("/") and key > after:
                    yield ObjectStat(key, int(entry["size"]), str(entry["generation"]))
            token = pages.following(found["nextPageToken"] or None) or ""
            if not token:
                return

    def delete(self, key: str, *, expected: str) -> None:
        """Remove `key` only while its generation is `expected`; see `Store.delete`."""
        found = self.stat(key).version
        if found != expected:
            raise PreconditionError(f"{self.url}/{key} has version {found}, expected {expected}", key=key)
        url = self._client.object_url(self._where.bucket, self._name(key), ifGenerationMatch=expected)
        try:
            self._request(self._action("objects.delete", "delete", key), "DELETE", url, lambda _: None)
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

    def _put(self, key: str, body: Body, generation: str, refused: type[ConflictError]) -> ObjectStat:
        action, crc32c = self._action("objects.insert", "write", key, refused), _crc32c(body)
        # What lies in a file is not brought into memory for the sake of a single request.
        most = self._part_bytes if isinstance(body, FileBody) else self._single_post_bytes
        if len(body) > most:
            found = self._put_resumable(action, key, body, crc32c, generation)
        else:
            found = self._put_once(action, key, body[:], crc32c, generation)
        if found.get("crc32c") != crc32c or int(found["size"]) != len(body):
            raise self._damaged(key)
        return ObjectStat(key, len(body), str(found["generation"]))

    def _put_once(self, action: Action, key: str, view: memoryview, crc32c: str, generation: str) -> dict[str, Any]:
        """Send metadata and bytes as the two parts of one request."""
        boundary = secrets.token_hex(16)
        about = json.dumps({"name": self._name(key), "crc32c": crc32c, "contentType": "application/octet-stream"})
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        body = [memoryview(head.encode()), view, memoryview(f"\r\n--{boundary}--\r\n".encode())]
        url = self._client.upload_url(self._where.bucket, uploadType="multipart", ifGenerationMatch=generation)
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        return self._request(action, "POST", url, lambda reply: description(reply, action), headers=headers, body=body)

    def _put_resumable(self, action: Action, key: str, body: Body, crc32c: str, generation: str) -> dict[str, Any]:
        about = json.dumps({"name": self._name(key), "crc32c": crc32c, "contentType": "application/octet-stream"})
        url = self._client.upload_url(self._where.bucket, uploadType="resumable", ifGenerationMatch=generation)
        headers = {"Content-Type": "application/json; charset=UTF-8", "X-Upload-Content-Length": str(len(body))}
        session = self._request(
            action,
            "POST",
            url,
            lambda reply: session_url(reply, action, url),
            headers=headers,
            body=[memoryview(about.encode())],
        )
        upload = ResumableUpload(self._client, action, session, body, self._part_bytes)
        return upload.run(self._retrier)

    def _page(self, prefix: str, token: str, limit: int = 1000, *, after: str = "") -> dict[str, Any]:
        more = {"pageToken": token} if token else {}
        if after:
            more["startOffset"] = self._base + after
        url = self._client.object_url(
            self._where.bucket,
            "",
            prefix=self._base + prefix,
            maxResults=str(limit),
            fields="kind,items(name,size,generation),nextPageToken",
            **more,
        )
        action = self._action("objects.list", "list", "")
        return self._request(action, "GET", url, lambda reply: page(reply, action))

    def _request(
        self,
        action: Action,
        method: str,
        url: str,
        read: Callable[[Reply], T],
        *,
        headers: dict[str, str] | None = None,
        body: Sequence[memoryview] | None = None,
    ) -> T:
        """Send a request within the budget and read its answer; refused credentials are fetched afresh once."""

        def once(_: int) -> T:
            reply = self._client.send(method, url, headers=headers, body=body)
            if reply.status >= 300:
                raise explain(reply, action)
            return read(reply)

        try:
            return self._retrier.call(once)
        except CredentialsError as error:
            if error.kind != CREDENTIALS_EXPIRED:
                raise
        self._client.renew()
        return self._retrier.call(once)

    def _action(self, name: str, verb: str, key: str, refused: type[ConflictError] = PreconditionError) -> Action:
        return Action(name, verb, self.url, key, self._client.identity, refused)

    def _media_url(self, key: str) -> str:
        return self._client.object_url(self._where.bucket, self._name(key), alt="media")

    def _name(self, key: str) -> str:
        return self._base + check_key(key)

    def _damaged(self, key: str) -> CorruptError:
        return CorruptError(f"{self.url}/{key}: the bytes fail their checksum", kind="checksum-mismatch", key=key)


def _crc32c(body: Body) -> str:
    """Return the CRC32C of `body` as GCS writes it: big-endian, base64."""
    value = 0
    for piece in pieces(body, 1 << 20):
        value = google_crc32c.extend(value, bytes(piece))  # the library takes nothing but bytes
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def _hash_header(reply: Reply) -> str | None:
    parts = [part.strip() for part in reply.headers.get("X-Goog-Hash", "").split(",")]
    return next((part.partition("=")[2] for part in parts if part.startswith("crc32c=")), None)
