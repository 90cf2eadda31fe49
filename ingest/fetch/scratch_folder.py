"""A folder for one process on scratch, which another process can tell from one whose owner was killed.

The owner holds ``flock(2)`` on a file inside for as long as it lives; the kernel lets go of it however the process
ends. Process numbers would not do: they come back, and containers that share a scratch disk count apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["ScratchFolder"]

_PREFIX = "cell-ingest-"
_LOCK = "lock"


class ScratchFolder:
    """A new folder in `parent`, made with it; folders that killed processes left there are removed first.

    Parameters
    ----------
    prefix
        Of its name, and of the names of those that are removed.

    Raises
    ------
    OSError
        It cannot be made.
    """

    def __init__(self, parent: Path, prefix: str = _PREFIX) -> None:
        parent.mkdir(exist_ok=True)  # not the folders above it: a mistyped path is to be seen
        _sweep(parent, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock: int | None = None
        # A file system without locks: nobody can tell whether the owner lives, so nobody sweeps.
        with contextlib.suppress(OSError):
            self._lock = _take(self.path)

    def close(self) -> None:
        """Remove the folder; closing twice is closing once."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _take(folder: Path) -> int:
    fresh = folder / f"{_LOCK}.new"
    lock = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Under its name only once it is held: a sweeper would take one that is not for a dead owner's.
        fresh.rename(folder / _LOCK)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of that prefix whose owner is gone; trouble with one leaves it to the next sweep."""
    for path in parent.glob(f"{glob.escape(prefix)}*/{_LOCK}"):
        with contextlib.suppress(OSError):
            # The folder may be everybody's (/tmp): no link is followed, nothing waits for a writer.
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)
