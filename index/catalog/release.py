"""Releases of the public Census, by date or alias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError, TransientError
from ingest.grammar import did_you_mean

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
    import cellxgene_census  # brings in tiledbsoma, which kills processors without AVX2: checked by the caller
    import requests

    try:
        directory = cellxgene_census.get_census_version_directory(retracted=None)
    except (requests.RequestException, ValueError) as error:
        raise TransientError(
            f"the Census release directory does not answer ({type(error).__name__})",
            kind="network",
            hint="`--uri` opens a copy without asking it",
        ) from error
    if version not in directory:
        raise ConfigError(
            f"no Census version {version!r}{did_you_mean(version, directory)}",
            kind="unknown-version",
            hint=f"there are {_listed(directory)}",
        )
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


def _listed(directory: Mapping[str, Any]) -> str:
    dates = sorted((name for name in directory if name[:1].isdigit()), reverse=True)
    aliases = [f"{name} ({directory[name]['release_build']})" for name in sorted(directory) if not name[:1].isdigit()]
    return ", ".join([*aliases, *dates[:12], *(["…"] if len(dates) > 12 else [])])
