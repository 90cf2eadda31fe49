"""Bytes of a stored array's files: from a local disk by positioned reads, from S3 by many range requests at a time."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np

from ingest.errors import IngestError, TransientError
from ingest.fetch.h5ad_remote import remote_error
from ingest.fetch.s3_sources import has_s3_credentials, s3_endpoint
from ingest.retry import Budget, Retrier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.bandwidth import Line
    from ingest.source import Source

__all__ = ["ArrayFolder", "LocalArray", "RemoteArray", "Span", "open_folder"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Span = tuple[str, int, int]
"""A file below the array's folder, first byte and end."""

_MOST_OPEN = 48
_CENSUS_REGION = "us-west-2"
_BUDGET = Budget(attempts=4, total_s=120.0, first_s=0.5)
"""Of one read; a worker tries whole reads again."""


class ArrayFolder(Protocol):
    """The files of one array. Not pickled."""

    is_far: bool
    """Whether reading waits for a network; then several threads may read at once."""
    most_gap_bytes: int
    """What lies between two wanted pieces of a file is read as well, up to so much."""
    most_bytes: int
    """Longest piece that is worth asking for at once."""

    def names(self) -> set[str]:
        """Return the names of what lies in the array's own folder, files and folders."""
        ...

    def files(self, folder: str) -> dict[str, int]:
        """Return path below the array and size in bytes of every file below `folder`; empty where there is none."""
        ...

    def read(self, spans: Sequence[Span]) -> list[Bytes]:
        """Return the bytes of each span, uint8, none of them short.

        Raises
        ------
        OSError
            A local disk.
        IngestError
            The network: see `ingest.fetch.h5ad_remote.remote_error`.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class LocalArray:
    """An array in a folder. Positioned reads, no mapping: a file that became shorter must not kill the process."""

    is_far = False
    most_gap_bytes = 4 << 10
    most_bytes = 32 << 20

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def names(self) -> set[str]:
        """See `ArrayFolder.names`."""
        return {path.name for path in self._root.iterdir()}

    def files(self, folder: str) -> dict[str, int]:
        """See `ArrayFolder.files`."""
        found = (self._root / folder).rglob("*")
        return {str(path.relative_to(self._root)): path.stat().st_size for path in found if path.is_file()}

    def read(self, spans: Sequence[Span]) -> list[Bytes]:
        """See `ArrayFolder.read`; a file cut short is an OSError."""
        return [self._read(*span) for span in spans]

    def _read(self, name: str, start: int, stop: int) -> Bytes:
        data = np.empty(stop - start, np.uint8)
        descriptor, view = self._descriptor(name), data.data
        while len(view):
            done = os.preadv(descriptor, [view], start)
            if not done:
                raise OSError(f"{self._root / name} is cut short")
            start, view = start + done, view[done:]
        return data

    def _descriptor(self, name: str) -> int:
        if name not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self.close()
            self._open[name] = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


class RemoteArray:
    """An array in a bucket; requests of one read are under way together.

    Parameters
    ----------
    url
        ``s3://bucket/…``.
    options
        Of s3fs, see `open_folder`.
    line
        What all bytes pass.
    """

    is_far = True
    most_gap_bytes = 128 << 10
    most_bytes = 4 << 20

    def __init__(self, url: str, options: dict[str, Any], line: Line) -> None:
        from ingest.fetch.checked.s3 import CheckedS3

        self._url, self._line = url.rstrip("/"), line
        self._filesystem = CheckedS3(use_listings_cache=False, **options)
        self._retrier = Retrier(_BUDGET)

    def names(self) -> set[str]:
        """See `ArrayFolder.names`."""
        self._line.begin()
        found = self._retried(lambda: self._filesystem.ls(self._url, detail=False))
        return {str(path).rstrip("/").rsplit("/", 1)[-1] for path in found}

    def files(self, folder: str) -> dict[str, int]:
        """See `ArrayFolder.files`."""
        self._line.begin()
        place = f"{self._url}/{folder}"
        prefix = self._url.removeprefix("s3://") + "/"
        found = self._retried(lambda: self._filesystem.find(place, detail=True))
        return {str(path).removeprefix(prefix): int(entry["size"]) for path, entry in found.items()}

    def read(self, spans: Sequence[Span]) -> list[Bytes]:
        """See `ArrayFolder.read`."""
        groups = _groups(spans, self._line.most_at_once_bytes)
        return [piece for group in groups for piece in self._retried(partial(self._read, group))]

    def _read(self, spans: Sequence[Span]) -> list[Bytes]:
        self._line.begin(sum(stop - start for _, start, stop in spans), n_requests=len(spans))
        names, starts, stops = (list(column) for column in zip(*spans, strict=True))
        pieces = self._filesystem.cat_ranges([f"{self._url}/{name}" for name in names], starts, stops, on_error="raise")
        for (name, start, stop), piece in zip(spans, pieces, strict=True):
            if len(piece) != stop - start:
                message = f"{self._url}/{name}: {len(piece):,} bytes came where {stop - start:,} were asked"
                raise TransientError(message, kind="short-read", source=self._url)
        return [np.frombuffer(piece, np.uint8) for piece in pieces]

    def _retried(self, call: Any) -> Any:
        def attempt(_: int) -> Any:
            try:
                return call()
            except IngestError:
                raise
            except Exception as error:  # botocore and aiohttp have trees of their own; remote_error sorts them
                raise remote_error(self._url, error) from error

        return self._retrier.call(attempt)

    def close(self) -> None:
        """Forget the connections; fsspec closes them."""


def _groups(spans: Sequence[Span], most_bytes: int | None) -> Iterator[Sequence[Span]]:
    """Yield consecutive spans that may be asked for together; a single one may be longer than that."""
    first = n_bytes = 0
    for at, (_, start, stop) in enumerate(spans):
        if most_bytes is not None and at > first and n_bytes + stop - start > most_bytes:
            yield spans[first:at]
            first, n_bytes = at, 0
        n_bytes += stop - start
    if spans:
        yield spans[first:]


def open_folder(uri: str, source: Source, line: Line) -> ArrayFolder | None:
    """Return the folder of the array at `uri`, None where it is not one that is read here.

    S3 is asked as TileDB is (`ingest.fetch.soma_config`): the public Census anonymously in its own region, others by
    the usual AWS variables, anonymously where there are no credentials.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        root = Path(unquote(parts.path) if parts.scheme else uri)
        return LocalArray(root) if root.is_dir() else None
    if parts.scheme != "s3":
        return None
    if source.kind == "census":
        return RemoteArray(uri, {"anon": True, "client_kwargs": {"region_name": _CENSUS_REGION}}, line)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _CENSUS_REGION
    options: dict[str, Any] = {"anon": not has_s3_credentials(), "client_kwargs": {"region_name": region}}
    if endpoint := s3_endpoint():
        options["endpoint_url"] = endpoint
    return RemoteArray(uri, options, line)
