"""Where a Census is: a release by date or alias, or any copy by URI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import cellxgene_census
import requests
import tiledbsoma

from ingest.errors import ConfigError, TransientError
from ingest.grammar import did_you_mean
from ingest.source import Source, address_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Release", "find_release", "open_census", "open_copy", "tiledb_settings"]

_BUFFER_BYTES: Final = 32 * 2**20
"""Of each column while obs is streamed; the client's own default of 1 GiB buys nothing here."""


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


def open_census(date: str) -> Any:
    """Open a release of the public Census, anonymously.

    Raises
    ------
    ConfigError, TransientError
        It is gone, or does not answer.
    """
    try:
        return cellxgene_census.open_soma(census_version=date, tiledb_config={"soma.init_buffer_bytes": _BUFFER_BYTES})
    except requests.RequestException as error:
        raise TransientError(
            f"the Census release directory does not answer ({type(error).__name__})", kind="network"
        ) from error
    except ValueError as error:
        raise ConfigError(f"Census {date}: {error}", kind="no-census") from error
    except tiledbsoma.SOMAError as error:
        raise _refused(f"Census {date}", remote=True, error=error) from error


def open_copy(uri: str) -> Any:
    """Open a copy of a Census at a path or URL.

    Raises
    ------
    ConfigError
        ``no-census``: there is none.
    TransientError
        The store does not answer.
    """
    address = address_of(uri)
    path = Source("soma", address, "").path
    # TileDB does not decode percent signs in file:// URLs.
    place = address if path is None else str(path)
    try:
        census = cellxgene_census.open_soma(uri=place, tiledb_config=tiledb_settings(address))
    except (tiledbsoma.SOMAError, TypeError, ValueError) as error:
        raise _refused(uri, remote=path is None, error=error) from error
    if "census_data" not in census or "census_info" not in census:
        kind = type(census).__name__
        census.close()
        raise ConfigError(
            f"{uri}: a SOMA {kind}, but no Census: it has no census_data and census_info",
            kind="no-census",
            hint="--uri names the collection that holds both",
        )
    return census


def tiledb_settings(address: str) -> dict[str, Any]:
    """Return TileDB settings for `address`; S3 ones follow the usual AWS variables.

    Without any credentials S3 is read anonymously.
    """
    settings: dict[str, Any] = {"soma.init_buffer_bytes": _BUFFER_BYTES}
    if not address.startswith("s3://"):
        return settings
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        settings["vfs.s3.region"] = region
    settings["vfs.s3.no_sign_request"] = "false" if _has_credentials() else "true"
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        # TileDB wants host:port alone here, and look-alikes have no bucket subdomains.
        settings |= {
            "vfs.s3.endpoint_override": parts.netloc,
            "vfs.s3.scheme": parts.scheme,
            "vfs.s3.use_virtual_addressing": "false",
        }
    return settings


def _has_credentials() -> bool:
    import botocore.session

    return botocore.session.Session().get_credentials() is not None


def _refused(place: str, *, remote: bool, error: Exception) -> ConfigError | TransientError:
    reason = str(error).splitlines()[0][:200]
    if isinstance(error, tiledbsoma.DoesNotExistError) or not remote:
        return ConfigError(
            f"{place}: no Census there ({reason})",
            kind="no-census",
            hint="weekly builds vanish after a month" if place.startswith("Census ") else "check --uri",
        )
    return TransientError(
        f"{place}: {reason}", kind="network", hint="check the network, the bucket and its credentials"
    )
