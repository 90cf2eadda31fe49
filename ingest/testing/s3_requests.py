"""Requests as S3 clients send them: bodies with a length, in chunks or in AWS' own frames, and their checksums."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import google_crc32c

from ingest.testing.object_memory import Refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["S3Request", "checked", "read_request"]

_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "x-amz-checksum-crc32c": lambda data: int(google_crc32c.value(data)).to_bytes(4, "big"),
    "content-md5": lambda data: hashlib.md5(data, usedforsecurity=False).digest(),
}


@dataclass(frozen=True, slots=True, eq=False)
class S3Request:
    """One request, read whole."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


def checked(request: S3Request) -> dict[str, str]:
    """Return the checksums that the request declares, once they are found right; ``Refusal`` 400 where they are not."""
    declared = {name: request.headers[name] for name in _CHECKSUMS if name in request.headers}
    unknown = [name for name in request.headers if name.startswith("x-amz-checksum-") and name not in _CHECKSUMS]
    if set(unknown) - {"x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"}:
        raise Refusal(501, "NotImplemented")
    signed = request.headers.get("x-amz-content-sha256", "")
    sha256 = "x-amz-checksum-sha256"
    if len(signed) == 64 and declared.get(sha256) != base64.b64encode(bytes.fromhex(signed)).decode():
        # Mostly the two are the same digest, which is then taken once.
        _compare(sha256, request.body, base64.b64encode(bytes.fromhex(signed)).decode(), "XAmzContentSHA256Mismatch")
    for name, value in declared.items():
        _compare(name, request.body, value, "BadDigest" if name == "content-md5" else "XAmzContentChecksumMismatch")
    return {name: value for name, value in declared.items() if name != "content-md5"}


def _compare(name: str, body: bytes, value: str, code: str) -> None:
    if base64.b64encode(_CHECKSUMS[name](body)).decode() != value:
        raise Refusal(400, code)


async def read_request(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> S3Request:
    """Return the request that begins with `head`; a client that waits for leave to send its body is given it."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(headers, reader)
    path, _, query = target.partition("?")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    return S3Request(method, bucket, key, dict(parse_qsl(query, keep_blank_values=True)), headers, body)


async def _read_body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_frames(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length") or 0))
    return _unframed(body, headers) if "aws-chunked" in headers.get("content-encoding", "") else body


async def _read_frames(reader: asyncio.StreamReader) -> bytes:
    whole = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        whole += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return bytes(whole)


def _unframed(body: bytes, headers: dict[str, str]) -> bytes:
    """Take the AWS framing apart; the checksum that follows the data joins the headers."""
    whole, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            break
        whole += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    for line in body[end + 2 :].decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return bytes(whole)
