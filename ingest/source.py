"""Which source a cell lies in, as one string that names its version: the index's ``source`` column.

::

    census://2025-11-08/homo_sapiens                        the public Census, a resolved date, never an alias
    soma+s3://bucket/census#organism=homo_sapiens&build=…   any other copy of a Census; build is its own date
    file:///data/a.h5ad#version=5120-1700000000000000000    an h5ad; size-mtime, ETag, generation or digest

A source is a key as well as an address: two strings differ when, and only when, the data may. A ``#`` that belongs
to the address is written ``%23``, as file URLs have it anyway.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ingest.errors import ConfigError, mask_secrets

__all__ = ["Source", "address_of"]

_LABEL = re.compile(r"[^A-Za-z0-9._-]+")
_URL_ENCODED = ("file://", "http://", "https://")
"""Addresses in which ``%`` is an escape already; in a bucket it is a character of the key."""
_ESCAPED = re.compile(r"%(?=(?:25)*23)")
_ESCAPED_TWICE = re.compile(r"%25(?=(?:25)*23)")


def address_of(location: str) -> str:
    """Return `location` as a URL: local paths become absolute ``file://`` ones, others stay.

    Raises
    ------
    ConfigError
        The URL holds user info or a signature: those belong in the environment, not in indexes and receipts.
    """
    if mask_secrets(location) != location:
        raise ConfigError(
            f"{location}: a URL with credentials or a signature would be written into every receipt",
            kind="secret-url",
            hint="give the plain URL and pass credentials by environment variables",
        )
    if location.startswith("file://"):
        return location.replace("#", "%23")
    if "://" in location:
        return location.rstrip("/")
    # Not Path's, which fails where it knows no such user.
    return Path(os.path.expanduser(location)).resolve().as_uri()  # noqa: PTH111


def _escape(address: str) -> str:
    """Write ``#`` as ``%23`` where it stands for itself, and what reads ``%23`` already as ``%2523``."""
    if address.startswith(_URL_ENCODED):
        return address.replace("#", "%23")
    return _ESCAPED.sub("%25", address).replace("#", "%23")


def _unescape(address: str) -> str:
    if address.startswith(_URL_ENCODED):
        return address
    return _ESCAPED_TWICE.sub("%", address.replace("%23", "#"))


@dataclass(frozen=True, slots=True)
class Source:
    """A SOMA experiment or an h5ad file at one version."""

    kind: Literal["census", "soma", "h5ad"]
    """How it is read; ``census`` is ``soma`` whose address the release directory knows."""
    address: str
    """URL; for ``census`` the version's date."""
    version: str
    """Census date, build date, or whatever pins the file; may be empty for ``soma`` without a build date."""
    organism: str = ""
    """SOMA only: ``homo_sapiens``, …"""

    def __str__(self) -> str:
        if self.kind == "census":
            return f"census://{self.version}/{self.organism}"
        address = _escape(self.address)
        if self.kind == "soma":
            build = f"&build={quote(self.version)}" if self.version else ""
            return f"soma+{address}#organism={quote(self.organism)}{build}"
        if not self.version and "#version=" not in self.address:
            return self.address
        return f"{address}#version={quote(self.version)}"

    @property
    def label(self) -> str:
        """A short name for people, of ``[A-Za-z0-9._-]`` only: the organism, or the file's stem. Not unique."""
        if self.kind != "h5ad":
            return self.organism
        stem = unquote(urlsplit(self.address).path.rsplit("/", 1)[-1])
        return _LABEL.sub("_", stem.removesuffix(".h5ad")) or "file"

    @property
    def path(self) -> Path | None:
        """The local path behind a ``file://`` address, else None."""
        parts = urlsplit(self.address)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read the string form back; plain paths and URLs without a version are h5ad files.

        Raises
        ------
        ConfigError
            The text is no source, or a URL with secrets.
        """
        if text.startswith("census://"):
            version, _, organism = text.removeprefix("census://").partition("/")
            if not version or not organism:
                raise ConfigError(f"{text!r} is no source: census://VERSION/ORGANISM is", kind="bad-source")
            return cls("census", version, version, organism)
        if text.startswith("soma+"):
            address, options = _split(text.removeprefix("soma+"), "organism")
            if "organism" not in options:
                raise ConfigError(f"{text!r} is no source: '#organism=…' is missing", kind="bad-source")
            return cls("soma", address, options.get("build", ""), options["organism"])
        address, options = _split(text, "version")
        if address.startswith("http") and "#" in address:
            raise ConfigError(f"{text!r}: a web address ends before '#'", kind="bad-source", hint="write # as %23")
        return cls("h5ad", address, options.get("version", ""))


def _split(text: str, first_option: str) -> tuple[str, dict[str, str]]:
    """Take the options off an address; a ``#`` that does not introduce them belongs to the address."""
    address, found, rest = text.rpartition(f"#{first_option}=")
    if not found:
        # Nothing is escaped in what a person writes, so nothing is unescaped.
        return address_of(text), {}
    options = dict(parse_qsl(f"{first_option}={rest}"))
    return (_unescape(address_of(address)) if "://" in address else address_of(address)), options
