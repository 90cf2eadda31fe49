"""What an operation may take: threads, and memory for entries that are held at once."""

from __future__ import annotations

import operator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from ingest.cpu import available_cpus
from ingest.encode.filters import choose_filter
from ingest.stream.budget import budget_of
from ingest.stream.sizes import calculate_optimal_chunk_size, calculate_optimal_gene_chunk_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ingest.encode.filters import Filter

__all__ = ["BLOCK_BYTES", "Reached", "Work", "check_chunk_size"]

Reached: TypeAlias = "Callable[[str, int, int], None]"
"""Is told which matrix is read, how many of its lines are, of how many."""

_MOST_THREADS = 8
BLOCK_BYTES = 8 << 20
"""Of entries handled together, of which some copies exist at once: more is not faster."""
_LEAST_BLOCK_BYTES = 1 << 20
_COPIES = 64
"""Of a block, at most: the larger part of the memory is somebody else's."""
_LEVEL = 1
_ENTRY_BYTES = 8
"""A value of four bytes and its place."""


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise ValueError for a number of lines that nothing could be done with."""
    if chunk_size is not None and operator.index(chunk_size) < 1:
        raise ValueError(f"chunk_size {chunk_size}: 1 or more")


class Work:
    """The threads and the memory of one operation, a context.

    Parameters
    ----------
    threads
        That inflate, deflate and compute; None: one a CPU, up to eight.
    block_bytes
        Of entries handled together; None: `BLOCK_BYTES`, less where little memory is left. Memory is some times this,
        whatever the file; a single row or column, or a chunk of HDF5, may exceed it.
    most_lines
        Rows, or columns, handled together; None: as many as fit, and as `ingest.stream.sizes` says.
    reached
        Is told now and then which matrix is read, how many of its lines are, of how many.
    """

    def __init__(
        self,
        threads: int | None = None,
        block_bytes: int | None = None,
        *,
        most_lines: int | None = None,
        reached: Reached | None = None,
    ) -> None:
        self.threads = threads or min(available_cpus(), _MOST_THREADS)
        usual = budget_of().lines(_COPIES, least=_LEAST_BLOCK_BYTES, most=BLOCK_BYTES)
        self.block_bytes = block_bytes or usual
        self.most_lines = most_lines
        self.reached = reached or _ignore
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

    @property
    def block_entries(self) -> int:
        """Entries handled together where they are dealt out to other lines."""
        return max(self.block_bytes // _ENTRY_BYTES, 1)

    def lines(self, shape: tuple[int, int], *, by_columns: bool = False) -> int:
        """Return how many rows, or columns, of a matrix are handled together at most."""
        if self.most_lines is not None:
            return self.most_lines
        return (calculate_optimal_gene_chunk_size if by_columns else calculate_optimal_chunk_size)(*shape)


def _ignore(_path: str, _done: int, _total: int) -> None:
    pass
