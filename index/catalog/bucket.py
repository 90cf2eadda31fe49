"""A folder of a bucket, a mirror or a disk: what stands in it, and at which version."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ingest.errors import ConfigError, IngestError, SourceError
from ingest.fetch.h5ad_open import file_version
from ingest.fetch.h5ad_remote import remote_error, remote_filesystem, retried, stat_of_info
from ingest.retry import Budget
from ingest.source import address_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["Bucket", "Entry", "no_such"]

_ONCE = Budget(attempts=1)
"""Of a listing: somebody waits to hear that the network is down, and gcsfs has tried six times by then."""
_AT_ONCE = 16
"""Requests side by side for versions."""
_LISTING_SHARE = 10
"""A listing gives a thousand versions at once: files are asked one by one when they are this part of it at most."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    name: str
    is_folder: bool
    version: str
    """Of a file: as `ingest.fetch.h5ad_open.file_version` has it."""


class Bucket:
    """A root below which everything is; the URL of `root` never ends in a slash.

    Parameters
    ----------
    root
        ``gs://``, ``s3://`` or a local path.

    Raises
    ------
    ConfigError
        ``secret-url``, ``unknown-scheme``.
    """

    def __init__(self, root: str) -> None:
        self.root = address_of(root).rstrip("/")
        self._is_local = self.root.startswith("file://")
        self._filesystem: Any = _local_filesystem() if self._is_local else remote_filesystem(self.root)

    @property
    def filesystem(self) -> Any:
        """The fsspec file system."""
        return self._filesystem

    def url(self, *parts: str) -> str:
        """Return the URL of what `parts` lead to."""
        return "/".join((self.root, *parts))

    def place(self, url: str) -> str:
        """Return `url` as the file system takes it: a local path without its escapes."""
        return unquote(urlsplit(url).path) if self._is_local else url

    def list(self, *parts: str) -> list[Entry]:
        """Return what stands in a folder, by name; nothing where there is no such folder.

        Raises
        ------
        CredentialsError, TransientError
            The store refuses, or does not answer.
        """
        url = self.url(*parts)
        try:
            found = retried(url, lambda: self._filesystem.ls(self.place(url), detail=True), _ONCE)
        except SourceError as error:
            if error.kind == "no-such-file":
                return []
            raise
        entries = {entry.name: entry for entry in (self._entry(url, info) for info in found) if entry.name}
        return [entries[name] for name in sorted(entries)]

    def _entry(self, folder: str, info: dict[str, Any]) -> Entry:
        path = str(info["name"]).rstrip("/")
        is_folder = info.get("type") == "directory"
        name = path.rsplit("/", 1)[-1]
        if not is_folder and path.endswith(folder.split("://", 1)[1]):
            return Entry("", False, "")  # a marker that stands for the folder itself
        if is_folder:
            return Entry(name, True, "")
        return Entry(name, False, file_version(path) if self._is_local else stat_of_info(path, info).version)

    def versions(self, urls: Sequence[str], n_beside: int) -> dict[str, str | IngestError]:
        """Return for each file of one folder its version, or why it has none.

        Parameters
        ----------
        urls
            Files of one folder.
        n_beside
            Files that the folder has in all.

        Raises
        ------
        ConfigError, TransientError
            The store refuses, or does not answer.
        """
        if self._is_local or len(urls) * _LISTING_SHARE < n_beside:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                return dict(zip(urls, pool.map(_version_or_error, urls), strict=True))
        return self._listed(urls)

    def _listed(self, urls: Collection[str]) -> dict[str, str | IngestError]:
        folders = {url.rsplit("/", 1)[0] for url in urls}
        there = {
            f"{folder}/{entry.name}": entry.version
            for folder in folders
            for entry in self.list(*folder.removeprefix(f"{self.root}/").split("/"))
        }
        return {url: there.get(url) or remote_error(url, FileNotFoundError()) for url in urls}


def _version_or_error(url: str) -> str | IngestError:
    try:
        return file_version(url)
    except SourceError as error:
        return error


def _local_filesystem() -> Any:
    import fsspec

    return fsspec.filesystem("file", use_listings_cache=False)


def no_such(what: str, wanted: str, there: Sequence[str], where: str, guess: str) -> ConfigError:
    """Return the error for a release, feature or organism that is not there; it lists what is."""
    hint = f"there is {', '.join(there)}" if there else f"nothing stands in {where}"
    return ConfigError(f"no {what} {wanted!r} in {where}{guess}", kind=f"unknown-{what}", hint=hint)
