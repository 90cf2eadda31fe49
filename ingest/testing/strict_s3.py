"""moto as a stricter S3: checksums and declared lengths are compared, and conditional writes are atomic."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import threading
import zlib
from typing import TYPE_CHECKING, Any

import google_crc32c
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.test import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["StrictChecksums", "make_s3_server"]

_WRITES = ("PUT", "POST", "DELETE")
_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "HTTP_X_AMZ_CHECKSUM_SHA256": lambda data: hashlib.sha256(data).digest(),
    "HTTP_X_AMZ_CHECKSUM_SHA1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "HTTP_X_AMZ_CHECKSUM_CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "HTTP_X_AMZ_CHECKSUM_CRC32C": lambda data: int(google_crc32c.value(data)).to_bytes(4, "big"),
    "HTTP_CONTENT_MD5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
}


class StrictChecksums:
    """WSGI application that refuses a body unlike its checksum before `app` sees it.

    moto stores whatever comes, checks a condition in one step and writes in another: writes are therefore let
    through one at a time.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._one_write = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        if environ["REQUEST_METHOD"] not in _WRITES:
            return self._app(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        code = _complaint(environ, body)
        if code is not None:
            return _refuse(start_response, "400 Bad Request", code)
        environ["wsgi.input"] = io.BytesIO(body)
        with self._one_write:
            if self._is_outdated(environ):
                return _refuse(start_response, "412 Precondition Failed", "PreconditionFailed")
            return list(self._app(environ, start_response))

    def _is_outdated(self, environ: dict[str, Any]) -> bool:
        """Whether a multipart upload is to be completed over another version than it names; moto does not look."""
        wanted = environ.get("HTTP_IF_MATCH")
        if environ["REQUEST_METHOD"] != "POST" or wanted is None:
            return False
        # Whoever may write may look: what was put in one request is shown to nobody who comes without a signature.
        signed = {"Authorization": environ.get("HTTP_AUTHORIZATION", "")}
        where = f"http://{environ['HTTP_HOST']}"
        found = Client(self._app).head(environ["PATH_INFO"], base_url=where, headers=signed)
        return bool(found.headers.get("ETag") != wanted)


def _refuse(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]


def make_s3_server(port: int = 0) -> BaseWSGIServer:
    """Return a server on the loopback interface, not yet serving."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = StrictChecksums(DomainDispatcherApplication(create_backend_app))
    return make_server("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


def _complaint(environ: dict[str, Any], body: bytes) -> str | None:
    """Return the code of S3's error when `body` is not what the request says it is."""
    if len(body) != int(environ.get("CONTENT_LENGTH") or 0):
        return "IncompleteBody"
    if "aws-chunked" in environ.get("HTTP_CONTENT_ENCODING", ""):
        return None  # moto takes the frames apart; their checksum follows the body
    signed = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
    if len(signed) == 64 and signed != hashlib.sha256(body).hexdigest():
        return "XAmzContentSHA256Mismatch"
    for name, digest in _CHECKSUMS.items():
        if name in environ and base64.b64encode(digest(body)).decode() != environ[name] and b"<Complete" not in body:
            return "BadDigest" if name == "HTTP_CONTENT_MD5" else "XAmzContentChecksumMismatch"
    return None
