"""Rows of features that came together: held in memory, or in a file of which columns are read when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ingest.load.memmap.feature_encode import from_arrow, from_values, is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa

    from ingest.load.memmap.feature_frames import Frame
    from ingest.load.memmap.feature_pieces import Array, Piece

__all__ = ["Casts", "FileSegment", "HeldSegment", "Segment", "cast", "giver"]

Casts = tuple["np.dtype[Any]", ...]
"""What values are cast to, one after the other: as columns were widened for what came after them."""


class Segment(Protocol):
    """Rows that came together: pieces of as many columns."""

    @property
    def n_rows(self) -> int:
        """How many."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the columns, in their order."""
        ...

    def piece(self, name: str) -> Piece:
        """Return a column."""
        ...

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a column, without reading it if that can be."""
        ...

    def samples(self, name: str) -> list[Any]:
        """Return values of a column, one of every type among them."""
        ...

    def batches(self) -> Iterator[Mapping[str, Piece]]:
        """Yield all columns of some rows at a time, keeping none of what is read for it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class HeldSegment:
    """Rows in memory."""

    n_rows: int
    pieces: Mapping[str, Piece]

    @property
    def names(self) -> Sequence[str]:
        """Of the columns."""
        return list(self.pieces)

    def piece(self, name: str) -> Piece:
        """Return a column."""
        return self.pieces[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a column."""
        return self.pieces[name].dtype

    def samples(self, name: str) -> list[Any]:
        """Return values of a column, one of every type among them."""
        return self.pieces[name].samples()

    def batches(self) -> Iterator[Mapping[str, Piece]]:
        """Yield all of it."""
        yield self.pieces


@dataclass(frozen=True, slots=True, eq=False)
class FileSegment:
    """Rows ``[start, stop)`` of a file; a column is read when it is first asked for and then kept."""

    frame: Frame
    start: int
    stop: int
    read: dict[str, Piece] = field(default_factory=dict)
    """What has been read."""

    def __reduce__(self) -> tuple[Any, ...]:
        # What has been read is not sent to another process: it has the file.
        return FileSegment, (self.frame, self.start, self.stop)

    @property
    def n_rows(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def names(self) -> Sequence[str]:
        """Of the columns."""
        return self.frame.names

    def piece(self, name: str) -> Piece:
        """Return a column.

        Raises
        ------
        CorruptError
            The file is damaged.
        """
        found = self.read.get(name)
        if found is None:
            found = self.read[name] = from_arrow(self.frame.read(name, self.start, self.stop))
        return found

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a column, which need not be kept for it."""
        found = self.read.get(name)
        return self.frame.dtype(name) if found is None else found.dtype

    def samples(self, name: str) -> list[Any]:
        """Return values of a column, one of every type among them; texts need not be read for it."""
        return [""] if is_text(self.frame.schema.field(name).type) else self.piece(name).samples()

    def batches(self) -> Iterator[Mapping[str, Piece]]:
        """Yield the file's rows as they lie there."""
        for table in self.frame.batches(self.start, self.stop):
            yield {name: from_arrow(table.column(name)) for name in self.names}


def cast(values: Array, casts: Casts) -> Array:
    """Return values as they are after all that came later."""
    for dtype in casts:
        values = values.astype(dtype)
    return values


def giver(piece: Piece, rows: slice, casts: Casts) -> Callable[[pa.DataType], pa.Array]:
    """Return what gives some rows of a piece as a type of Arrow's."""

    def give(kind: pa.DataType) -> pa.Array:
        if not casts:
            return piece.arrow(rows, kind)
        return from_values(cast(piece.take(rows), casts)).arrow(slice(None), kind)

    return give
