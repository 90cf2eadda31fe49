"""Change a few elements of an h5ad file: in a copy that takes its place when all is written, or not at all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anndata
import h5py

from ingest.errors import HostileFileError, IngestError, UnfitError
from ingest.fetch.h5ad_open import file_version
from ingest.stream.files import edited_copy
from ingest.stream.hdf5 import writable
from ingest.stream.storage import changed_meanwhile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["edited_h5ad", "put"]


@contextlib.contextmanager
def edited_h5ad(path: Path, version: str) -> Iterator[h5py.File]:
    """Yield a copy of a file, open for changes, which replaces the file when the block ends well.

    HDF5 does not give back the room of what is replaced: a file that is changed often is best rewritten now and then.

    Parameters
    ----------
    version
        Of the file that was examined, as ``OpenH5ad.source.version`` has it: no other one is touched.

    Raises
    ------
    SourceChangedError
        The file is another now: it stays.
    HostileFileError
        ``unreadable``: it is damaged where it was to be changed.
    ConfigError, CredentialsError
        ``disk-full``, ``bad-path``, ``permission``: the file is as it was.
    """
    with edited_copy(path) as copy:
        if file_version(str(path)) != version:
            raise changed_meanwhile(path)
        try:
            with writable(copy, "r+", name=path) as file:
                yield file
        except IngestError:
            raise
        except (_CannotReplaceError, OSError, RuntimeError) as error:
            if getattr(error, "errno", None) is not None:  # the system's own; HDF5's have no number
                raise
            raise HostileFileError(f"{path.name}: is damaged: {error}", kind="unreadable", source=str(path)) from error


def put(file: h5py.File, path: str, value: Any) -> None:
    """Write one element, gzipped, in place of what is there; groups above it are made.

    Raises
    ------
    UnfitError
        A ValueError: no h5ad holds such a value.
    """
    above, _, key = path.rpartition("/")
    if above and not isinstance(file.get(above), h5py.Group):
        put(file, above, _fields(file.get(above)))
    group = _without(file, above or "/", key)
    try:
        anndata.io.write_elem(group, key, value, dataset_kwargs={"compression": "gzip"})
    except (IngestError, MemoryError):
        raise
    except Exception as error:  # anndata and h5py raise TypeError, ValueError, KeyError, IORegistryError alike
        raise UnfitError(f"{path}: an h5ad cannot hold this {type(value).__name__} ({error})") from error


class _CannotReplaceError(Exception):
    """The file's own structure is at fault."""


def _without(file: h5py.File, where: str, key: str) -> h5py.Group:
    try:
        group = file[where]
        if key in group:
            del group[key]
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError alike
        raise _CannotReplaceError(f"{where.strip('/')}/{key}: cannot be replaced ({error})") from error
    return group


def _fields(node: h5py.Dataset | None) -> dict[str, Any]:
    """Return what a compound dataset of anndata 0.6 holds under its names; it becomes a group."""
    return {name: node[name] for name in node.dtype.names or ()} if node is not None else {}
