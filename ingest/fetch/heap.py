"""Keep freed memory for what comes next. A page that the system takes back costs a fault and zeros to get again.

Reading counts is buffers of some megabytes, made and dropped band after band. Measured over 118 M entries read band by
band: 20 bytes an entry went through the allocator, 14 of them were faulted in anew, for 11 of 26 ns of CPU time; with
what is kept here and in `ingest.fetch.soma_config` none are.
"""

from __future__ import annotations

import ctypes
import sys

import pyarrow as pa

__all__ = ["give_freed_memory_back", "keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""``mallopt`` parameters of glibc's malloc.h."""

_KEPT_BYTES = 256 << 20
_HEAP_BYTES = 32 << 20
"""The largest that glibc accepts: half of a thread's heap."""
_ARENAS = 1
"""What a thread keeps serves no other, and a worker has a dozen of them: with an arena each, 100-cell chunks took a
quarter more memory."""


def keep_freed_memory() -> bool:
    """Let malloc keep up to 256 MiB of freed memory, blocks of up to 32 MiB included; tell whether that was possible.

    It is kept in one place, for all threads to use.

    For the whole process, and the same however often it is asked. Peak memory stays what it was: it is only no longer
    given back in between. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    wanted = {_MMAP_THRESHOLD: _HEAP_BYTES, _TRIM_THRESHOLD: _KEPT_BYTES, _ARENA_MAX: _ARENAS}
    accepted = [bool(mallopt(parameter, value)) for parameter, value in wanted.items()]
    return all(accepted)


def give_freed_memory_back() -> None:
    """Return what Arrow and malloc hold that is free, in all places; they keep it for whoever comes next.

    Worth it between two steps of which neither has a use for what the other one held.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:  # glibc
        trim(0)
