"""Objects beyond S3's single PUT: parts with a checksum each, made one object under the same condition."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from ingest.errors import (
    AlreadyExistsError,
    CorruptError,
    IngestError,
    NotFoundError,
    PreconditionError,
    TransientError,
)
from ingest.store.body import pieces, readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from mypy_boto3_s3 import S3Client

    from ingest.bandwidth import Line
    from ingest.store.body import Body

    class Call(Protocol):
        """Run a request with retries, raising the project's own errors; its reply has the fields `needed`."""

        def __call__(self, run: Callable[[S3Client], Any], /, *needed: str) -> dict[str, Any]: ...


__all__ = ["put_parts"]


def put_parts(
    call: Call, bucket: str, name: str, body: Body, part_bytes: int, condition: dict[str, str], line: Line
) -> tuple[str, bool]:
    """Upload `body` in parts of `part_bytes`; return the object's ETag, and whether its bytes are known to be right.

    They are when the store has said of every part which checksum it found.

    Nothing is visible before the last request, which carries `condition`. What fails is aborted; where that is
    not possible either (the process dies), a lifecycle rule of the bucket must end the upload.

    Raises
    ------
    AlreadyExistsError, PreconditionError
        The condition does not hold.
    CorruptError
        The store has found another checksum.
    """
    started = call(
        lambda client: client.create_multipart_upload(Bucket=bucket, Key=name, ChecksumAlgorithm="SHA256"), "UploadId"
    )
    upload = {"Bucket": bucket, "Key": name, "UploadId": started["UploadId"]}
    try:
        sent = [
            _put_part(call, upload, number, piece, line)
            for number, piece in enumerate(pieces(body, part_bytes), start=1)
        ]
        etag = _complete(call, upload, [part for part, _ in sent], condition)
        return etag, all(verified for _, verified in sent)
    except BaseException:
        with suppress(IngestError):
            call(lambda client: client.abort_multipart_upload(**cast("Any", upload)))
        raise


def _put_part(
    call: Call, upload: dict[str, str], number: int, piece: memoryview, line: Line
) -> tuple[dict[str, Any], bool]:
    """Send a part; return what the last request says of it, and whether the store has said its checksum."""
    digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()

    def put(client: S3Client) -> object:
        body = cast("bytes", readable(piece, line))
        return client.upload_part(
            PartNumber=number, Body=body, ChecksumAlgorithm="SHA256", ChecksumSHA256=digest, **cast("Any", upload)
        )

    reply = call(put, "ETag")
    found = reply.get("ChecksumSHA256")
    if found not in (None, digest):
        raise CorruptError(f"part {number} of {upload['Key']} was damaged on its way", kind="checksum-mismatch")
    return {"PartNumber": number, "ETag": reply["ETag"], "ChecksumSHA256": digest}, found is not None


def _complete(call: Call, upload: dict[str, str], parts: list[dict[str, Any]], condition: dict[str, str]) -> str:
    tries = 0

    def complete(client: S3Client) -> object:
        nonlocal tries
        tries += 1
        return client.complete_multipart_upload(
            MultipartUpload=cast("Any", {"Parts": parts}), **cast("Any", upload), **cast("Any", condition)
        )

    try:
        return str(call(complete, "ETag")["ETag"])
    except NotFoundError as error:
        raise _gone(upload["Key"], tries, condition) from error


def _gone(name: str, tries: int, condition: dict[str, str]) -> IngestError:
    """Return what it means that the upload to be completed is no more, or the object to be replaced."""
    if "IfMatch" in condition:
        return PreconditionError(f"{name} is absent or was replaced by an earlier try", key=name)
    if tries > 1:  # an earlier try was done and its reply lost; the caller reads back
        return AlreadyExistsError(f"{name} was completed by an earlier try", key=name)
    return TransientError(f"{name}: the upload was ended by somebody else", kind="upload-gone", key=name)
