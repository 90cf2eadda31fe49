"""fsspec's file system of web servers with answers held against the range that was asked for."""

from __future__ import annotations

from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from ingest.fetch.checked.ranges import check_range

__all__ = ["CheckedHttp"]


async def _look_at_headers(_: aiohttp.ClientSession, __: Any, ended: aiohttp.TraceRequestEndParams) -> None:
    """Refuse before the body is read; aiohttp closes what a trace refuses."""
    if ended.method == "GET":
        answer = ended.response
        check_range(
            ended.headers.get("Range"), answer.headers.get("Content-Range"), answer.status, answer.content_length
        )


async def _client(**options: Any) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(_look_at_headers)
    return aiohttp.ClientSession(trace_configs=[trace], **options)


class CheckedHttp(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's file system, with a session that looks at every answer's headers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(get_client=_client, **options)
