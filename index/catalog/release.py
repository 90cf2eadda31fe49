"""Releases of the public Census, by date or alias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.fetch.releases import release_directory, unknown_release

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Release", "find_release"]


@dataclass(frozen=True, slots=True)
class Release:
    """One version of the public Census."""

    date: str
    """Its name, never an alias."""
    notes: tuple[str, ...]
    """What a person should know: what an alias stands for, that a release was retracted."""


def find_release(version: str) -> Release:
    """Resolve a version or an alias (``stable``, ``latest``) through the release directory.

    Raises
    ------
    ConfigError
        ``unknown-version``; the hint lists what there is.
    TransientError
        The directory does not answer.
    """
    directory = release_directory()
    if version not in directory:
        raise unknown_release(version, directory)
    return _release(version, directory)


def _release(version: str, directory: Mapping[str, Any]) -> Release:
    description = directory[version]
    built = str(description["release_build"])
    date = built if built in directory else version
    notes = [f"Census {version!r} is {date} today"] if date != version else []
    if description.get("flags", {}).get("retracted"):
        retraction = description.get("retraction") or {}
        instead = f"; {retraction['replaced_by']} replaces it" if retraction.get("replaced_by") else ""
        notes.append(f"Census {date} was retracted: {retraction.get('reason') or 'no reason given'}{instead}")
    return Release(date, tuple(notes))
