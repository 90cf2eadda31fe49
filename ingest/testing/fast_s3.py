"""An S3 look-alike that costs little: memory behind one event loop, for measuring what talks to it.

It checks what clients declare (lengths, SHA-256 and other checksums, parts), honours ``If-None-Match`` and
``If-Match`` on every kind of write, lists in pages and serves ranges. A request may be made to take longer
(``delay_ms``), any number of them at a time, as over a distance. It looks at no signature.

Beside S3, under a name that no bucket can have::

    GET  /-/stats                 requests by kind, bytes in and out, CPU-seconds of this process
    POST /-/reset?delay_ms=20     forget the objects and the counts, set the delay
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from ingest.testing.object_memory import ObjectMemory, Refusal, byte_range
from ingest.testing.s3_requests import S3Request, checked, read_request

if TYPE_CHECKING:
    from ingest.testing.object_memory import StoredObject

__all__ = ["FastS3"]

_BUFFER_BYTES = 8 << 20
_WHEN = "2026-01-05T00:00:00.000Z"
_WHEN_HTTP = "Mon, 05 Jan 2026 00:00:00 GMT"
_PART = re.compile(rb"<Part>(.*?)</Part>", re.DOTALL)
_ETAG = re.compile(rb"<ETag>(?:&quot;|&#34;|\")?([^&<\"]*)")
_NUMBER = re.compile(rb"<PartNumber>(\d+)")


@dataclass(frozen=True, slots=True, eq=False)
class _Reply:
    kind: str
    """S3's name of the operation."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""


