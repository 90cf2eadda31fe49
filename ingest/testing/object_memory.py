"""Buckets in memory with S3's rules: conditional writes, listings in key order, uploads in parts, checked ranges."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

__all__ = ["ObjectMemory", "Refusal", "StoredObject", "byte_range"]


class Refusal(Exception):  # noqa: N818  # an answer of the protocol, not a fault of this program
    """What S3 answers instead: an HTTP status and its error code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True, eq=False)
class StoredObject:
    """Bytes under a key."""

    data: bytes
    etag: str
    """Quoted; new with every write, so that equal bytes written twice are two versions."""
    checksums: dict[str, str]
    """Header name in lower case -> base64, as they were sent and found right."""


@dataclass(slots=True, eq=False)
class _Bucket:
    objects: dict[str, StoredObject] = field(default_factory=dict)
    order: list[str] | None = None
    """Keys in order; None after a key came or went."""


@dataclass(frozen=True, slots=True, eq=False)
class _Upload:
    bucket: str
    key: str
    parts: dict[int, StoredObject] = field(default_factory=dict)


class ObjectMemory:
    """All buckets of one server; not for several threads."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._uploads: dict[str, _Upload] = {}
        self._numbers = itertools.count(1)

    @property
    def n_objects(self) -> int:
        """Objects in all buckets."""
        return sum(len(bucket.objects) for bucket in self._buckets.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(len(found.data) for bucket in self._buckets.values() for found in bucket.objects.values())

    def forget(self) -> None:
        """Empty all buckets."""
        for bucket in self._buckets.values():
            bucket.objects.clear()
            bucket.order = None
        self._uploads.clear()

    def create_bucket(self, name: str) -> None:
        """Make a bucket, unless it is there."""
        self._buckets.setdefault(name, _Bucket())

    def check_bucket(self, name: str) -> None:
        """Raise ``Refusal`` 404 where there is none of that name."""
        self._bucket(name)

    def _bucket(self, name: str) -> _Bucket:
        try:
            return self._buckets[name]
        except KeyError:
            raise Refusal(404, "NoSuchBucket") from None

    def get(self, bucket: str, key: str) -> StoredObject:
        """Return an object; ``Refusal`` 404 where it is absent."""
        try:
            return self._bucket(bucket).objects[key]
        except KeyError:
            raise Refusal(404, "NoSuchKey") from None

    def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        checksums: dict[str, str],
        *,
        if_match: str | None,
        if_none_match: str | None,
    ) -> StoredObject:
        """Write an object if its conditions hold; ``Refusal`` 412, or 404 when there is nothing to match."""
        held = self._bucket(bucket)
        before = held.objects.get(key)
        if if_none_match is not None and before is not None:
            raise Refusal(412, "PreconditionFailed")
        if if_match is not None:
            _match(before, if_match)
        stored = StoredObject(data, self._new_etag(), checksums)
        held.objects[key] = stored
        if before is None:
            held.order = None
        return stored

    def delete(self, bucket: str, key: str, if_match: str | None) -> None:
        """Remove an object; what is absent is deleted with success, as S3 has it, unless a version is asked for."""
        held = self._bucket(bucket)
        if if_match is not None:
            _match(held.objects.get(key), if_match)
        if held.objects.pop(key, None) is not None:
            held.order = None

    def page(
        self, bucket: str, prefix: str, after: str, limit: int
    ) -> tuple[list[tuple[str, StoredObject]], str | None]:
        """Return up to `limit` objects under `prefix` with keys beyond `after`, and the last key if there are more."""
        held = self._bucket(bucket)
        if held.order is None:
            # S3 lists in the order of UTF-8 bytes, which is that of code points.
            held.order = sorted(held.objects)
        start = max(bisect_left(held.order, prefix), bisect_right(held.order, after) if after else 0)
        found = list(itertools.takewhile(lambda key: key.startswith(prefix), held.order[start : start + limit + 1]))
        listed = found[:limit]
        return [(key, held.objects[key]) for key in listed], listed[-1] if len(found) > limit else None

    def begin_upload(self, bucket: str, key: str) -> str:
        """Start an upload in parts; return its id."""
        self._bucket(bucket)
        upload_id = f"upload-{next(self._numbers)}"
        self._uploads[upload_id] = _Upload(bucket, key)
        return upload_id

    def put_part(self, upload_id: str, number: int, data: bytes, checksums: dict[str, str]) -> StoredObject:
        """Take one part; sent again, it replaces what was there."""
        stored = StoredObject(data, self._new_etag(), checksums)
        self._upload(upload_id).parts[number] = stored
        return stored

    def complete(
        self, upload_id: str, parts: list[tuple[int, str]], *, if_match: str | None, if_none_match: str | None
    ) -> StoredObject:
        """Make the parts, numbers and ETags in ascending order, one object; a refused condition leaves the upload."""
        upload = self._upload(upload_id)
        pieces = []
        for number, etag in parts:
            piece = upload.parts.get(number)
            if piece is None or piece.etag != etag:
                raise Refusal(400, "InvalidPart")
            pieces.append(piece.data)
        if not pieces or [number for number, _ in parts] != sorted({number for number, _ in parts}):
            raise Refusal(400, "InvalidPartOrder")
        stored = self.put(
            upload.bucket, upload.key, b"".join(pieces), {}, if_match=if_match, if_none_match=if_none_match
        )
        del self._uploads[upload_id]
        return stored

    def abort(self, upload_id: str) -> None:
        """Drop an upload."""
        self._upload(upload_id)
        del self._uploads[upload_id]

    def _upload(self, upload_id: str) -> _Upload:
        try:
            return self._uploads[upload_id]
        except KeyError:
            raise Refusal(404, "NoSuchUpload") from None

    def _new_etag(self) -> str:
        return f'"{next(self._numbers):032x}"'


def _match(found: StoredObject | None, wanted: str) -> None:
    if found is None:
        raise Refusal(404, "NoSuchKey")
    if found.etag != wanted:
        raise Refusal(412, "PreconditionFailed")


def byte_range(text: str, size: int) -> tuple[int, int]:
    """Return the half-open range that a ``Range`` header means in `size` bytes; ``Refusal`` 416 where it has none."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if match is None or not (match[1] or match[2]):
        raise Refusal(416, "InvalidRange")
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    if start >= stop:
        raise Refusal(416, "InvalidRange")
    return start, stop
