"""Ctrl-C kept out of code that HDF5 calls.

Python handles a signal between any two steps of the main thread, in a method that HDF5 has called as well. An exception
there leaves HDF5 with a file that it can neither write nor close, and later it takes the process down with it (tried
with HDF5 2.0: a segmentation fault). So while a file is written, the handler waits until that method has returned.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["interrupted_outside_of"]

_AGAIN_S = 0.01


@contextlib.contextmanager
def interrupted_outside_of(owner: type) -> Iterator[None]:
    """Let no method of `owner` be interrupted by Ctrl-C in this block: it is handled right after.

    Who handles it stays the same. In another thread than the main one, which no signal interrupts, nothing is done.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    codes = {member.__code__ for member in vars(owner).values() if hasattr(member, "__code__")}

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_below(frame, codes):
            again = threading.Timer(_AGAIN_S, _thread.interrupt_main, (number,))
            again.daemon = True
            again.start()
        else:
            before(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_below(frame: FrameType | None, codes: set[object]) -> bool:
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False
