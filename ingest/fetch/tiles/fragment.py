"""One fragment: which cells and genes each of its data tiles spans, and where its bytes lie.

Layout: ``fragment.md`` of the format. A fragment's fields are numbered as its files are: the attributes, one number
that no file has any more, the dimensions, and what a consolidation adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.tiles.format import MOST_METADATA_BYTES, Cursor, Unfamiliar, generic_tile
from ingest.fetch.tiles.schema import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COLUMNS", "FILES", "ROWS", "VALUES", "Footer", "Fragment", "read_fragment"]

Numbers = np.ndarray[Any, np.dtype[np.int64]]

VALUES, ROWS, COLUMNS = 0, 2, 3
"""Numbers of the fields: attribute 0, dimension 0, dimension 1."""
FILES = {VALUES: "a0.tdb", ROWS: "d0.tdb", COLUMNS: "d1.tdb"}

_FIELDS = 4
_LENGTH_BYTES = 8
_MOST_FILE_BYTES = 1 << 60
_MOST_TILES = 1 << 20
"""Of a fragment, 69 billion entries: 64 bytes are held for each tile."""


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of a fragment's metadata file, which says what the rest is."""

    schema: str
    """File name of the schema it was written with."""
    domain: tuple[int, int, int, int]
    """First and last row, first and last column, that it holds."""
    n_tiles: int
    last_cells: int
    """Entries of the last tile."""
    sizes: dict[int, int]
    """Field -> bytes of its file."""
    tree: tuple[int, int]
    """Bytes of the metadata file that hold the R-tree."""
    offsets: dict[int, tuple[int, int]]
    """Field -> bytes of the metadata file that hold where its tiles begin."""
    with_times: bool
    """Whether entries carry the times at which they were written, because fragments were consolidated."""

    @classmethod
    def parse(cls, tail: bytes, size: int) -> Footer:
        """Read the footer.

        Parameters
        ----------
        tail
            The last bytes of the metadata file, enough of them.
        size
            Bytes of the whole file.

        Raises
        ------
        Unfamiliar
            Another version of the format, a dense fragment, deleted cells, or damage.
        """
        length = Cursor(tail, max(0, len(tail) - _LENGTH_BYTES)).one("Q")
        if not 0 < length <= len(tail) - _LENGTH_BYTES:
            raise Unfamiliar(f"a footer of {length:,} bytes")
        cursor = Cursor(tail, len(tail) - _LENGTH_BYTES - length)
        version, name_length = cursor.take("IQ")
        if version not in VERSIONS:
            raise Unfamiliar(f"a fragment of format version {version}")
        schema = bytes(cursor.bytes(name_length)).decode("ascii", "replace")
        dense, empty, *domain = cursor.take("BB4q")
        n_tiles, last_cells, with_times, with_deletes = cursor.take("QQBB")
        if dense or empty or with_deletes or not 0 < n_tiles <= _MOST_TILES:
            raise Unfamiliar(f"a fragment of {n_tiles:,} tiles, dense, empty or with deleted cells")
        fields = _FIELDS + with_times
        sizes = cursor.array(3 * fields, "<u8")[:fields]
        if (sizes > _MOST_FILE_BYTES).any():
            raise Unfamiliar("a file larger than any")
        places = cursor.array(1 + 8 * fields + 2, "<u8")
        end = size - _LENGTH_BYTES - length  # where the footer begins
        if (places >= end).any():
            raise Unfamiliar("metadata outside of their file")
        places = places.astype(np.int64)
        ends = np.append(np.unique(places), end)
        return cls(
            schema,
            (domain[0], domain[1], domain[2], domain[3]),
            n_tiles,
            last_cells,
            {field: int(sizes[field]) for field in FILES},
            _span(places[0], ends),
            {field: _span(places[1 + field], ends) for field in FILES},
            bool(with_times),
        )


def _span(place: int, ends: Numbers) -> tuple[int, int]:
    """Return the bytes from `place` to whatever comes next in the file."""
    stop = int(ends[np.searchsorted(ends, place, side="right")])
    if stop - place > MOST_METADATA_BYTES:
        raise Unfamiliar(f"{stop - place:,} bytes of metadata in one piece")
    return int(place), stop


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """Where the entries of one fragment lie, tile by tile in TileDB's global order."""

    path: str
    """Its folder, below the array's."""
    rows: Numbers
    """int64 ``(n_tiles, 2)``: first and last row of each tile."""
    columns: Numbers
    """int64 ``(n_tiles, 2)``: first and last column of each tile."""
    starts: dict[int, Numbers]
    """Field -> int64 ``(n_tiles + 1,)``: where its tiles begin in its file, and its end."""
    cells: Numbers
    """int64 ``(n_tiles,)``: entries of each tile."""


def read_fragment(
    path: str, footer: Footer, capacity: int, read: Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
) -> Fragment:
    """Read the tables that `footer` points at.

    Parameters
    ----------
    capacity
        Entries of a tile that is not the last.
    read
        Gives the bytes ``[start, stop)`` of the fragment's metadata file, several at once.

    Raises
    ------
    Unfamiliar
        They contradict the footer.
    """
    if not 0 < footer.last_cells <= capacity:
        raise Unfamiliar(f"a last tile of {footer.last_cells:,} entries")
    tree, *tables = read([footer.tree, *footer.offsets.values()])
    boxes = _leaves(generic_tile(tree), footer.n_tiles)
    starts = {
        field: _starts(generic_tile(table), footer.n_tiles, footer.sizes[field], most_bytes=_most_bytes(capacity))
        for field, table in zip(footer.offsets, tables, strict=True)
    }
    cells = np.full(footer.n_tiles, capacity, np.int64)
    cells[-1] = footer.last_cells
    return Fragment(path, boxes[:, :2], boxes[:, 2:], starts, cells)


def _leaves(tree: bytes, n_tiles: int) -> Numbers:
    """Return the lowest level of an R-tree, int64 ``(n_tiles, 4)``: the tiles' own boxes."""
    cursor = Cursor(tree)
    _, levels = cursor.take("II")
    boxes = np.empty((0, 4), np.int64)
    for _ in range(min(levels, 64)):
        boxes = cursor.array(4 * cursor.one("Q"), "<i8").reshape(-1, 4)
    if len(boxes) != n_tiles:
        raise Unfamiliar(f"boxes of {len(boxes):,} tiles where there are {n_tiles:,}")
    return boxes


def _starts(table: bytes, n_tiles: int, size: int, *, most_bytes: int) -> Numbers:
    cursor = Cursor(table)
    starts = np.append(cursor.array(cursor.one("Q"), "<u8"), np.uint64(size))
    if len(starts) != n_tiles + 1 or (starts > size).any() or (starts[1:] <= starts[:-1]).any():
        raise Unfamiliar("tiles that do not follow each other in their file")
    if (starts[1:] - starts[:-1]).max() > most_bytes:
        raise Unfamiliar("a tile of more bytes than its entries can take")
    return starts.astype(np.int64)


def _most_bytes(capacity: int) -> int:
    """Return what a tile of so many entries of 8 bytes may take at most: what cannot be compressed grows a little."""
    return capacity * 9 + (64 << 10)
