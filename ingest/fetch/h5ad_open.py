"""Open an h5ad file, local or remote, only after its structure has been looked at without reading any data.

HDF5 follows links into other files, reads raw bytes of any path through external storage, and allocates what a header
declares. So every link and every dataset header is examined first, through h5py's low-level interface, which follows
nothing by itself. Rules, each the ``kind`` of the error: ``not-hdf5``, ``truncated``, ``unreadable``, ``not-h5ad``,
``external-link``, ``soft-link``, ``link-cycle``, ``unknown-link``, ``external-storage``, ``virtual-dataset``,
``declared-size``, ``decoded-size``, ``too-many-objects``, ``not-utf8``; ``damaged-heap``, ``damaged-index`` of
`ingest.fetch.h5ad_bytes`.
"""

from __future__ import annotations

import atexit
import errno
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import h5py

from ingest.errors import ConfigError, HostileFileError, IngestError, SourceChangedError, SourceError, TransientError
from ingest.exhausted import exhausted
from ingest.fetch.h5ad_bytes import LONG_TEXTS, LocalBytes, SourceBytes, version_of
from ingest.fetch.h5ad_links import OpenBudget, check_links
from ingest.fetch.h5ad_remote import RemoteBytes, stat_remote
from ingest.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from ingest.bandwidth import Line

