"""Bytes of a remote file by ranges, at one version: what HDF5 reads from when a file is not on a local disk."""

from __future__ import annotations

import base64
import gc
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import google_crc32c

from ingest.bandwidth import Line
from ingest.errors import (
    ConfigError,
    CorruptError,
    CredentialsError,
    IngestError,
    SourceChangedError,
    SourceError,
    TransientError,
)
from ingest.fetch.checked.ranges import AnotherRangeError
from ingest.fetch.h5ad_bytes import SourceBytes
from ingest.fetch.s3_sources import has_s3_credentials, s3_endpoint
from ingest.masked_logs import mask_logs
from ingest.retry import Budget, Retrier, retry_after_s
from ingest.scbasecount import PUBLIC_BUCKET
from ingest.store.url import check_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Checksum",
    "RemoteBytes",
    "RemoteStat",
    "remote_error",
    "remote_filesystem",
    "retried",
    "short_read",
    "stat_of_info",
    "stat_remote",
]

Result = TypeVar("Result")

mask_logs()

_BUDGET = Budget(attempts=4, total_s=120.0, first_s=0.5)
"""Of one request; a worker tries whole reads again."""

_BLOCK_BYTES = 1 << 20
_CACHE_BLOCKS = 32
_REQUEST_BLOCKS = 8
_IN_FLIGHT = 4
"""Requests at once for a file that is fetched whole, each of `_REQUEST_BLOCKS`."""
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 2 << 20
"""What anndata writes after the matrix: obs and var."""


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """Size and version of a remote object."""

    size: int
    """Bytes."""
    version: str
    """ETag, generation, or modification time and length; never empty."""
    crc32c: str | None = None
    """CRC-32C of all bytes, big-endian in base64, where the store states it (GCS does)."""


def remote_filesystem(url: str, *, endpoint_url: str | None = None) -> Any:
    """Return the fsspec file system of `url` without listing caches; credentials come from the environment.

    S3 without any credentials is read anonymously. ``CELL_INGEST_BILLING_PROJECT`` names the project that pays
    for Google buckets that bill the reader.

    Parameters
    ----------
    endpoint_url
        Of an S3 or GCS look-alike; that of the environment unless said.

    Raises
    ------
    ConfigError
        No file system speaks this scheme, or the endpoint is none.
    """
    # Probing each bucket for hierarchical namespaces costs up to a minute against anything but Google itself.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    scheme = url.split("://", 1)[0].lower()
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        options["anon"] = not has_s3_credentials()
        if endpoint := endpoint_url or s3_endpoint():
            options["endpoint_url"] = check_endpoint(endpoint)
        from ingest.fetch.checked.s3 import CheckedS3

        return CheckedS3(**options)
    if scheme in ("gs", "gcs"):
        if endpoint_url:
            options["endpoint_url"] = check_endpoint(endpoint_url)
        if endpoint_url or os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"  # noqa: S105  # gcsfs's word for no credentials
        if project := os.environ.get("CELL_INGEST_BILLING_PROJECT"):
            options["requester_pays"] = project
        elif url.split("://", 1)[1].split("/", 1)[0] == PUBLIC_BUCKET:
            # A person's own credentials are neither needed there nor necessarily in order.
            options["token"] = "anon"  # noqa: S105  # as above
        from ingest.fetch.checked.gcs import CheckedGcs

        return CheckedGcs(**options)
    if scheme in ("http", "https"):
        from ingest.fetch.checked.http import CheckedHttp

        return CheckedHttp(**options)
    raise ConfigError(
        f"{url}: no reader for {scheme}://",
        kind="unknown-scheme",
        hint="h5ad files are read from local paths, s3://, gs://, http:// and https://",
    )


def stat_remote(url: str, filesystem: Any | None = None) -> RemoteStat:
    """Ask the server for size and version of `url`: ETag on S3, generation on GCS, validators on HTTP.

    Raises
    ------
    SourceError
        Absent (kind ``no-such-file``), or of unknown length (``no-ranges``).
    CredentialsError, TransientError
        The server refuses, or does not answer.
    """
    fs = remote_filesystem(url) if filesystem is None else filesystem
    with _collector_pause:
        info = retried(url, lambda: fs.info(url))
    return stat_of_info(url, info)


def stat_of_info(url: str, info: dict[str, Any]) -> RemoteStat:
    """Return size and version as an fsspec file system's `info`, or an entry of its listing, has them.

    Raises
    ------
    SourceError
        ``no-ranges``: it is a folder, or of unknown length.
    """
    size = info.get("size")
    if info.get("type") == "directory" or size is None:
        raise SourceError(f"{url}: no file of known length", kind="no-ranges", source=url)
    crc32c = info.get("crc32c")
    return RemoteStat(int(size), _version_of(info, int(size)), str(crc32c) if crc32c else None)


def _version_of(info: dict[str, Any], size: int) -> str:
    for key in ("generation", "ETag", "etag"):
        if info.get(key):
            return str(info[key]).strip('"')
    modified = info.get("Last-Modified") or info.get("LastModified") or info.get("mtime") or ""
    return f"{size}-{modified}" if modified else f"{size}"