class FastS3:
    """The server, listening on a free loopback port from the start; it has the three members of a ``HTTPServer``."""

    def __init__(self) -> None:
        self._memory = ObjectMemory()
        self._counts: Counter[str] = Counter()
        self._bytes_in = self._bytes_out = 0
        self._delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ended = threading.Event()
        start = asyncio.start_server(self._serve_connection, "127.0.0.1", 0, limit=_BUFFER_BYTES)
        self._server = self._loop.run_until_complete(start)
        self.server_port = int(self._server.sockets[0].getsockname()[1])

    def serve_forever(self) -> None:
        """Answer until `shutdown`."""
        try:
            self._loop.run_until_complete(self._over.wait())
        finally:
            self._server.close()
            self._loop.run_until_complete(self._hang_up())
            self._loop.close()
            self._ended.set()

    @staticmethod
    async def _hang_up() -> None:
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def shutdown(self) -> None:
        """End `serve_forever`, which another thread runs."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._ended.wait(timeout=5)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = await read_request(head, reader, writer)
                if self._delay_s and request.bucket != "-":
                    await asyncio.sleep(self._delay_s)
                self._send(request, self._answer(request), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the server goes; a task that ends cancelled is an error to asyncio's streams
        finally:
            writer.close()

    def _send(self, request: S3Request, reply: _Reply, writer: asyncio.StreamWriter) -> None:
        self._counts[reply.kind] += 1
        self._bytes_in += len(request.body)
        self._bytes_out += len(reply.body)
        headers = {"Content-Length": str(len(reply.body)), "Content-Type": "application/xml", **reply.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{lines}\r\n".encode())
        if request.method != "HEAD" and len(reply.body):
            writer.write(reply.body)

    def _answer(self, request: S3Request) -> _Reply:
        kind = _kind_of(request)
        try:
            if request.bucket == "-":
                return self._administer(request)
            return getattr(self, _METHODS.get(kind, "_refuse"))(request)  # type: ignore[no-any-return]  # every entry returns a reply
        except Refusal as refusal:
            text = f"<?xml version='1.0'?><Error><Code>{refusal.code}</Code><Message>{refusal.code}</Message></Error>"
            return _Reply(kind, refusal.status, {}, b"" if request.method == "HEAD" else text.encode())

    def _administer(self, request: S3Request) -> _Reply:
        if request.method == "POST":
            self._memory.forget()
            self._delay_s = float(request.query.get("delay_ms", 0)) / 1000
            self._counts.clear()
            self._bytes_in = self._bytes_out = 0
            return _Reply("-reset")
        facts = {
            "requests": {kind: n for kind, n in sorted(self._counts.items()) if not kind.startswith("-")},
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "cpu_seconds": time.process_time(),
            "objects": self._memory.n_objects,
            "object_bytes": self._memory.n_bytes,
        }
        return _Reply("-stats", body=json.dumps(facts).encode())

    def _create_bucket(self, request: S3Request) -> _Reply:
        self._memory.create_bucket(request.bucket)
        return _Reply("CreateBucket")

    def _head_bucket(self, request: S3Request) -> _Reply:
        self._memory.check_bucket(request.bucket)
        return _Reply("HeadBucket")

    def _list(self, request: S3Request) -> _Reply:
        query = request.query
        after = unquote(query.get("continuation-token", "")) or query.get("start-after", "")
        delimiter, most = unquote(query.get("delimiter", "")), min(1000, int(query.get("max-keys", 1000)))
        found, folders, last = self._page(request.bucket, query.get("prefix", ""), delimiter, after, most)
        plain = query.get("encoding-type") != "url"
        entries = "".join(
            f"<Contents><Key>{escape(key) if plain else quote(key)}</Key><LastModified>{_WHEN}</LastModified>"
            f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.data)}</Size></Contents>"
            for key, stored in found
        ) + "".join(
            f"<CommonPrefixes><Prefix>{escape(name) if plain else quote(name)}</Prefix></CommonPrefixes>"
            for name in folders
        )
        more = "" if last is None else f"<NextContinuationToken>{quote(last)}</NextContinuationToken>"
        text = (
            f"<?xml version='1.0'?><ListBucketResult><Name>{request.bucket}</Name>"
            f"<KeyCount>{len(found) + len(folders)}</KeyCount>"
            f"<EncodingType>{'' if plain else 'url'}</EncodingType>"
            f"<IsTruncated>{str(last is not None).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        )
        return _Reply("ListObjectsV2", body=text.encode())

    def _page(
        self, bucket: str, prefix: str, delimiter: str, after: str, most: int
    ) -> tuple[list[tuple[str, StoredObject]], list[str], str | None]:
        """Return objects, folders and where to go on: with a delimiter, what lies deeper is its folder."""
        if not delimiter:
            everything, last = self._memory.page(bucket, prefix, after, most)
            return everything, [], last
        found: list[tuple[str, StoredObject]] = []
        folders: list[str] = []
        while len(found) + len(folders) < most:
            page, _ = self._memory.page(bucket, prefix, after, 1)
            if not page:
                return found, folders, None
            key = page[0][0]
            name, deeper, _ = key[len(prefix) :].partition(delimiter)
            if deeper:
                folders.append(prefix + name + delimiter)
                after = folders[-1] + "\U0010ffff"  # past all that lies in it
            else:
                found.append(page[0])
                after = key
        return found, folders, after

    def _put(self, request: S3Request) -> _Reply:
        checksums = checked(request)
        stored = self._memory.put(request.bucket, request.key, request.body, checksums, **_conditions(request))
        return _Reply("PutObject", headers={"ETag": stored.etag, **checksums})

    def _get(self, request: S3Request) -> _Reply:
        stored = self._memory.get(request.bucket, request.key)
        headers = {"ETag": stored.etag, "Last-Modified": _WHEN_HTTP, "Content-Type": "binary/octet-stream"}
        if wanted := request.headers.get("range"):
            start, stop = byte_range(wanted, len(stored.data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(stored.data)}"
            return _Reply("GetObject", 206, headers, memoryview(stored.data)[start:stop])
        return _Reply("GetObject", 200, headers | _shown(request, stored), stored.data)

    def _head(self, request: S3Request) -> _Reply:
        stored = self._memory.get(request.bucket, request.key)
        headers = {"ETag": stored.etag, "Last-Modified": _WHEN_HTTP, "Content-Length": str(len(stored.data))}
        return _Reply("HeadObject", 200, headers | _shown(request, stored))

    def _delete(self, request: S3Request) -> _Reply:
        self._memory.delete(request.bucket, request.key, request.headers.get("if-match"))
        return _Reply("DeleteObject", 204)

    def _begin_upload(self, request: S3Request) -> _Reply:
        upload_id = self._memory.begin_upload(request.bucket, request.key)
        text = f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
        return _Reply("CreateMultipartUpload", body=text.encode())

    def _put_part(self, request: S3Request) -> _Reply:
        checksums = checked(request)
        number = int(request.query["partNumber"])
        stored = self._memory.put_part(request.query["uploadId"], number, request.body, checksums)
        return _Reply("UploadPart", headers={"ETag": stored.etag, **checksums})

    def _complete(self, request: S3Request) -> _Reply:
        parts = [_part(found) for found in _PART.findall(request.body)]
        stored = self._memory.complete(request.query["uploadId"], parts, **_conditions(request))
        text = f"<CompleteMultipartUploadResult><ETag>{escape(stored.etag)}</ETag></CompleteMultipartUploadResult>"
        return _Reply("CompleteMultipartUpload", body=text.encode())

    def _abort(self, request: S3Request) -> _Reply:
        self._memory.abort(request.query["uploadId"])
        return _Reply("AbortMultipartUpload", 204)

    @staticmethod
    def _refuse(_: S3Request) -> _Reply:
        raise Refusal(405, "MethodNotAllowed")


_METHODS = {
    "CreateBucket": "_create_bucket",
    "HeadBucket": "_head_bucket",
    "ListObjectsV2": "_list",
    "PutObject": "_put",
    "GetObject": "_get",
    "HeadObject": "_head",
    "DeleteObject": "_delete",
    "CreateMultipartUpload": "_begin_upload",
    "UploadPart": "_put_part",
    "CompleteMultipartUpload": "_complete",
    "AbortMultipartUpload": "_abort",
}
Place = Literal["bucket", "key", "upload", "uploads"]
_KINDS: dict[tuple[Place, str], str] = {
    ("bucket", "PUT"): "CreateBucket",
    ("bucket", "HEAD"): "HeadBucket",
    ("bucket", "GET"): "ListObjectsV2",
    ("key", "PUT"): "PutObject",
    ("key", "GET"): "GetObject",
    ("key", "HEAD"): "HeadObject",
    ("key", "DELETE"): "DeleteObject",
    ("uploads", "POST"): "CreateMultipartUpload",
    ("upload", "PUT"): "UploadPart",
    ("upload", "POST"): "CompleteMultipartUpload",
    ("upload", "DELETE"): "AbortMultipartUpload",
}


def _kind_of(request: S3Request) -> str:
    place: Place = "key" if request.key else "bucket"
    if request.key and "uploads" in request.query:
        place = "uploads"
    elif request.key and "uploadId" in request.query:
        place = "upload"
    return _KINDS.get((place, request.method), "Unknown")


def _part(found: bytes) -> tuple[int, str]:
    number, etag = _NUMBER.search(found), _ETAG.search(found)
    if number is None or etag is None:
        raise Refusal(400, "MalformedXML")
    return int(number[1]), f'"{etag[1].decode()}"'


def _conditions(request: S3Request) -> dict[str, str | None]:
    return {"if_match": request.headers.get("if-match"), "if_none_match": request.headers.get("if-none-match")}


def _shown(request: S3Request, stored: StoredObject) -> dict[str, str]:
    return stored.checksums if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" else {}
