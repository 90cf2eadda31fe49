"""Summaries of a dataset as local files: mapped where they are, or fetched once from a bucket."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ingest.errors import ConfigError, CorruptError, NotFoundError
from ingest.store.url import parse_store_url

if TYPE_CHECKING:
    from ingest.store.base import Store

__all__ = ["cache_folder", "local_copy"]


def cache_folder(given: str | os.PathLike[str] | None) -> Path:
    """Return where copies of remote files are kept."""
    return Path(given) if given is not None else Path(platformdirs.user_cache_dir("cell-ingest")) / "load"


def local_copy(store: Store, key: str, folder: Path) -> Path:
    """Return a local file with the bytes of `key`.

    Of a bucket it is a copy under `folder`, named by what the store calls its version: another version is another file.

    Raises
    ------
    CorruptError
        There is no such object in the bucket.
    ConfigError
        The folder cannot be written.
    """
    where = parse_store_url(store.url)
    if where.scheme == "file":
        return Path(where.prefix) / key
    try:
        return _copied(store, key, folder)
    except NotFoundError as error:
        raise CorruptError(
            f"{store.url}/{key} is missing",
            kind="bad-summary",
            hint=f"`python -m ingest run {store.url}` writes it again",
            key=key,
        ) from error


def _copied(store: Store, key: str, folder: Path) -> Path:
    version = store.stat(key).version
    name = hashlib.sha256(f"{store.url}\n{key}\n{version}".encode()).hexdigest()[:32]
    path = folder / f"{name}-{key.rpartition('/')[2]}"
    if not path.exists():
        _write(path, store.get(key))
    return path


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path.parent} cannot be written ({error.strerror})",
            kind="no-cache",
            hint="name another folder: cache_dir=…",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
