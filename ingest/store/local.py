"""A folder as a store: put-if-absent by link, replacement by rename under a lock, nothing half-written in sight."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import (
    AlreadyExistsError,
    ConfigError,
    CorruptError,
    CredentialsError,
    DiskFullError,
    IngestError,
    NotFoundError,
    PreconditionError,
    TransientError,
)
from ingest.store.base import ObjectStat
from ingest.store.body import as_view, open_body, pieces
from ingest.store.keys import RESERVED, check_key, check_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.store.body import Body

__all__ = ["LocalStore"]

_TEMPORARY = f"{RESERVED}tmp-"
_LOCK = f"{RESERVED}lock"
_PIECE_BYTES = 16 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """A folder, made with the first object.

    An object appears by ``link(2)`` of a complete, synced temporary file: atomic, refused when the name exists,
    and so exclusive between processes and, on network file systems that support it, between machines. What a
    crash leaves behind is a temporary file that no listing shows and `list_temporaries` finds.

    A version is size, modification time and inode. Inodes are used again and the kernel's clock ticks only every
    few milliseconds, so two replacements within a tick could come back to an old version: a replacement therefore
    sets a modification time later than that of what it replaces. Comparing and renaming happen under a lock file,
    which shuts out other replacing and deleting; creating needs no lock, since a link never overwrites.

    Parameters
    ----------
    root
        The folder.

    Raises
    ------
    ConfigError
        `root` is something else than a folder (kind ``not-a-folder``).
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.retries = 0
        if self._root.exists() and not self._root.is_dir():
            raise ConfigError(f"{self._root} is a file, not a folder", kind="not-a-folder", hint="name a folder")

    @property
    def url(self) -> str:
        """The absolute path; it opens the same folder from any process on the machine."""
        return str(self._root)

    def put_new(self, key: str, data: bytes | memoryview) -> ObjectStat:
        """Create `key` if it is absent, durably.

        Raises
        ------
        AlreadyExistsError
            The key exists.
        ConfigError
            The disk is full (``disk-full``), or its file system has no hard links (``no-hard-links``).
        """
        return self._create(key, as_view(data))

    def put_new_file(self, key: str, path: Path) -> ObjectStat:
        """Create `key` from a local file; see `put_new`. A copy: the file may lie on another disk, and stays."""
        with open_body(path) as body:
            return self._create(key, body)

    def _create(self, key: str, body: Body) -> ObjectStat:
        path = self._path(key)
        with self._explained(key):
            if path.exists():  # spares writing a chunk that is there; the link below decides
                raise self._exists(key)
            self._make_folder(path.parent, key)
            temporary = _write_temporary(path.parent, body, later_than_ns=None)
            try:
                self._link(temporary, path, key)
                stat = temporary.stat()
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return _object_stat(key, stat)

    def replace(self, key: str, data: bytes | memoryview, *, expected: str) -> ObjectStat:
        """Overwrite `key` only while its version is `expected`, durably.

        Raises
        ------
        PreconditionError
            It has another version, or is absent.
        """
        return self._overwrite(key, as_view(data), expected)

    def replace_file(self, key: str, path: Path, *, expected: str) -> ObjectStat:
        """Overwrite `key` by a local file; see `replace`."""
        with open_body(path) as body:
            return self._overwrite(key, body, expected)

    def _overwrite(self, key: str, body: Body, expected: str) -> ObjectStat:
        path = self._path(key)
        with self._explained(key), self._locked():
            old = self._expect(key, path, expected)
            temporary = _write_temporary(path.parent, body, later_than_ns=old.st_mtime_ns)
            try:
                stat = temporary.stat()
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return _object_stat(key, stat)

    def get(self, key: str) -> bytes:
        """Return all bytes of `key`."""
        with self._explained(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start`; a shorter answer is a ``CorruptError``."""
        if start < 0 or length < 0:
            raise ValueError(f"a range from {start} of {length} bytes")
        with self._explained(key), self._path(key).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise CorruptError(
                f"{self.url}/{key}: {len(data)} of {length} bytes from {start}", kind="short-read", key=key
            )
        return data

    def stat(self, key: str) -> ObjectStat:
        """Return size and version of `key`."""
        path = self._path(key)
        with self._explained(key):
            if path.is_dir():
                raise self._absent(key)
            return _object_stat(key, path.stat())

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield every object whose key starts with `prefix` and comes after `after`, in key order."""
        folder = check_prefix(prefix).rpartition("/")[0]
        with self._explained(prefix):
            walked = _walk(self._root, folder)
            found = [(key, entry) for key, entry in walked if key.startswith(prefix) and key > after]
        for key, entry in sorted(found, key=lambda pair: pair[0]):
            # Deleted since the walk: no object. Any other trouble is none of its absence.
            with self._explained(key), contextlib.suppress(FileNotFoundError):
                yield _object_stat(key, entry.stat(follow_symlinks=False))

    def delete(self, key: str, *, expected: str) -> None:
        """Remove `key` only while its version is `expected`.

        Raises
        ------
        NotFoundError, PreconditionError
            It is absent, or has another version.
        """
        path = self._path(key)
        with self._explained(key), self._locked():
            self.stat(key)
            self._expect(key, path, expected)
            path.unlink()
            _sync_folder(path.parent)

    def list_temporaries(self) -> Iterator[tuple[Path, float]]:
        """Yield the path and age in seconds of each temporary file; a crash left the old ones behind, for ``gc``."""
        for folder, _, names in os.walk(self._root):
            for name in sorted(names):
                path = Path(folder, name)
                if name.startswith(_TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):
                        yield path, time.time() - path.stat().st_ctime

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _link(self, temporary: Path, path: Path, key: str) -> None:
        try:
            os.link(temporary, path, follow_symlinks=False)
        except FileExistsError as error:
            raise self._exists(key) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise ConfigError(
                f"{self.url}: the file system has no hard links, so nothing can be created exclusively",
                kind="no-hard-links",
                hint="use a folder on a local or NFS disk, or an s3:// or gs:// destination",
                key=key,
            ) from error

    def _make_folder(self, folder: Path, key: str) -> None:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{folder} is in the way: a file, not a folder", kind="bad-path", key=key) from error
        for one in missing:  # a synced file is lost all the same when its folder's own entry is
            _sync_folder(one.parent)

    def _expect(self, key: str, path: Path, expected: str) -> os.stat_result:
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PreconditionError(f"{self.url}/{key} is absent, expected version {expected}", key=key) from error
        found = _object_stat(key, stat).version
        if found != expected:
            raise PreconditionError(f"{self.url}/{key} has version {found}, expected {expected}", key=key)
        return stat

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._root.is_dir():
            yield  # nothing to replace or delete, and no reason to make a folder
            return
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # freed with the process, however it ends
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explain(error, key) from error

    def _explain(self, error: OSError, key: str) -> IngestError:
        where, reason = f"{self.url}/{key}", error.strerror or str(error)
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            return self._absent(key)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some space, then run the same command to go on"
            return DiskFullError(f"{where}: no space left ({reason})", hint=hint, key=key)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "choose a folder this user may write, or change its permissions"
            return CredentialsError(f"no permission on {where} ({reason})", kind="permission", hint=hint, key=key)
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST):
            return ConfigError(f"{where}: {reason}", kind="bad-path", key=key)
        return TransientError(f"{where}: {reason}", kind="disk-io", key=key)

    def _absent(self, key: str) -> NotFoundError:
        return NotFoundError(f"{self.url}/{key} does not exist", key=key)

    def _exists(self, key: str) -> IngestError:
        path = self._path(key)
        if path.is_dir():
            return ConfigError(f"{path} is in the way: a folder, not a file", kind="bad-path", key=key)
        # Whoever linked it may not have synced yet; what is reported to exist must outlive a power cut.
        _sync_folder(path.parent)
        return AlreadyExistsError(f"{path} exists already", key=key)


def _object_stat(key: str, stat: os.stat_result) -> ObjectStat:
    return ObjectStat(key, stat.st_size, f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ino:x}")


def _write_temporary(folder: Path, body: Body, later_than_ns: int | None) -> Path:
    """Write and sync a new file in `folder`, modified after `later_than_ns` or now; it is gone when that fails."""
    path = folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces(body, _PIECE_BYTES):
            _write_all(descriptor, piece)
        _date(descriptor, later_than_ns)
        os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return path


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def _date(descriptor: int, later_than_ns: int | None) -> None:
    """Set a modification time that differs from that of every earlier file of the name.

    File systems round: where adding a nanosecond does not show, a microsecond or two seconds (FAT) do.
    """
    for step_ns in (1, 1_000, 1_000_000, 2_000_000_000):
        wanted = time.time_ns() if later_than_ns is None else max(time.time_ns(), later_than_ns + step_ns)
        os.utime(descriptor, ns=(wanted, wanted))
        if later_than_ns is None or os.fstat(descriptor).st_mtime_ns > later_than_ns:
            return


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(root: Path, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield key and entry of each file below `folder` of `root`; links out of the store are not followed."""
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            entries = list(os.scandir(root / here))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            key = f"{here}/{entry.name}" if here else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(key)
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(RESERVED):
                yield key, entry
