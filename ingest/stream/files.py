"""How an output comes to be: under another name beside it, synced, then renamed; in place: a copy that replaces.

A crash, a full disk or an error leaves nothing under the final name that was not there before, and an input as it was.
What a killed process leaves is a hidden file whose name ends in ``.partial``; the next one that writes under the same
name on this machine removes it. Who is still writing holds a lock, which ends with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import (
    ConfigError,
    CredentialsError,
    DiskFullError,
    IngestError,
    NoFileError,
    SourceChangedError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PARTIAL", "changed_copy", "edited_copy", "new_file", "resolve_output_path", "writing"]

PARTIAL = ".partial"
"""How names of unfinished files end."""
_FICLONE = 0x40049409
"""Linux' ioctl that shares all blocks of a file with another (``linux/fs.h``)."""
_PIECE_BYTES = 1 << 30
_TURN_S, _STEP_S = 5.0, 0.005
"""How long a writer waits for the others to take their names, and how often it looks."""
_LONGEST_NAME = 255
_NODE = hashlib.sha256(platform.node().encode()).hexdigest()[:4]
"""Locks are seen by all processes of a machine; on some shared file systems, by no others."""
_CANNOT = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM)
"""How a file system says that it cannot copy this way; another way may do."""


def resolve_output_path(
    input_path: str | os.PathLike[str],
    *,
    suffix: str,
    output_dir: str | os.PathLike[str] | None = None,
    data_name: str | None = None,
    module: str = "ingest",
) -> Path:
    """Return where an operation writes that was given no path: ``{module}_{suffix}.h5ad``, with a name between.

    Pure. Neither module nor suffix stands twice: ``data_name="ingest_pbmc_csr"`` is ``pbmc`` to the suffix ``csr``.

    Parameters
    ----------
    input_path
        Its folder is where the output goes, unless `output_dir` is given.
    suffix
        What was done, such as ``csr``.
    data_name
        What the data are called.
    """
    stem = (data_name or "").removesuffix(".h5ad")
    bare = stem.removeprefix(f"{module}_").removesuffix(f"_{suffix}")
    name = "" if bare in (module, suffix) else bare
    folder = Path(input_path).parent if output_dir is None else Path(output_dir)
    return folder / ("_".join(part for part in (module, name, suffix) if part) + ".h5ad")


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str], *, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield a name beside `path` to write to; what stands there takes the name `path` when the block ends well.

    Parameters
    ----------
    check
        Called when all is on the disk; no other that writes by this takes a name in the folder until this one has.

    Raises
    ------
    ConfigError
        ``bad-path``, ``disk-full``: there is no such folder; it is full.
    CredentialsError
        Nothing may be written there.
    """
    path = Path(os.path.realpath(path))  # through a link to what it means, as opening it would be
    with writing(path):
        if path.is_dir():
            raise ConfigError(f"{path} is in the way: a folder, not a file", kind="bad-path")
        _sweep(path)
        temporary, lock = _locked(path)
        try:
            yield temporary
            _sync(temporary, os.O_RDWR)
            with _turn(path.parent):
                if check is not None:
                    check()
                temporary.replace(path)
        finally:
            os.close(lock)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync(path.parent, os.O_RDONLY)


@contextlib.contextmanager
def edited_copy(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a copy of a file, to be changed, which replaces the file when the block ends well.

    The copy shares the file's blocks where the file system can; it has the file's permissions.

    Raises
    ------
    NoFileError
        There is no such file.
    SourceChangedError
        Somebody else changed the file meanwhile, or has it open for writing: theirs stays, and this is dropped.
    ConfigError, CredentialsError
        As of `new_file`.
    """
    original = Path(os.path.realpath(path))
    if not original.is_file():
        raise NoFileError(f"{path}: there is no such file", source=str(path))
    before = _version(original)

    def check() -> None:
        _check_free(original, path)
        # Last, and after the copy is on the disk: of a large file that takes minutes.
        if _version(original) != before:
            raise SourceChangedError(
                f"{path}: the file was changed by something else meanwhile",
                hint="nothing was written; run it again",
                source=str(path),
            )

    with new_file(original, check=check) as copy:
        _check_free(original, path)
        _copy(original, copy)
        yield copy


