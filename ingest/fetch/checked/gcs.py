"""gcsfs with answers held against the range that was asked for."""

from __future__ import annotations

from typing import Any

from gcsfs.core import GCSFileSystem

from ingest.fetch.checked.ranges import check_range

__all__ = ["CheckedGcs"]


class CheckedGcs(GCSFileSystem):  # type: ignore[misc]  # gcsfs has no types
    """gcsfs' file system; whatever it reads passes its one coroutine for requests."""

    async def _request(
        self, method: str, path: str, *given: Any, headers: dict[str, str] | None = None, **parameters: Any
    ) -> Any:
        answer = await super()._request(method, path, *given, headers=headers, **parameters)
        if method.upper() == "GET":
            status, said, _, _ = answer
            check_range((headers or {}).get("Range"), said.get("Content-Range"), status)
        return answer
