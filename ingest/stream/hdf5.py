"""HDF5 files that are written straight to a disk that may fill up.

HDF5 that cannot write what it holds cannot close the file either, and may take the process down with it (sources.md,
"Traps"; tried with 1.14 and 2.0). So it writes to a file that takes everything: after the first failure, of whatever
kind, what comes is kept in memory, HDF5 closes in peace, and the failure is raised here.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from typing import TYPE_CHECKING, Any, Literal

import h5py

from ingest.errors import ConfigError
from ingest.stream.files import writing
from ingest.stream.interrupts import interrupted_outside_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["OutputFile", "WritableFile", "bound_metadata", "writable"]

_MOST_LATE_BYTES = 256 << 20


class OutputFile(io.RawIOBase):
    """The bytes of a file that HDF5 writes; writing them never fails, `failure` says if it did.

    Parameters
    ----------
    path
        Existing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.failure: BaseException | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._position = 0
        self._size = os.fstat(self._descriptor).st_size
        self._late: list[tuple[int, bytes]] = []
        self._late_bytes = 0

    def close(self) -> None:
        """Close the file; twice does no harm."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def check(self) -> None:
        """Raise what went wrong."""
        if self.failure is not None:
            raise self.failure

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def seekable(self) -> bool:
        """Tell that it can seek."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self._size = self._position if size is None else size
        if self.failure is None:
            try:
                os.ftruncate(self._descriptor, self._size)
            except BaseException as error:  # noqa: BLE001 # HDF5 must not see it; `check` raises it
                self.failure = error
        return self._size

    def flush(self) -> None:
        """Do nothing: no byte is held back here."""

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the position; beyond the end are zeros."""
        view, at = memoryview(buffer).cast("B"), 0
        while at < len(view):
            # A damaged file sends HDF5 to places that no file has.
            inside = self._position + at < self._size
            n = os.preadv(self._descriptor, [view[at:]], self._position + at) if inside else 0
            if not n:
                view[at:] = bytes(len(view) - at)
                break
            at += n
        for start, raw in self._late:
            begin, end = max(start, self._position), min(start + len(raw), self._position + len(view))
            if begin < end:
                view[begin - self._position : end - self._position] = raw[begin - start : end - start]
        self._position += len(view)
        return len(view)

    def write(self, raw: Any) -> int:
        """Write at the position."""
        view = memoryview(raw).cast("B")
        if self.failure is None:
            try:
                self._write(view)
            except BaseException as error:  # noqa: BLE001 # HDF5 must not see it; `check` raises it
                self.failure = error
        if self.failure is not None:
            self._keep(view)
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def _write(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            done = os.pwrite(self._descriptor, view[at:], self._position + at)
            if not done:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            at += done

    def _keep(self, view: memoryview) -> None:
        # What HDF5 writes from here on, it may want to read again until it is closed. Data of a caller that does not
        # look (`check`) would fill the memory: they are dropped, and nobody will see the file.
        self._late_bytes += len(view)
        if self._late_bytes <= _MOST_LATE_BYTES:
            with contextlib.suppress(MemoryError):
                self._late.append((self._position, bytes(view)))


class WritableFile(h5py.File):  # type: ignore[misc]  # h5py has no types
    """An HDF5 file over an `OutputFile`."""

    def __init__(self, raw: OutputFile, mode: str) -> None:
        super().__init__(raw, mode, libver=("earliest", "v110"))
        self._raw = raw

    def check(self) -> None:
        """Raise what went wrong so far: whoever writes for hours looks now and then."""
        self._raw.check()


_METADATA_BYTES = 2 << 20


@contextlib.contextmanager
def writable(path: Path, mode: Literal["w", "r+"] = "w", *, name: Path | None = None) -> Iterator[WritableFile]:
    """Yield an HDF5 file to write, whose disk may fill up.

    ``check`` of what is yielded tells early that the disk is full; at the latest it is raised when the block ends.

    Parameters
    ----------
    path
        Existing: a name that `ingest.stream.files.new_file` or `edited_copy` gave.
    mode
        ``w``: from nothing; ``r+``: as it is.
    name
        What errors call it.

    Raises
    ------
    ConfigError
        ``disk-full``; ``unreadable``: no HDF5 file to change.
    """
    raw = OutputFile(path)
    with writing(name or path), contextlib.closing(raw), interrupted_outside_of(OutputFile):
        try:
            with _opened(raw, mode, name or path) as file:
                yield file
        except Exception:
            raw.check()  # where both went wrong, the disk is the reason
            raise
        raw.check()


def bound_metadata(file: h5py.File) -> None:
    """Keep no more than 2 MiB of a file's metadata in memory, where HDF5 goes up to 32 with the texts it has met."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.initial_size, config.min_size, config.max_size = _METADATA_BYTES // 2, _METADATA_BYTES // 2, _METADATA_BYTES
    file.id.set_mdc_config(config)


def _opened(raw: OutputFile, mode: str, name: Path) -> WritableFile:
    try:
        return WritableFile(raw, mode)
    except OSError as error:
        raw.check()
        raise ConfigError(f"{name}: no HDF5 file that can be changed ({error})", kind="unreadable") from error
