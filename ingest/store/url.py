"""Tell a destination's URL apart: scheme, bucket, prefix; no secrets, no guesses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from ingest.errors import ConfigError, mask_secrets

__all__ = ["StoreUrl", "check_endpoint", "parse_store_url"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*):(//)?")
_KNOWN = "use a folder, s3://bucket/prefix or gs://bucket/prefix"
_BUCKET = {
    "s3": re.compile(r"[a-z0-9A-Z][a-zA-Z0-9._\-]{1,253}[a-z0-9A-Z]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._\-]{1,220}[a-z0-9]"),
}


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where a store is."""

    scheme: Literal["file", "s3", "gs"]
    bucket: str
    """Empty for a folder."""
    prefix: str
    """Keys below it, without slashes at the ends; for a folder its absolute path."""

    def __str__(self) -> str:
        if self.scheme == "file":
            return self.prefix
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")


def parse_store_url(url: str) -> StoreUrl:
    """Return the parts of `url`.

    Raises
    ------
    ConfigError
        Unknown scheme (``unknown-scheme``), user info or a signature in it (``secret-in-url``), a query, a
        fragment, or no proper bucket (``bad-url``).
    """
    if not url.strip() or "\0" in url:
        raise ConfigError("the destination is empty", kind="bad-url", hint=_KNOWN)
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else "file"
    if match is None or (match.group(2) is None and scheme not in ("s3", "gs", "gcs", "file")):
        return StoreUrl("file", "", str(Path(url).absolute()))
    if match.group(2) is None:
        raise ConfigError(f"{url}: `//` is missing after `{scheme}:`", kind="bad-url", hint=_KNOWN)
    _refuse_secrets(url)
    if scheme == "file":
        return _folder(url)
    if scheme in ("s3", "gs", "gcs"):
        return _bucket(url, "s3" if scheme == "s3" else "gs")
    hint = "write s3:// for it" if scheme in ("s3a", "s3n") else _KNOWN
    raise ConfigError(f"{url}: `{scheme}://` is no known kind of destination", kind="unknown-scheme", hint=hint)


def check_endpoint(endpoint_url: str) -> str:
    """Return `endpoint_url` without a trailing slash; ``host:port`` alone is taken as plain http.

    Raises
    ------
    ConfigError
        It holds secrets (``secret-in-url``), or is no http(s) address (``bad-endpoint``).
    """
    url = endpoint_url if "://" in endpoint_url else f"http://{endpoint_url}"
    _refuse_secrets(url)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        hint = "write it as http://host:port or https://host"
        raise ConfigError(f"{endpoint_url}: not the address of an object store", kind="bad-endpoint", hint=hint)
    return url.rstrip("/")


def _refuse_secrets(url: str) -> None:
    if mask_secrets(url) != url:
        raise ConfigError(
            f"{url}: a user name, password or signature in a URL ends up in logs and receipts",
            kind="secret-in-url",
            hint="give credentials by the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS)",
        )


def _folder(url: str) -> StoreUrl:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise ConfigError(f"{url}: not a folder on this machine", kind="bad-url", hint="write file:///absolute/path")
    return StoreUrl("file", "", str(Path(unquote(parts.path)).absolute()))


def _bucket(url: str, scheme: Literal["s3", "gs"]) -> StoreUrl:
    bucket, _, prefix = url.partition("://")[2].partition("/")
    prefix = prefix.rstrip("/")
    if "?" in url or "#" in url:
        raise ConfigError(f"{url}: a query or fragment has no meaning here", kind="bad-url", hint=_KNOWN)
    if not _BUCKET[scheme].fullmatch(bucket):
        raise ConfigError(f"{url}: {bucket!r} is no bucket name", kind="bad-url", hint=_KNOWN)
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise ConfigError(f"{url}: empty or dotted parts in the prefix", kind="bad-url", hint=_KNOWN)
    return StoreUrl(scheme, bucket, prefix)
