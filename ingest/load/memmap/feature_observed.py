"""Features of cells: rows of obs with the same columns, segment after segment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.load.memmap.feature_frames import ROWS_AT_ONCE, Frame, arrow_type, write_frame
from ingest.load.memmap.feature_segments import FileSegment, cast, giver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.load.memmap.feature_pieces import Array
    from ingest.load.memmap.feature_segments import Casts, Segment

__all__ = ["ObservedBlock", "grouped"]


class ObservedBlock(Mapping[str, "Array"]):
    """Rows of obs with the same columns: segments one after the other, none of which is ever copied for the next.

    As a mapping it gives whole columns, as numpy's concatenation of all that was appended would be.

    Parameters
    ----------
    segment
        The first rows.
    """

    def __init__(self, segment: Segment) -> None:
        self._names = dict.fromkeys(segment.names)
        self._segments = [segment]
        self._starts = [0, segment.n_rows]
        self._casts: list[dict[str, Casts]] = [{}]
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        parts = [self._part(number, name, slice(None)) for number in range(len(self._segments))]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def __contains__(self, name: object) -> bool:
        # Mapping's own would read the column.
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def n_rows(self) -> int:
        """Of all segments."""
        return self._starts[-1]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a column."""
        found = self._dtypes.get(name)
        if found is None:
            found = self._dtypes[name] = self._segments[0].dtype(name)
        return found

    def copy(self) -> ObservedBlock:
        """Return one that appending to this leaves alone, with the same segments."""
        other = ObservedBlock(self._segments[0])
        other._names = dict(self._names)
        other._segments, other._starts = list(self._segments), list(self._starts)
        other._casts, other._dtypes = [dict(casts) for casts in self._casts], dict(self._dtypes)
        return other

    def append(self, other: ObservedBlock) -> None:
        """Append the rows of a block with the same columns; their order is its then, as bionemo-scdl has it.

        Raises
        ------
        TypeError
            numpy has no type for the values of both; nothing is appended then.
        """
        wider = {name: _promoted(self.dtype(name), other.dtype(name)) for name in other._names}
        appended = [dict(casts) for casts in other._casts]
        for block, casts_of in ((self, self._casts), (other, appended)):
            for name, dtype in wider.items():
                if dtype != block.dtype(name):
                    for casts in casts_of:
                        casts[name] = _then(casts.get(name, ()), dtype)
        segments, last = list(other._segments), self._starts[-1]
        self._starts += [last + start for start in other._starts[1:]]
        self._segments += segments
        self._casts += appended
        self._names, self._dtypes = dict(other._names), wider

    def at(self, row: int, names: Sequence[str]) -> list[Any]:
        """Return values of a row."""
        number = bisect_right(self._starts, row) - 1
        segment, casts, local = self._segments[number], self._casts[number], row - self._starts[number]
        return [
            self._part(number, name, slice(local, local + 1))[0] if name in casts else segment.piece(name).at(local)
            for name in names
        ]

    def take(self, name: str, rows: Array) -> Array:
        """Return a column of some rows ``(n_rows,)``, in the order asked for."""
        if len(self._segments) == 1:
            return self._part(0, name, rows)
        found: Array | None = None
        for number, mine in grouped(np.searchsorted(self._starts, rows, side="right") - 1):
            part = self._part(number, name, rows[mine] - self._starts[number])
            if found is None:
                found = np.empty((len(rows), *part.shape[1:]), self.dtype(name))
            found[mine] = part
        return np.empty(0, self.dtype(name)) if found is None else found

    def span(self, name: str, start: int, stop: int) -> Array:
        """Return a column of the rows ``[start, stop)``, a copy."""
        if len(self._segments) == 1:
            return np.array(self._part(0, name, slice(start, stop)))
        return self.take(name, np.arange(start, stop))

    def coded(self, name: str) -> Iterator[tuple[Array, Array]]:
        """Yield of each segment codes ``(n_rows,)``, -1 where there is no value, and what they stand for."""
        for segment, casts in zip(self._segments, self._casts, strict=True):
            codes, distinct = segment.piece(name).coded()
            yield codes, cast(distinct, casts.get(name, ()))

    def read(self, names: Sequence[str]) -> None:
        """Read columns that have not been."""
        for segment in self._segments:
            for name in names:
                segment.piece(name)

    def save(self, path: Path) -> Frame | None:
        """Write a new Parquet file, or return the one that holds just this."""
        first = self._segments[0]
        if len(self._segments) == 1 and isinstance(first, FileSegment) and first.n_rows == first.frame.n_rows:
            return first.frame
        kinds = {
            name: arrow_type(name, self.dtype(name), lambda name=name: self._samples(name))  # type: ignore[misc]
            for name in self._names
        }
        write_frame(path, kinds, self._batches())
        return None

    def moved(self, old: Path, frame: Frame) -> None:
        """Read from `frame`, where all rows are now, what was to be read from files of the folder `old`."""
        for number, (segment, start) in enumerate(zip(self._segments, self._starts, strict=False)):
            if isinstance(segment, FileSegment) and segment.frame.path.parent == old:
                self._segments[number] = replace(segment, frame=frame, start=start, stop=start + segment.n_rows)

    def _part(self, number: int, name: str, rows: Array | slice) -> Array:
        return cast(self._segments[number].piece(name).take(rows), self._casts[number].get(name, ()))

    def _samples(self, name: str) -> list[Any]:
        found: list[Any] = []
        for segment, casts in zip(self._segments, self._casts, strict=True):
            if name in casts:
                found += cast(segment.piece(name).take(slice(None)), casts[name]).tolist()
            else:
                found += segment.samples(name)
        return found

    def _batches(self) -> Iterator[Mapping[str, Any]]:
        for segment, casts in zip(self._segments, self._casts, strict=True):
            for pieces in segment.batches():
                n_rows = len(next(iter(pieces.values())))
                for start in range(0, n_rows, ROWS_AT_ONCE):
                    rows = slice(start, min(n_rows, start + ROWS_AT_ONCE))
                    yield {name: giver(pieces[name], rows, casts.get(name, ())) for name in self._names}


def grouped(owners: Array) -> Iterator[tuple[int, Array]]:
    """Yield each of `owners` once, with where it stands."""
    order = np.argsort(owners, kind="stable")
    cuts = np.flatnonzero(np.diff(owners[order])) + 1
    for mine in np.split(order, cuts):
        if len(mine):
            yield int(owners[mine[0]]), mine


def _promoted(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of numpy's concatenation of arrays of two types."""
    return np.concatenate([np.empty(0, one), np.empty(0, other)]).dtype


def _then(casts: Casts, dtype: np.dtype[Any]) -> Casts:
    """Return `casts` and one more; of two widths of text the last is enough."""
    return (*(casts[:-1] if casts and casts[-1].kind == dtype.kind == "U" else casts), dtype)
