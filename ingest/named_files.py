"""Files that a person names by a path or a URL: an index, settings, a list of genes.

A job on a cluster has no folder of the person who submits it. What is on http(s), s3 or gs is read with the credentials
of this process's environment, and is one version: that which was there before the first byte is still there after the
last.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ingest.errors import ConfigError, CorruptError, SourceChangedError, SourceError, TransientError, mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.scratch import Scratch

__all__ = ["fetched", "is_remote", "local_path", "read_text"]

_BUCKETS = ("s3", "s3a", "gs", "gcs")
_REMOTE = (*_BUCKETS, "http", "https")
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
_PART_BYTES = 8 << 20
_AT_ONCE = 4
_MOST_TEXT_BYTES = 64 << 20
"""Of settings and lists of genes, which are held in memory."""


def is_remote(name: str) -> bool:
    """Say whether `name` is a URL that is fetched.

    Raises
    ------
    ConfigError
        A URL of no known scheme (kind ``unknown-scheme``), one that holds a secret (``secret-in-url``), or one of a
        bucket or a folder in it (``no-object-name``).
    """
    scheme, found, place = name.partition("://")
    if not found or scheme.lower() == "file":
        return False
    if mask_secrets(name) != name:
        raise ConfigError(
            f"{name}: a user name, password or signature in a URL ends up in logs and records",
            kind="secret-in-url",
            hint="give the plain URL, and credentials by the environment",
        )
    if scheme.lower() not in _REMOTE:
        raise ConfigError(
            f"{name}: `{scheme}://` is no known kind of file",
            kind="unknown-scheme",
            hint="use a path, s3://, gs://, http:// or https://",
        )
    bucket, _, key = place.partition("/")
    if scheme.lower() in _BUCKETS and (not bucket or not key or key.endswith("/")):
        raise ConfigError(
            f"{name}: this names no object",
            kind="no-object-name",
            hint=f"write {scheme}://BUCKET/NAME, such as {scheme}://{bucket or 'BUCKET'}/{key}index.feather",
        )
    return True


def local_path(name: str) -> Path:
    """Return the path that `name`, which is not remote, stands for."""
    if name.lower().startswith("file://"):
        return Path(unquote(urlsplit(name).path))
    return Path(name)


def read_text(name: str, *, endpoint_url: str | None = None) -> str:
    """Return the text of a small file.

    Raises
    ------
    OSError, UnicodeDecodeError
        It is local and cannot be read, or is no UTF-8.
    IngestError
        See `is_remote` and `fetched`; more than 64 MiB (``too-large``).
    """
    if not is_remote(name):
        return local_path(name).expanduser().read_text(encoding="utf-8")
    return b"".join(_parts(name, endpoint_url, most_bytes=_MOST_TEXT_BYTES)).decode("utf-8")


def fetched(name: str, scratch: Scratch, *, endpoint_url: str | None = None) -> Path:
    """Return where the file that `name` names is on this machine: a remote one is copied into `scratch`.

    Parameters
    ----------
    endpoint_url
        Of an S3 or GCS look-alike; that of the environment unless said.

    Raises
    ------
    ConfigError
        See `is_remote`; it is not there (``no-such-file``), or the scratch folder is full.
    SourceError, SourceChangedError, CorruptError, CredentialsError, TransientError
        It changes meanwhile, is not what the store's checksum is of, or cannot be read.
    """
    if not is_remote(name):
        return local_path(name)
    path = scratch.path / (_UNUSUAL.sub("_", urlsplit(name).path.rsplit("/", 1)[-1]) or "fetched")
    with scratch.guarded(), path.open("wb") as file:
        for part in _parts(name, endpoint_url):
            file.write(part)
    return path


def _parts(url: str, endpoint_url: str | None, *, most_bytes: int | None = None) -> Iterator[bytes]:
    """Yield all bytes in order, some parts fetched ahead, and hold them against version and checksum."""
    from ingest.fetch.h5ad_remote import Checksum, remote_filesystem, stat_remote

    filesystem = remote_filesystem(url, endpoint_url=endpoint_url)
    try:
        stat = stat_remote(url, filesystem)
    except SourceError as error:  # of what a person has named, not of the data
        raise ConfigError(error.message, kind=error.kind, hint=error.hint) from error
    except TransientError as error:  # nothing has answered yet: the name may be wrong as well as the network
        hint = "check the names in the URL, --endpoint-url or AWS_ENDPOINT_URL, and the network; then try again"
        raise TransientError(error.message, kind=error.kind, hint=hint, retry_after_s=error.retry_after_s) from error
    if most_bytes is not None and stat.size > most_bytes:
        raise ConfigError(f"{url}: {stat.size:,} bytes are too many for such a file", kind="too-large")
    checksum = Checksum()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        starts = range(0, stat.size, _PART_BYTES)
        for first in range(0, len(starts), _AT_ONCE):
            some = starts[first : first + _AT_ONCE]
            for part in pool.map(lambda start: _part(filesystem, url, start, stat.size), some):
                checksum.add(part)
                yield part
    if stat_remote(url, filesystem).version != stat.version:
        raise SourceChangedError(f"{url}: the file changed while it was read", source=url)
    if stat.crc32c is not None and checksum.text != stat.crc32c:
        raise CorruptError(f"{url}: its bytes do not fit their checksum", kind="checksum", source=url)


def _part(filesystem: Any, url: str, start: int, size: int) -> bytes:
    from ingest.fetch.h5ad_remote import retried, short_read

    stop = min(start + _PART_BYTES, size)
    whole = size <= _PART_BYTES

    def get() -> bytes:
        # A web server that knows no ranges will do for what fits into one.
        data = bytes(filesystem.cat_file(url) if whole else filesystem.cat_file(url, start=start, end=stop))
        if len(data) == size and not whole:
            raise SourceError(
                f"{url}: the server serves no ranges", kind="no-ranges", hint="copy it to disk", source=url
            )
        if len(data) != stop - start:
            raise short_read(url, len(data), stop - start)
        return data

    return retried(url, get)
