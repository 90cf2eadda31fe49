"""Open a store from its URL; the client libraries are imported for the scheme at hand alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.store.url import check_endpoint, parse_store_url

if TYPE_CHECKING:
    from ingest.bandwidth import Line
    from ingest.retry import Budget
    from ingest.store.base import Store

__all__ = ["open_store"]


def open_store(
    url: str, *, endpoint_url: str | None = None, budget: Budget | None = None, line: Line | None = None
) -> Store:
    """Open the prefix or folder `url`; credentials come from the environment of this process.

    Opening lists one key, so that a missing bucket or permission is known before any work. Nothing is created: a
    folder appears with its first object, a bucket must exist.

    Parameters
    ----------
    url
        A path, ``file://``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.
    endpoint_url
        Of an S3 or GCS look-alike; otherwise ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` or
        ``STORAGE_EMULATOR_HOST``. It has no meaning for a folder and is then ignored.
    budget
        How long one operation may be tried again.
    line
        What all bytes to and from a network pass; one without limit unless given.

    Raises
    ------
    ConfigError
        The URL cannot be used (``unknown-scheme``, ``secret-in-url``, ``bad-url``, ``bad-endpoint``), or there is
        no such bucket (``no-bucket``).
    CredentialsError
        None were found (``no-credentials``), or they are not good enough.
    TransientError
        The store does not answer.
    """
    where = parse_store_url(url)
    if where.scheme == "s3":
        from ingest.store.s3 import S3Store

        endpoint = _endpoint(endpoint_url, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        return S3Store(where, endpoint_url=endpoint, budget=budget, line=line)
    if where.scheme == "gs":
        from ingest.store.gcs import GCSStore

        endpoint = _endpoint(endpoint_url, "STORAGE_EMULATOR_HOST")
        return GCSStore(where, endpoint_url=endpoint, budget=budget, line=line)
    from ingest.store.local import LocalStore

    return LocalStore(Path(where.prefix))


def _endpoint(given: str | None, *variables: str) -> str | None:
    found = given or next((os.environ[name] for name in variables if os.environ.get(name)), None)
    return None if found is None else check_endpoint(found)