__all__ = ["OpenBudget", "OpenH5ad", "file_version", "open_h5ad"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 96
_CHUNK_CACHE_BYTES = 32 << 20

# A file over a Python object that is still open when the interpreter ends takes the process down with it.
_open_files: weakref.WeakSet[OpenH5ad] = weakref.WeakSet()


class OpenH5ad:
    """An open, examined h5ad file at one version; a context manager. Not pickled, not shared between threads.

    HDF5 is not fork-safe: it is opened in the process that reads it.
    """

    def __init__(self, source: Source, file: h5py.File, stream: SourceBytes, budget: OpenBudget) -> None:
        self.source = source
        """With the version found."""
        self.file = file
        self.budget = budget
        self.name = unquote(urlsplit(source.address).path.rsplit("/", 1)[-1]) or source.address
        """The file's own name, for messages."""
        self.declared_bytes = 0
        """Decoded bytes that all datasets declare together."""
        self.tables: dict[str, Any] = {}
        """Tables opened so far, by path; see `ingest.fetch.h5ad_table`."""
        self.name_blocks: OrderedDict[int, pa.StringArray] = OrderedDict()
        """Blocks of obs names read last; see `ingest.fetch.h5ad_obs`."""
        self._stream = stream
        _open_files.add(self)

    def __enter__(self) -> OpenH5ad:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and its connection; twice does no harm."""
        self.tables.clear()
        self.name_blocks.clear()
        self.file.close()
        self._stream.close()

    @property
    def is_remote(self) -> bool:
        """Whether it is read by range requests."""
        return isinstance(self._stream, RemoteBytes)

    @property
    def bytes_read(self) -> int:
        """Bytes read from the disk or over the network so far."""
        return self._stream.bytes_read

    @property
    def longest_text(self) -> int:
        """Bytes of the longest text of its own length that lies where anything has been read so far."""
        return self._stream.longest_text

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._stream.size

    def hold(self) -> int:
        """Fetch a remote file whole and read from memory henceforth; return its bytes, 0 for a local file.

        Raises
        ------
        CorruptError
            ``checksum``: what came is not what the store says it sent.
        SourceError, TransientError
            As reading does.
        """
        if not isinstance(self._stream, RemoteBytes):
            return 0
        self._stream.hold()
        return self._stream.size

    def copy(self, position: int, view: memoryview) -> None:
        """Fill `view` with the file's own bytes from `position` on: of a local file, in several threads at once.

        Raises
        ------
        HostileFileError
            ``truncated``: the file has become shorter.
        TransientError
            The disk.
        """
        try:
            self._stream.copy(position, view)
        except OSError as error:
            raise _os_error(self.source, error) from error

    def error(self, dataset: str, message: str, kind: str) -> HostileFileError:
        """Make the error of a rule that `dataset` breaks."""
        return HostileFileError(f"{self.name}: {dataset}: {message}", kind=kind, source=str(self.source))

    def get(self, path: str) -> h5py.Group | h5py.Dataset | None:
        """Return the object at `path`, or None."""
        with self.reading(path):
            node = self.file.get(path)
        return node if isinstance(node, h5py.Group | h5py.Dataset) else None

    def dataset(self, path: str) -> h5py.Dataset:
        """Return the dataset at `path`, whose filters this HDF5 has.

        Raises
        ------
        HostileFileError
            There is none, or it cannot be decoded here.
        """
        node = self.get(path)
        if not isinstance(node, h5py.Dataset):
            raise self.error(path, "is no dataset" if node is not None else "is missing", "not-h5ad")
        with self.reading(path):
            creation = node.id.get_create_plist()
            filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
            missing = [number for number in filters if not h5py.h5z.filter_avail(number)]
        if missing:
            raise self.error(path, f"needs HDF5 filter {missing[0]}, which this HDF5 lacks", "unreadable")
        return node

    def attribute(self, node: h5py.Group | h5py.Dataset, name: str) -> Any:
        """Return one attribute, text as str; None where it is missing.

        Raises
        ------
        HostileFileError
            It cannot be read, or is text that is not UTF-8.
        """
        where = f"{node.name.lstrip('/') or '/'}@{name}"
        with self.reading(where):
            n_texts = node.attrs.get_id(name).get_space().get_simple_extent_npoints() if name in node.attrs else 0
        try:
            with self.reading(where, texts=n_texts):
                value = node.attrs.get(name)
        except HostileFileError as error:
            if error.kind != LONG_TEXTS:
                raise
            raise self.error(where, f"{n_texts:,} texts that may all be a long one", "decoded-size") from error
        with self.reading(where):
            if isinstance(value, bytes):
                value = value.decode()
            if isinstance(value, str):
                value.encode()  # h5py smuggles bytes that are not UTF-8 in as surrogates
        return value

    def check_unchanged(self) -> None:
        """Compare the version now with the version opened.

        Raises
        ------
        SourceChangedError
            They differ: what was read meanwhile must not be used.
        """
        try:
            version = self._stream.current_version()
        except SourceError as error:
            raise _gone(self.source) if error.kind == "no-such-file" else error from error
        except OSError as error:
            raise (
                _gone(self.source) if isinstance(error, FileNotFoundError) else _os_error(self.source, error)
            ) from error
        if version != self.source.version:
            raise _changed(self.source, version)

    @contextmanager
    def reading(self, what: str, *, texts: int = 1) -> Iterator[None]:
        """Turn whatever h5py raises while `what`, of so many texts, is read into an error of the project."""
        self._stream.texts_at_once = texts
        try:
            yield
        except IngestError:
            self._stream.failure = None
            raise
        except UnicodeError as error:
            raise self.error(what, "holds text that is not UTF-8", "not-utf8") from error
        except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, TypeError alike
            failure, self._stream.failure = self._stream.failure, None
            if failure is not None:
                raise failure from error
            if (spent := exhausted(error, str(self.source))) is not None:
                raise spent from error
            raise self.error(what, f"cannot be read ({error})", "unreadable") from error
        finally:
            self._stream.texts_at_once = 1


def open_h5ad(
    source: Source | str, *, budget: OpenBudget | None = None, warm: bool = False, line: Line | None = None
) -> OpenH5ad:
    """Open an h5ad file for reading after examining every link and header in it.

    Parameters
    ----------
    source
        Where it is; a version in it is compared with the one found.
    budget
        What headers may declare.
    warm
        Fetch a remote file's beginning and end first: for looking at many files at once.
    line
        What all bytes from a network pass; one without limit unless given.

    Raises
    ------
    SourceChangedError
        The file is not the version that `source` names.
    HostileFileError, SourceError
        It breaks a rule of this module, or does not exist.
    ConfigError, CredentialsError, TransientError
        It cannot be reached.
    """
    source = Source.parse(source) if isinstance(source, str) else source
    try:
        stream = _stream(source, line)
    except SourceError as error:
        raise _gone(source) if error.kind == "no-such-file" and source.version else error from error
    try:
        _expect(source, stream.version)
        if warm and isinstance(stream, RemoteBytes):
            stream.warm()
        return _examined(source, stream, budget or OpenBudget())
    except BaseException:
        stream.close()
        raise


def file_version(url: str) -> str:
    """Return what pins the file at `url` (a path or URL): size and mtime, ETag, or generation; never empty.

    Raises
    ------
    SourceError
        There is no such file.
    CredentialsError, TransientError
        The server refuses, or does not answer.
    """
    source = Source.parse(url)
    if (path := source.path) is None:
        return stat_remote(source.address).version
    try:
        return version_of(path.stat())
    except OSError as error:
        raise _os_error(source, error) from error


def _stream(source: Source, line: Line | None) -> SourceBytes:
    if (path := source.path) is None:
        return RemoteBytes(source.address, line)
    try:
        return LocalBytes(path, source.address)
    except OSError as error:
        raise _os_error(source, error) from error


def _examined(source: Source, stream: SourceBytes, budget: OpenBudget) -> OpenH5ad:
    opened = OpenH5ad(replace(source, version=stream.version), _open_hdf5(source, stream), stream, budget)
    try:
        with opened.reading("/"):
            opened.declared_bytes = check_links(opened.file, budget=budget, size_bytes=stream.size, fail=opened.error)
        _check_is_h5ad(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _check_is_h5ad(opened: OpenH5ad) -> None:
    missing = [name for name in ("obs", "var") if name not in opened.file]
    if missing:
        raise opened.error("/", f"HDF5, but no h5ad: {' and '.join(missing)} missing", "not-h5ad")


def _open_hdf5(source: Source, stream: SourceBytes) -> h5py.File:
    head = bytearray(min(_SUPERBLOCK_BYTES, stream.size))
    try:
        stream.readinto(head)
        return stream.as_hdf5(_CHUNK_CACHE_BYTES)
    except IngestError:
        raise
    except Exception as error:
        raise (stream.failure or _open_error(source, error, bytes(head))) from error


def _open_error(source: Source, error: Exception, head: bytes) -> IngestError:
    where = source.address.rsplit("/", 1)[-1]
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOMEM, errno.EMFILE):
        return TransientError(f"{where}: {text}", kind="io", source=str(source))
    if "truncated file" in text or (head.startswith(_SIGNATURE) and len(head) < _SUPERBLOCK_BYTES):
        return HostileFileError(f"{where}: the file is cut short ({text})", kind="truncated", source=str(source))
    if "signature" in text and not head.startswith(_SIGNATURE):
        return HostileFileError(f"{where}: this is no HDF5 file", kind="not-hdf5", source=str(source))
    return HostileFileError(f"{where}: HDF5 cannot open it ({text})", kind="unreadable", source=str(source))


def _os_error(source: Source, error: OSError) -> IngestError:
    where = source.path or source.address
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceError(f"{where}: there is no such file", kind="no-such-file", source=str(source))
    if isinstance(error, IsADirectoryError):
        return SourceError(f"{where}: this is a folder or a device, no file", kind="not-hdf5", source=str(source))
    if isinstance(error, PermissionError):
        return ConfigError(f"{where}: no permission to read it", kind="no-permission", source=str(source))
    return TransientError(f"{where}: {error}", kind="io", source=str(source))


def _gone(source: Source) -> SourceChangedError:
    return SourceChangedError(f"{source.address}: the file is gone", kind="source-gone", source=str(source))


def _expect(source: Source, version: str) -> None:
    if source.version and source.version != version:
        raise _changed(source, version)


def _changed(source: Source, version: str) -> SourceChangedError:
    return SourceChangedError(
        f"{source.address}: the file was version {source.version}, now it is {version}",
        hint="index it again into another destination, or restore the file",
        source=str(source),
    )


@atexit.register
def _close_all() -> None:
    for opened in list(_open_files):
        opened.close()