@contextlib.contextmanager
def changed_copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a copy of `source`, to be changed, which takes the name `path` when the block ends well.

    Raises
    ------
    ConfigError, CredentialsError
        As of `new_file`.
    """
    with new_file(path) as copy:
        _copy(Path(source), copy)
        yield copy


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while `path` is written into an error of the project."""
    try:
        yield
    except IngestError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise _explained(error, Path(path)) from error


def _explained(error: OSError, path: Path) -> IngestError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "free some space, or write elsewhere, and run it again; nothing is left of this try"
        return DiskFullError(f"{path}: no space left ({reason})", hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder this user may write"
        return CredentialsError(f"no permission to write {path} ({reason})", kind="permission", hint=hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ConfigError(f"{path.parent}: there is no such folder", kind="bad-path")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR):
        return ConfigError(f"{path}: {reason}", kind="bad-path")
    return TransientError(f"{path}: {reason}", kind="disk-io")


def _locked(path: Path) -> tuple[Path, int]:
    """Make a temporary file; return its path, and a descriptor that holds its lock until it is closed."""
    while True:
        temporary = path.with_name(_temporary_name(path.name))
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, fcntl.LOCK_SH)  # shared: HDF5 locks so what it reads
            if os.fstat(descriptor).st_nlink:  # nobody swept it before it was locked
                return temporary, descriptor
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    """Tell whether a file is locked now: it is not where another process has another lock, or there are no locks."""
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove what killed processes of this machine have left of their writing of `path`."""
    name = re.compile(rf"{re.escape(_temporary_start(path.name))}{_NODE}[0-9a-f]{{8}}{re.escape(PARTIAL)}")
    with contextlib.suppress(OSError):  # it is a kindness, and what is wrong with the folder will be said
        for found in [entry.path for entry in os.scandir(path.parent) if name.fullmatch(entry.name)]:
            descriptor = os.open(found, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    os.unlink(found)  # noqa: PTH108 # while the lock is held
            finally:
                os.close(descriptor)


def _temporary_name(name: str) -> str:
    end = f"{_NODE}{secrets.token_hex(4)}{PARTIAL}"
    return f"{_temporary_start(name)}{end}" if len(os.fsencode(name)) <= _LONGEST_NAME else name + end  # too long


def _temporary_start(name: str) -> str:
    room = _LONGEST_NAME - len(f"..{_NODE}{'0' * 8}{PARTIAL}")
    return f".{os.fsencode(name)[:room].decode(errors='ignore')}."


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _check_free(original: Path, path: str | os.PathLike[str]) -> None:
    """Raise SourceChangedError where HDF5 has the file open for writing: it locks it so, and has more to write."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except BlockingIOError as error:
            raise SourceChangedError(
                f"{path}: is open for writing in another place",
                hint="close it there (h5py.File, AnnData with mode r+) and run it again; nothing was written",
                source=str(path),
            ) from error
        except OSError:
            pass  # a file system without locks
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other of this module checks and renames in a folder: that is no more than a moment.

    The folder itself is locked, which HDF5 never does: a lock on the file would shut out its readers. Where folders
    have no locks (NFS), or somebody holds this one for long, what is left is that a name is taken in the moment between
    the check and the rename.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _wait_for(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do: a child forked meanwhile has it open
        os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    end = time.monotonic() + _TURN_S
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_STEP_S)
        except OSError:
            return
        else:
            return


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as one, target.open("r+b") as other:
        try:
            fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            _copy_bytes(one.fileno(), other.fileno())
    shutil.copymode(source, target)


def _copy_bytes(source: int, target: int) -> None:
    """Copy a whole file inside the kernel."""
    at, size = 0, os.fstat(source).st_size
    copy = os.copy_file_range if hasattr(os, "copy_file_range") else None
    while at < size:
        n = min(_PIECE_BYTES, size - at)
        try:
            done = copy(source, target, n, at, at) if copy is not None else _send(source, target, n, at)
        except OSError as error:
            if copy is None or error.errno not in _CANNOT:
                raise
            copy = None
            continue
        if not done:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        at += done


def _send(source: int, target: int, n: int, at: int) -> int:
    os.lseek(target, at, os.SEEK_SET)
    return os.sendfile(target, source, at, n)
