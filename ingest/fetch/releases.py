"""The directory of the public Census' releases: dates, and aliases that move from one to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError, TransientError
from ingest.grammar.suggest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["release_directory", "unknown_release"]

_LISTED = 12


def release_directory() -> Mapping[str, Any]:
    """Fetch what is known of every release, retracted ones and aliases included.

    Raises
    ------
    TransientError
        The directory does not answer, or not with a directory.
    """
    import cellxgene_census  # brings in tiledbsoma, which kills processors without AVX2: checked by the caller
    import requests

    try:
        directory: Mapping[str, Any] = cellxgene_census.get_census_version_directory(retracted=None)
    except (requests.RequestException, ValueError) as error:
        raise TransientError(
            f"the Census release directory does not answer ({type(error).__name__})",
            kind="network",
            hint="`--uri` opens a copy without asking it",
        ) from error
    return directory


def unknown_release(version: str, directory: Mapping[str, Any], *, source: str | None = None) -> ConfigError:
    """Return the error for a `version` that `directory` does not have; it names what there is."""
    return ConfigError(
        f"no Census version {version!r}{did_you_mean(version, directory)}",
        kind="unknown-version",
        hint=f"there are {_listed(directory)}",
        source=source,
    )


def _listed(directory: Mapping[str, Any]) -> str:
    dates = sorted((name for name in directory if name[:1].isdigit()), reverse=True)
    aliases = [f"{name} ({directory[name]['release_build']})" for name in sorted(directory) if not name[:1].isdigit()]
    return ", ".join([*aliases, *dates[:_LISTED], *(["…"] if len(dates) > _LISTED else [])])
