"""What the words of a command line stand for: datasets that `run` wrote, h5ad files, folders of them, patterns."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ingest.errors import ConfigError, IngestError
from ingest.fetch.h5ad_remote import remote_error, remote_filesystem
from ingest.layout import CHUNK_INDEX_KEY, PLAN_KEY
from ingest.source import address_of
from ingest.store.url import parse_store_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["SourceName", "find_sources", "h5ads_below"]

_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class SourceName:
    """One source, not opened yet."""

    kind: Literal["chunks", "h5ad"]
    address: str
    """Folder or URL of a dataset; URL of a file, ``file://`` where it is a local one."""
    label: str
    """The path or URL as it was said, or as it was found."""


def find_sources(words: Sequence[str | os.PathLike[str]]) -> tuple[SourceName, ...]:
    """Return the sources that `words` stand for, in their order; what a folder or pattern stands for is sorted.

    Raises
    ------
    ConfigError
        A word stands for nothing (kind ``no-such-source``), or two for the same (``source-twice``).
    CredentialsError, TransientError
        A bucket refuses, or does not answer.
    """
    found: dict[str, SourceName] = {}
    for source in (source for word in words for source in _expand(os.fspath(word))):
        if source.address in found:
            said = f"{source.label} is named twice: its cells would stand there twice"
            raise ConfigError(said, kind="source-twice", hint="name every source once")
        found[source.address] = source
    if not found:
        raise ConfigError("nothing to convert is named", kind="no-such-source", hint="name a DEST or h5ad files")
    return tuple(found.values())


def h5ads_below(folder: Path) -> list[Path]:
    """Return the h5ad files at any depth, in the order that paths have: component by component."""
    return sorted(path for path in folder.rglob("*.h5ad") if path.is_file())


def _expand(word: str) -> Iterator[SourceName]:
    if "://" in word and not word.startswith("file://"):
        yield from _expand_remote(word)
        return
    path = Path(_local_path(word))
    if path.is_dir():
        yield from _expand_folder(path)
    elif path.is_file():
        yield _file(path)
    else:
        places = sorted(Path(place) for place in glob.glob(str(path), recursive=True))  # noqa: PTH207 # Path.glob takes no absolute pattern
        if not places:
            raise ConfigError(f"{word}: there is no such file, folder or dataset", kind="no-such-source")
        for place in places:
            yield from _expand_folder(place) if place.is_dir() else iter((_file(place),))


def _local_path(word: str) -> str:
    return parse_store_url(word).prefix if word.startswith("file://") else str(Path(word).expanduser())


def _file(path: Path) -> SourceName:
    return SourceName("h5ad", address_of(str(path)), str(path))


def _expand_folder(folder: Path) -> Iterator[SourceName]:
    if (folder / CHUNK_INDEX_KEY).exists() or (folder / PLAN_KEY).exists():
        yield SourceName("chunks", str(folder.absolute()), str(folder))
        return
    files = h5ads_below(folder)
    if not files:
        raise ConfigError(f"{folder} is no dataset that `run` wrote, and holds no h5ad files", kind="no-such-source")
    yield from map(_file, files)


def _expand_remote(word: str) -> Iterator[SourceName]:
    address = address_of(word)  # refuses secrets before anything is asked
    is_web = word.startswith(("http://", "https://"))  # where a question mark begins the query
    wild = _WILD - {"?"} if is_web else _WILD
    if wild & set(word):
        for place in _remote_places(word):
            yield SourceName("h5ad", address_of(place), place)
    elif is_web or address.endswith(".h5ad"):
        yield SourceName("h5ad", address, word)
    else:
        yield SourceName("chunks", str(parse_store_url(word)), word)


def _remote_places(pattern: str) -> list[str]:
    filesystem = remote_filesystem(pattern)
    try:
        places = sorted(str(filesystem.unstrip_protocol(place)) for place in filesystem.glob(pattern))
    except FileNotFoundError:
        places = []
    except Exception as error:  # every client has its own tree; remote_error sorts them
        raise error if isinstance(error, IngestError) else remote_error(pattern, error) from error
    if not places:
        raise ConfigError(f"{pattern}: there is no such file", kind="no-such-source", hint="check bucket and pattern")
    return places
