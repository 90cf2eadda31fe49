"""A process that dies between two of its operations on files: a folder as whoever is killed leaves it behind.

Python tells audit hooks of every file that it is about to open, link, rename, remove or make a folder for, whoever
asks for it; here that is the moment of death. What was begun is not cleaned up, as `finally` would: the dead do nothing
more in the folder. What C libraries write by themselves (HDF5, Arrow) happens between two steps.

::

    with file_steps(folder) as quiet:
        work(folder)
    for at in range(len(quiet.log)):
        with file_steps(folder, die_at=at), suppress(DiedError):
            work(folder)
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ingest.testing.faults import DiedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FileSteps", "file_steps"]

_STEPS = ("open", "os.link", "os.symlink", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@dataclass(eq=False)
class FileSteps:
    """The steps taken in a folder."""

    root: str
    die_at: int | None
    log: list[str] = field(default_factory=list)
    """``open .../name``, …, in order; those of the dead are not among them."""
    dead: bool = False

    def take(self, event: str, path: str) -> None:
        """Note a step, or die of it.

        Raises
        ------
        DiedError
            It is the one, or comes after.
        """
        self.dead = self.dead or len(self.log) == self.die_at
        if self.dead:
            raise DiedError(f"{event} {path}")
        self.log.append(f"{event} {os.path.relpath(path, self.root)}")


_watched: list[FileSteps] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched or event not in _STEPS:
        return
    paths = [os.fspath(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)]
    for steps in _watched:
        for path in paths:
            text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 # a Path would be made for every file opened
            if text.startswith(steps.root):
                steps.take(event, text)
                break


_installed: list[bool] = []


@contextmanager
def file_steps(folder: Path, *, die_at: int | None = None) -> Iterator[FileSteps]:
    """Watch what this process does to files in `folder` until the block ends, and let it die at one step.

    Not for several at a time in one process.
    """
    if not _installed:  # a hook stays for good; without anybody to watch it does nothing
        sys.addaudithook(_hook)
        _installed.append(True)
    steps = FileSteps(str(folder.absolute()), die_at)
    _watched.append(steps)
    try:
        yield steps
    finally:
        _watched.remove(steps)
