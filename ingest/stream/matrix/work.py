"""What an operation may take: threads, and memory for entries that are held at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from ingest.cpu import available_cpus
from ingest.encode.filters import choose_filter

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ingest.encode.filters import Filter

__all__ = ["BLOCK_BYTES", "Work"]

_MOST_THREADS = 8
BLOCK_BYTES = 24 << 20
"""Of entries handled together, of which some copies exist at once: more is not faster."""
_LEVEL = 1


class Work:
    """The threads of one operation, a context.

    Parameters
    ----------
    threads
        That inflate, deflate and compute; None: one a CPU, up to eight.
    block_bytes
        Of entries handled together. Memory is some times this, whatever the file; a single row or column, or a chunk
        of HDF5, may exceed it.
    """

    def __init__(self, threads: int | None = None, block_bytes: int = BLOCK_BYTES) -> None:
        self.threads = threads or min(available_cpus(), _MOST_THREADS)
        self.block_bytes = block_bytes
        self.pool = ThreadPoolExecutor(self.threads, "cell-ingest-stream")
        self.lock = Lock()
        """Held while HDF5 reads the source."""
        how = choose_filter("deflate", _LEVEL)
        if how is None:
            raise ValueError("deflate is always there")
        self.filter: Filter = how
        self.level = _LEVEL

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(cancel_futures=True)
