"""s3fs with answers held against the range that was asked for."""

from __future__ import annotations

from typing import Any

from s3fs import S3FileSystem

from ingest.fetch.checked.ranges import AnotherRangeError, check_range

__all__ = ["CheckedS3"]


class CheckedS3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs' file system; whatever it reads passes its one coroutine for requests."""

    async def _call_s3(self, method: str, *given: Any, **parameters: Any) -> Any:
        reply = await super()._call_s3(method, *given, **parameters)
        if method == "get_object":
            try:
                check_range(
                    parameters.get("Range"), reply.get("ContentRange"), reply["ResponseMetadata"]["HTTPStatusCode"]
                )
            except AnotherRangeError:
                reply["Body"].close()
                raise
        return reply
