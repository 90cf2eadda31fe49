"""How an output comes to be: under another name beside it, synced, then renamed; in place: a copy that replaces.

A crash, a full disk or an error leaves nothing under the final name that was not there before, and an input as it was.
What a killed process leaves is a hidden file whose name ends in ``.partial``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import ConfigError, CredentialsError, IngestError, NoFileError, SourceChangedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PARTIAL", "changed_copy", "edited_copy", "new_file", "resolve_output_path", "writing"]

PARTIAL = ".partial"
"""How names of unfinished files end."""
_FICLONE = 0x40049409
"""Linux' ioctl that shares all blocks of a file with another (``linux/fs.h``)."""
_PIECE_BYTES = 1 << 30
_LONGEST_NAME = 255
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
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a name beside `path` to write to; what stands there takes the name `path` when the block ends well.

    Raises
    ------
    ConfigError
        ``bad-path``, ``disk-full``: there is no such folder; it is full.
    CredentialsError
        Nothing may be written there.
    """
    path = Path(os.path.realpath(path))  # through a link to what it means, as opening it would be
    temporary = path.with_name(_temporary_name(path.name))
    with writing(path):
        if path.is_dir():
            raise ConfigError(f"{path} is in the way: a folder, not a file", kind="bad-path")
        try:
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            yield temporary
            _sync(temporary, os.O_RDWR)
            temporary.replace(path)
            _sync(path.parent, os.O_RDONLY)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def edited_copy(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a copy of a file, to be changed, which replaces the file when the block ends well.

    The copy shares the file's blocks where the file system can; it has the file's permissions.

    Raises
    ------
    NoFileError
        There is no such file.
    SourceChangedError
        Somebody else changed the file meanwhile: theirs stays, and this is dropped.
    ConfigError, CredentialsError
        As of `new_file`.
    """
    original = Path(os.path.realpath(path))
    if not original.is_file():
        raise NoFileError(f"{path}: there is no such file", source=str(path))
    with new_file(original) as copy:
        before = _version(original)
        _copy(original, copy)
        yield copy
        if _version(original) != before:
            raise SourceChangedError(
                f"{path}: the file was changed by something else meanwhile",
                hint="nothing was written; run it again",
                source=str(path),
            )


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
        return ConfigError(f"{path}: no space left ({reason})", kind="disk-full", hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder this user may write"
        return CredentialsError(f"no permission to write {path} ({reason})", kind="permission", hint=hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ConfigError(f"{path.parent}: there is no such folder", kind="bad-path")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR):
        return ConfigError(f"{path}: {reason}", kind="bad-path")
    return TransientError(f"{path}: {reason}", kind="disk-io")


def _temporary_name(name: str) -> str:
    end = f".{secrets.token_hex(6)}{PARTIAL}"
    kept = name.encode()[: _LONGEST_NAME - len(end) - 1].decode(errors="ignore")
    return f".{kept}{end}" if len(name.encode()) <= _LONGEST_NAME else name + end  # too long: the system says so


def _version(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


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
