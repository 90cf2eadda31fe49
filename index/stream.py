"""The seam inside ``index``: a selection of cells that can be streamed more than once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from ingest.grammar import unknown_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.errors import EmptySelectionError

__all__ = ["CellStream", "Progress", "Projected", "silent"]

Progress = Callable[[str, int], None]
"""Called now and then with what is being done (``counting``, ``writing``) and the cells done so far."""


class CellStream(Protocol):
    """Cells of one selection, always in the same order, in memory that does not grow with them."""

    @property
    def schema(self) -> pa.Schema:
        """``source`` (if known), ``soma_joinid`` and ``row`` (int64), then the obs columns."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know about the selection, one line each; complete once streamed."""
        ...

    @property
    def total(self) -> int:
        """Cells there are before any filter or sample."""
        ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells, or only `columns` of them; every call starts anew and gives the same cells."""
        ...

    def nothing(self) -> EmptySelectionError:
        """Return the error that explains why a stream that has just ended held no cells."""
        ...


class Projected:
    """`names` of a stream, in that order; what its filters need besides is read and dropped on the way.

    Raises
    ------
    ConfigError
        ``unknown-column``.
    """

    def __init__(self, stream: CellStream, names: Sequence[str], where: str) -> None:
        for name in names:
            if name not in stream.schema.names:
                raise unknown_column(name, stream.schema.names, where)
        self._stream = stream
        self._names = list(dict.fromkeys(names))

    @property
    def schema(self) -> pa.Schema:
        """The columns chosen."""
        return pa.schema([self._stream.schema.field(name) for name in self._names])

    @property
    def notes(self) -> Sequence[str]:
        """Those of the stream."""
        return self._stream.notes

    @property
    def total(self) -> int:
        """That of the stream."""
        return self._stream.total

    def nothing(self) -> EmptySelectionError:
        """Explain as the stream does."""
        return self._stream.nothing()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the columns chosen, or only `columns` of them."""
        return self._stream.batches(self._names if columns is None else columns)


def silent(stage: str, cells: int) -> None:
    """Report progress to nobody."""
