"""Every change that this process makes to the file system, one by one: looked at, or made to fail.

A process that is killed leaves the file system as it was between two of its changes. So one run that looks before each
of them and after the last has seen every state in which a SIGKILL can leave things; what a power cut leaves follows
from the order of changes and of ``fsync``: `undurable` reads it from the log.

::

    quiet = FilePoints(folder)
    with quiet:
        write()
    for at in range(len(quiet.log)):
        with FilePoints(folder, fail=Failure(at, OSError(errno.ENOSPC, "full"))):
            write()
"""

from __future__ import annotations

import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

__all__ = ["Change", "Failure", "FilePoints", "undurable"]

_BY_DESCRIPTOR = {"pwrite": 0, "write": 0, "ftruncate": 0, "fsync": 0, "copy_file_range": 1, "sendfile": 0}
_BY_PATH = ("replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "chmod", "truncate")
_FILLS = ("pwrite", "write", "ftruncate", "copy_file_range", "sendfile", "ioctl", "open")
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True, slots=True)
class Change:
    """One call of the system."""

    name: str
    """Of the function in `os`, or ``ioctl`` (which clones files)."""
    path: str
    """What is changed; of an unnamed file what the kernel calls it."""
    to: str = ""
    """Its new name."""

    @property
    def fills(self) -> bool:
        """Whether it takes room on the disk."""
        return self.name in _FILLS


@dataclass(frozen=True, slots=True)
class Failure:
    """What goes wrong instead of a change."""

    at: int
    """Ordinal of the change, from 0."""
    error: BaseException
    full: bool = False
    """Whether all that takes room fails from there on, as on a full disk; otherwise it happens once."""


class FilePoints:
    """A context in which `log` fills with the changes this process makes in a folder; not to be nested.

    Parameters
    ----------
    folder
        And below it. What is changed elsewhere, such as the caches of compilers, is let through.
    look
        Called with the number of a change before it is made.
    fail
        What goes wrong, and where.
    """

    def __init__(self, folder: Path, *, look: Callable[[int], None] | None = None, fail: Failure | None = None) -> None:
        self._folder = str(folder.resolve())
        self._look, self._fail = look, fail
        self._lock = threading.RLock()
        self._before: list[tuple[Any, str, Any]] = []
        self.log: list[Change] = []

    def __enter__(self) -> Self:
        for name, position in _BY_DESCRIPTOR.items():
            self._wrap(os, name, _of_descriptor(position))
        for name in _BY_PATH:
            self._wrap(os, name, lambda given: Change("", *(_absolute(path) for path in given[:2] if _is_path(path))))
        self._wrap(os, "open", _opening)
        self._wrap(fcntl, "ioctl", lambda given: Change("", _named(given[0])))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for owner, name, function in self._before:
            setattr(owner, name, function)

    def _wrap(self, owner: Any, name: str, told: Callable[[tuple[Any, ...]], Change | None]) -> None:
        if not hasattr(owner, name):
            return
        function = getattr(owner, name)

        def wrapped(*given: Any, **options: Any) -> Any:
            with self._lock:
                found = told(given)
                if found is not None and found.path.startswith(self._folder):
                    self._reached(Change(name, found.path, found.to))
                return function(*given, **options)

        self._before.append((owner, name, function))
        setattr(owner, name, wrapped)

    def _reached(self, change: Change) -> None:
        number, fail = len(self.log), self._fail
        self.log.append(change)
        if self._look is not None:
            self._look(number)
        if fail is not None and (number == fail.at or (fail.full and number > fail.at and change.fills)):
            raise fail.error


def undurable(log: Iterable[Change]) -> list[str]:
    """Return what a power cut after the last of these changes could undo or leave half-done: nothing is right.

    A file must be synced after its last change and before it gets its name; the folder after that.
    """
    unsynced, found, folders = set[str](), [], set[str]()
    for change in log:
        if change.name == "fsync":
            unsynced.discard(change.path)
            folders.discard(change.path)
        elif change.fills:
            unsynced.add(change.path)
        elif change.name in ("replace", "rename", "link"):
            if change.path in unsynced:
                found.append(f"{change.path} got its name {change.to} before it was on the disk")
            folders.add(os.path.dirname(change.to))  # noqa: PTH120 # text in, text out
    return found + [f"{folder} was not synced after a file in it got its name" for folder in sorted(folders)]


def _of_descriptor(position: int) -> Callable[[tuple[Any, ...]], Change]:
    return lambda given: Change("", _named(given[position]))


def _opening(given: tuple[Any, ...]) -> Change | None:
    flags = given[1] if len(given) > 1 else 0
    return Change("", _absolute(given[0])) if flags & _FOR_WRITING else None


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _absolute(path: Any) -> str:
    return str(Path(os.fspath(path)).absolute()) if _is_path(path) else str(path)


def _named(descriptor: Any) -> str:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return f"descriptor {number}"
