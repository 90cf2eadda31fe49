"""Whether a file was opened by this process or any other, and how much memory something took at most."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Canaries", "Peak", "watched_memory"]

_IN_ACCESS, _IN_OPEN = 0x1, 0x20


class Canaries:
    """Files that nobody may open: Linux says when anybody did, C libraries included; a context manager.

    Elsewhere it sees nothing.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._queue = -1

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            for path in self._paths:
                if libc.inotify_add_watch(self._queue, os.fsencode(path), _IN_OPEN | _IN_ACCESS) < 0:
                    raise OSError(ctypes.get_errno(), "no watch", str(path))
        return self

    def __exit__(self, *_: object) -> None:
        if self._queue >= 0:
            os.close(self._queue)
            self._queue = -1

    def disturbed(self) -> bool:
        """Return whether any of them has been opened or read since this was asked last."""
        if self._queue < 0:
            return False
        with suppress(BlockingIOError):
            return bool(os.read(self._queue, 1 << 16))
        return False


@dataclass(slots=True)
class Peak:
    """What was measured."""

    taken_bytes: int = 0
    """Resident memory at most, beyond what there was at the beginning."""


@contextmanager
def watched_memory() -> Iterator[Peak]:
    """Measure the most resident memory of this process while something runs; 0 where Linux does not say."""
    peak, status = Peak(), Path("/proc/self/status")
    before = 0
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _high_water(status)
    yield peak
    if before:
        peak.taken_bytes = max(0, _high_water(status) - before)


def _high_water(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
