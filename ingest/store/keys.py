"""What a key may look like, the same on every store."""

from __future__ import annotations

from ingest.errors import ConfigError

__all__ = ["RESERVED", "check_key", "check_prefix"]

RESERVED = ".ingest-"
"""Begins the names of a folder's temporary and lock files; no part of a key may begin with it."""

_MAX_BYTES = 900  # S3 and GCS allow 1,024 with the prefix of the store in front
_MAX_PART_BYTES = 255  # the longest file name of common file systems


def check_key(key: str) -> str:
    """Return `key` when every store can hold it under exactly that name.

    Raises
    ------
    ConfigError
        It is empty, absolute, climbs (``..``), has empty parts or control characters, or is too long.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(RESERVED) for part in parts):
        raise _bad(key, "empty, dotted and reserved parts are refused")
    _check_text(key, parts)
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix`, the beginning of some keys (or nothing), when no part of it climbs.

    Raises
    ------
    ConfigError
        It is absolute or climbs.
    """
    if prefix.startswith("/") or any(part in (".", "..") for part in prefix.split("/")[:-1]) or "//" in prefix:
        raise _bad(prefix, "a listing stays below the store's own prefix")
    return prefix


def _check_text(key: str, parts: list[str]) -> None:
    try:
        encoded = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise _bad(key, "keys are Unicode text") from error
    if sum(encoded) + len(parts) > _MAX_BYTES or max(encoded) > _MAX_PART_BYTES:
        raise _bad(key, f"at most {_MAX_BYTES} bytes, {_MAX_PART_BYTES} between slashes")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in key) or "\\" in key:
        raise _bad(key, "control characters and backslashes are refused")


def _bad(key: str, rule: str) -> ConfigError:
    return ConfigError(f"{key!r} cannot be a key: {rule}", kind="bad-key", key=key)