class RemoteBytes(SourceBytes):
    """A remote file over range requests, with a cache of recent blocks.

    HDF5 reads piece by piece, mostly of a few kilobytes: all go through blocks of 1 MiB, neighbours being fetched in
    one request, and the more of them the longer blocks are wanted one after the other. A file of which most is wanted
    is better fetched whole (`hold`): in few requests at once, and against a checksum where the store states one.

    Parameters
    ----------
    url
        Of the file.
    line
        What all bytes pass; one without limit unless given.
    """

    def __init__(self, url: str, line: Line | None = None) -> None:
        super().__init__(url)
        self._line = line or Line()
        self._filesystem = remote_filesystem(url)
        self._line.begin()
        self._stat = stat_remote(url, self._filesystem)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next = -1
        self._ahead = 1
        self._handle: Any = None
        self._held: bytearray | None = None

    @property
    def size(self) -> int:
        """Length of the file."""
        return self._stat.size

    @property
    def version(self) -> str:
        """ETag, generation, or what else the server gives."""
        return self._stat.version

    def current_version(self) -> str:
        """Ask the server for the version that the URL has now."""
        return stat_remote(self.url, self._filesystem).version

    def warm(self) -> None:
        """Fetch where an h5ad has its structure, obs and var: the file's beginning and end, at once.

        h5py holds its lock while it waits for bytes; what is here already lets many files be opened side by side.

        Raises
        ------
        CorruptError, SourceError, CredentialsError, TransientError
            As `hold` does, by which a file of a few blocks is fetched.
        """
        tail = max(0, self.size - _TAIL_BYTES) // _BLOCK_BYTES * _BLOCK_BYTES
        if tail <= _HEAD_BYTES:
            self.hold()
            return
        parts = [(0, _HEAD_BYTES), (tail, self.size)]
        for (start, _), data in zip(parts, self._at_once(parts), strict=True):
            for offset in range(0, len(data), _BLOCK_BYTES):
                self._blocks[(start + offset) // _BLOCK_BYTES] = data[offset : offset + _BLOCK_BYTES]

    def hold(self) -> None:
        """Fetch all bytes, four requests of 8 MiB at a time, check them, and read from memory henceforth.

        Raises
        ------
        CorruptError
            ``checksum``: they are not those that the store's checksum is of.
        SourceError, SourceChangedError, CredentialsError, TransientError
            See `remote_error`.
        """
        if self._held is not None:
            return
        step = _REQUEST_BLOCKS * _BLOCK_BYTES
        parts = [(start, min(start + step, self.size)) for start in range(0, self.size, step)]
        held = bytearray(self.size)
        try:
            for first in range(0, len(parts), _IN_FLIGHT):
                some = parts[first : first + _IN_FLIGHT]
                for (start, stop), data in zip(some, self._at_once(some), strict=True):
                    held[start:stop] = data
        except TransientError as error:
            self._refuse_changed(error)
            raise
        if self._stat.crc32c is not None and _crc32c(held) != self._stat.crc32c:
            self._refuse_changed(None)
            raise CorruptError(f"{self.url}: its bytes do not fit their checksum", kind="checksum", source=self.url)
        self._held = held
        self._blocks.clear()

    def _refuse_changed(self, cause: TransientError | None) -> None:
        """Say that the file is another now, if that is why it did not come as it should."""
        if (cause is None or cause.kind == "short-read") and self.current_version() != self.version:
            raise SourceChangedError(f"{self.url}: the file changed while it was read", source=self.url) from cause

    def _at_once(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges, fetched side by side."""
        with ThreadPoolExecutor(max(1, len(parts))) as pool:
            found = list(pool.map(lambda part: self._fetch_apart(*part), parts))
        self.bytes_read += sum(map(len, found))
        return found

    def _fetch_apart(self, start: int, stop: int) -> bytes:
        """Fetch a range without the handle, of which there is one; the version is for the caller to check."""

        def get() -> bytes:
            self._line.begin(stop - start)
            data = bytes(self._filesystem.cat_file(self.url, start=start, end=stop))
            if len(data) != stop - start:
                raise short_read(self.url, len(data), stop - start)
            return data

        return retried(self.url, get)

    def close(self) -> None:
        """Forget blocks and release the connection's file."""
        self._blocks.clear()
        self._held = None
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        super().close()

    def copy(self, position: int, view: memoryview) -> None:
        """Fill `view` from `position`.

        Raises
        ------
        SourceError, SourceChangedError, CredentialsError, TransientError
            See `remote_error`.
        """
        if self._held is not None:
            view[:] = self._held[position : position + len(view)]
            return
        done = 0
        last = (position + len(view) - 1) // _BLOCK_BYTES
        while done < len(view):
            at = position + done
            number = at // _BLOCK_BYTES
            block = self._block(number, last)
            piece = block[at - number * _BLOCK_BYTES :][: len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)

    def _block(self, number: int, last: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        self._ahead = min(2 * self._ahead, _REQUEST_BLOCKS) if number == self._next else 1
        last = min(max(last, number + self._ahead - 1), (self.size - 1) // _BLOCK_BYTES)
        stop = number + 1
        while stop <= last and stop - number < _REQUEST_BLOCKS and stop not in self._blocks:
            stop += 1
        self._next = stop
        data = self._fetch(number * _BLOCK_BYTES, min(stop * _BLOCK_BYTES, self.size))
        for offset in range(0, len(data), _BLOCK_BYTES):
            self._blocks[number + offset // _BLOCK_BYTES] = data[offset : offset + _BLOCK_BYTES]
        while len(self._blocks) > _CACHE_BLOCKS:
            self._blocks.popitem(last=False)
        return data[:_BLOCK_BYTES]

    def _fetch(self, start: int, stop: int) -> bytes:
        with _collector_pause:
            data = retried(self.url, lambda: self._read_range(start, stop))
        self.bytes_read += len(data)
        return data

    def _read_range(self, start: int, stop: int) -> bytes:
        if self._handle is None:
            # size= would make s3fs skip its If-Match, so it is left to ask again.
            self._handle = self._filesystem.open(self.url, "rb", cache_type="none")
            if not self._handle.seekable():
                raise SourceError(f"{self.url}: the server serves no ranges", kind="no-ranges", source=self.url)
        self._handle.seek(start)
        self._line.begin(stop - start)
        data = bytes(self._handle.read(stop - start))
        if len(data) != stop - start:
            raise short_read(self.url, len(data), stop - start)
        return data


def short_read(url: str, n_came: int, n_asked: int) -> TransientError:
    """Return the error of an answer that was cut short."""
    return TransientError(f"{url}: {n_came} bytes came where {n_asked} were asked", kind="short-read", source=url)


class Checksum:
    """CRC-32C of bytes that come one part after another, as Google Cloud Storage states it."""

    def __init__(self) -> None:
        self._value = 0

    def add(self, part: bytes) -> None:
        """Take the next part."""
        self._value = google_crc32c.extend(self._value, part)

    @property
    def text(self) -> str:
        """Big-endian in base64."""
        return base64.b64encode(self._value.to_bytes(4, "big")).decode()


def _crc32c(data: bytearray) -> str:
    checksum = Checksum()
    for start in range(0, len(data), _BLOCK_BYTES):
        checksum.add(bytes(data[start : start + _BLOCK_BYTES]))
    return checksum.text


def retried(url: str, call: Callable[[], Result], budget: Budget | None = None) -> Result:
    """Return ``call()``, tried again within the budget of one request.

    Parameters
    ----------
    budget
        Another one.

    Raises
    ------
    IngestError
        See `remote_error`.
    """

    def attempt(_: int) -> Result:
        try:
            return call()
        except IngestError:
            raise
        except Exception as error:  # every client has its own tree; remote_error sorts them
            raise remote_error(url, error) from error

    return Retrier(budget or _BUDGET).call(attempt)


def remote_error(url: str, error: BaseException) -> IngestError:
    """Translate what an fsspec file system raised for `url` into the project's own error."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError) or status in (404, "404"):
        return SourceError(f"{url}: there is no such file", kind="no-such-file", source=url)
    if type(error).__name__ == "FileExpired" or status in (412, "412"):
        return SourceChangedError(f"{url}: the file changed while it was read", source=url)
    if "requester pays" in str(error).lower():
        return CredentialsError(
            f"{url}: the bucket bills its readers",
            kind="requester-pays",
            hint="name the project that pays: --billing-project, or CELL_INGEST_BILLING_PROJECT for all commands",
            source=url,
        )
    # gcsfs says no more than a word of it.
    refused = type(error) is OSError and str(error).startswith("Forbidden")
    if refused or isinstance(error, PermissionError) or status in (401, 403, "401", "403"):
        return CredentialsError(
            f"{url}: no permission to read ({text})", hint="check the credentials in the environment", source=url
        )
    if type(error).__name__ == "NoCredentialsError":
        return CredentialsError(f"{url}: no credentials ({text})", source=url)
    if isinstance(error, ValueError) and "range requests" in str(error):
        return SourceError(f"{url}: the server serves no ranges", kind="no-ranges", hint="copy it to disk", source=url)
    if isinstance(error, AnotherRangeError):
        return TransientError(
            f"{url}: an answer of other bytes ({error})",
            kind="other-answer",
            hint="a proxy or a cache may be in between",
            source=url,
        )
    headers = getattr(error, "headers", None)
    wish = retry_after_s(headers.get("Retry-After")) if headers is not None and hasattr(headers, "get") else None
    return TransientError(f"{url}: {text}", kind="network", source=url, retry_after_s=wish)


class _CollectorPause:
    """Keep the cyclic collector off while any request is under way.

    h5py holds its global lock while it reads from a Python file, and the request runs on fsspec's own thread: a
    collection there that meets a dead h5py object waits for that lock for ever (h5py's documentation of Python
    file-like objects).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and self._was_enabled:
                gc.enable()


_collector_pause = _CollectorPause()
