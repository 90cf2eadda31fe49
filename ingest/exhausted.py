"""Which exceptions mean that this process has run out of something, whatever it was reading or writing."""

from __future__ import annotations

import errno
import re

from ingest.errors import ExhaustedError

__all__ = ["exhausted"]

_MEMORY = re.compile(
    r"bad_alloc|Unable to allocate|memory allocation failed|can(?:no|')t allocate memory", re.IGNORECASE
)
_THREADS = re.compile(r"can't start new thread|thread pool.*Resource temporarily unavailable", re.DOTALL)
_FILES = re.compile(r"Too many open files")
_HINTS = {
    "out-of-memory": "start fewer workers, or make -c smaller",
    "no-threads": "start fewer workers, or raise the limit of processes (ulimit -u)",
    "no-files": "raise the limit of open files (ulimit -n)",
}


def exhausted(error: BaseException, where: str = "") -> ExhaustedError | None:
    """Return what to raise instead of `error`, or None where it means something else.

    Parameters
    ----------
    where
        Begins the message: what was being read or written.
    """
    kind = _kind_of(error)
    if kind is None:
        return None
    text = " ".join(str(error).split())[:300]
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ExhaustedError(f"{where}: {said}" if where else said, kind=kind, hint=_HINTS[kind], source=where or None)


def _kind_of(error: BaseException) -> str | None:
    text, number = str(error), error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _MEMORY.search(text):
        return "out-of-memory"
    if _THREADS.search(text):
        return "no-threads"
    if number in (errno.EMFILE, errno.ENFILE) or _FILES.search(text):
        return "no-files"
    return None
