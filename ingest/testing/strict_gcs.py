"""gcp-storage-emulator as a stricter GCS: generations are conditions, listings have pages, requests run in threads."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import threading
from functools import partial, partialmethod
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage

__all__ = ["StrictStorage", "make_gcs_server"]

_LIST = re.compile(r"(?:/storage/v1)?/b/(?P<bucket>[-.\w]+)/o")
_RELATED = re.compile(r"""multipart/related;\s*boundary=["']?(?P<boundary>[^"';]+)""")
_PAGE = 1000


class _ConditionFailedError(Exception):
    """The object's generation is not the one asked for."""


class StrictStorage(Storage):  # type: ignore[misc]  # the emulator has no types
    """The emulator's memory, with ``ifGenerationMatch`` on every write, read and deletion.

    A resumable upload keeps the condition that it was started with and is held to it twice: when it starts and
    when it becomes an object.
    """

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self._request = threading.local()
        self._sessions: dict[str, str | None] = {}
        self.completed: dict[str, Any] = {}
        self.lock = threading.RLock()

    def begin(self, query: dict[str, list[str]]) -> None:
        """Note the conditions of the request that this thread is about to serve."""
        self._request.generation = query.get("ifGenerationMatch", [None])[0]
        self._request.wanted = query.get("generation", [None])[0]

    def create_file(self, bucket_name: str, file_name: str, content: bytes, file_obj: Any, file_id: Any = None) -> None:
        """Store an object if the condition of the request, or of its session, holds."""
        condition = self._request.generation if file_id is None else self._sessions.get(file_id)
        self._hold(bucket_name, file_name, condition)
        super().create_file(bucket_name, file_name, content, file_obj, file_id)
        if file_id is not None:
            self.completed[file_id] = file_obj

    def create_resumable_upload(self, bucket_name: str, file_name: str, file_obj: Any) -> str:
        """Start a session if the condition of the request holds, and keep it."""
        self._hold(bucket_name, file_name, self._request.generation)
        session = str(super().create_resumable_upload(bucket_name, file_name, file_obj))
        self._sessions[session] = self._request.generation
        return session

    def delete_file(self, bucket_name: str, file_name: str) -> None:
        """Remove an object if the condition of the request holds."""
        self._hold(bucket_name, file_name, self._request.generation)
        super().delete_file(bucket_name, file_name)

    def get_file_obj(self, bucket_name: str, file_name: str) -> Any:
        """Return an object's description if it is of the generation asked for."""
        found = super().get_file_obj(bucket_name, file_name)
        if self._request.wanted not in (None, found["generation"]):
            raise NotFound
        return found

    def _hold(self, bucket_name: str, file_name: str, condition: str | None) -> None:
        found = self.objects.get(bucket_name, {}).get(file_name)
        generation = "0" if found is None else found["generation"]
        if condition == generation or condition is None:
            return
        if found is None and condition != "0" and not self.buckets.get(bucket_name):
            raise NotFound
        raise _ConditionFailedError

    def _bucket_soft_delete_retention_seconds(self, _bucket_name: str) -> int:
        return 0

    def _write_config_to_file(self) -> None:
        # The emulator writes all metadata after every request; in memory nobody ever reads it.
        return


class _Handler(RequestHandler):  # type: ignore[misc]  # the emulator has no types
    protocol_version = "HTTP/1.1"
    storage: StrictStorage
    rfile: BinaryIO
    disable_nagle_algorithm = True  # head and body are two writes; without it each answer waits 40 ms for an ACK

    def _serve(self, method: str) -> None:
        """Route one request; its body is read in any case, since the connection is used again."""
        connection: BinaryIO = self.rfile
        parts = urlsplit(self.path)
        if self.headers.get("Content-Length"):
            length = int(self.headers["Content-Length"])
            body = connection.read(length)
            if len(body) < length:  # whoever hangs up half way has asked for nothing
                self.close_connection = True
                return
            self.rfile = io.BytesIO(body)
        query = parse_qs(parts.query)
        listing = _LIST.fullmatch(unquote(parts.path))
        try:
            with self.storage.lock:
                self.storage.begin(query)
                session = query.get("upload_id", [""])[0]
                if method == "GET" and listing:
                    self._list(listing["bucket"], {name: values[0] for name, values in query.items()})
                elif session in self.storage.completed:  # the emulator forgets what GCS still answers for
                    self._answer(HTTPStatus.OK, self.storage.completed[session])
                else:
                    Router(self).handle(method)
        except _ConditionFailedError:
            self._answer(HTTPStatus.PRECONDITION_FAILED, _error(412, "conditionNotMet"))
        finally:
            self.rfile = connection

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        try:
            files, prefixes = self.storage.get_file_list(
                bucket, query.get("prefix"), query.get("delimiter"), query.get("matchGlob")
            )
        except NotFound:
            self._answer(HTTPStatus.NOT_FOUND, _error(404, "notFound", "The specified bucket does not exist."))
            return
        named = sorted([(file["name"], file) for file in files] + [(prefix, None) for prefix in prefixes])
        after = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        low, high = query.get("startOffset", ""), query.get("endOffset")
        rest = [(name, file) for name, file in named if name > after and name >= low and (not high or name < high)]
        page = rest[: min(int(query.get("maxResults", _PAGE)), _PAGE)]
        found: dict[str, Any] = {"kind": "storage#objects"}
        found["items"] = [file for _, file in page if file is not None]
        found["prefixes"] = [name for name, file in page if file is None]
        if len(rest) > len(page):
            found["nextPageToken"] = base64.urlsafe_b64encode(page[-1][0].encode()).decode()
        self._answer(HTTPStatus.OK, found)

    def _answer(self, status: HTTPStatus, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# The names are http.server's.
for _method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(_Handler, f"do_{_method}", partialmethod(_Handler._serve, _method))


_read_data = emulator._read_data


def _read_data_fast(handler: Any, query: Any) -> Any:
    """Take the two parts of an upload apart by their boundary; the emulator's e-mail parser needs 5 s for 100 MB."""
    match = _RELATED.match(handler.headers.get("Content-Type", ""))
    if match is None or not handler.headers.get("Content-Length"):
        return _read_data(handler, query)
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    boundary = b"--" + match["boundary"].encode()
    _, meta, rest = body.split(boundary, 2)
    kind, _, content = rest.partition(b"\r\n\r\n") if b"\r\n\r\n" in rest[:300] else rest.partition(b"\n\n")
    end = content.rindex(boundary)
    line_end = 2 if content[:end].endswith(b"\r\n") else 1
    return {
        "meta": json.loads(meta[meta.index(b"{") :]),
        "content": content[: end - line_end],
        "content-type": kind.partition(b":")[2].strip().decode() or "application/octet-stream",
    }


_say_incomplete = objects._resumable_incomplete


def _say_incomplete_truly(response: Any, storage: Any, upload_id: str, fallback_end: int = 0) -> None:
    """Leave ``Range`` out where nothing has come yet, as GCS does; the emulator claims one byte."""
    _say_incomplete(response, storage, upload_id, fallback_end)
    if not storage.get_resumable_byte_count(upload_id):
        response._headers.pop("Range", None)


def make_gcs_server(port: int = 0) -> ThreadingHTTPServer:
    """Return a server on the loopback interface, not yet serving."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.getLogger("api.object").setLevel(logging.CRITICAL)
    emulator._read_data = _read_data_fast
    objects._resumable_incomplete = _say_incomplete_truly
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, StrictStorage()))


def _error(code: int, reason: str, message: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message or reason, "errors": [{"reason": reason, "message": message}]}}
