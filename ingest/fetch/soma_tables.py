"""Counts as TileDB delivers them: bands as unordered coordinate tables, assembled by a compiled counting pass.

Reading any cell of a band decodes most of the band, so what a read costs is bands touched, and the rest is avoiding
overhead: a range of its own costs TileDB about as much as copying 64 rows or 512 columns that nobody wants. What lies
closer is read as one range, and what came along unasked is dropped while it is assembled. (36 M entries of 20,000 cells
x 20,000 genes, CPU time: all rows 0.8 s; every second row, drawn at random, 1.1 s as ranges of their own and 0.7 s this
way; 300 genes 1.3 s and 0.6 s.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.fetch.assemble import Assembled, CooAssembler
from ingest.fetch.ranges import coordinate_of
from ingest.fetch.soma_errors import soma_errors
from ingest.fetch.values import plain_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from ingest.bandwidth import Line
    from ingest.fetch.assemble import GeneMap
    from ingest.source import Source

__all__ = ["TableReader"]

Array = np.ndarray[Any, Any]

_MOST_RANGES = 2_000


class TableReader:
    """Reads rows of X through TileDB; not shared between threads.

    Memory beside the result: TileDB's buffers (`ingest.fetch.soma_config`) and 8 bytes an entry of what is read at
    once, 16 at worst (`ingest.fetch.assemble.CooAssembler`).

    Parameters
    ----------
    raw
        X raw, open.
    genes
        Source columns to target columns.
    dtype
        Of the stored values.
    source
        Named in errors.
    line, entry_bytes
        What bytes from a network pass, and how many are stored for an entry: TileDB, which sends the requests, can
        neither be held back in the midst of one nor says what it read.
    """

    def __init__(
        self, raw: Any, genes: GeneMap, *, dtype: np.dtype[Any], source: Source, line: Line, entry_bytes: float
    ) -> None:
        self._raw, self._genes, self._source = raw, genes, source
        self._line, self._entry_bytes = line, entry_bytes
        self._dtype = plain_values(np.empty(0, dtype), source=str(source)).dtype
        self.bytes_read = 0
        """Always 0: TileDB does not tell."""

    def assemble(self, rows: Array, row_ranges: Array, column_ranges: Array | None) -> Assembled:
        """Return the counts of `rows`; see `ingest.fetch.soma.RowReader`."""
        assembler = CooAssembler(rows, self._genes, dtype=self._dtype, source=str(self._source))
        for table in self._tables(row_ranges, column_ranges):
            dim0, dim1, data = (_flat(table, name) for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
            assembler.add(dim0, dim1, plain_values(data, source=str(self._source)))
        return assembler.finish()

    def expect(self, row_ranges: Array, column_ranges: Array | None) -> None:
        """Do nothing: TileDB reads ahead by itself, within one read."""

    def _tables(self, row_ranges: Array, column_ranges: Array | None) -> Iterator[pa.Table]:
        """Yield what TileDB has for the ranges, in any order, and some more."""
        coordinates: list[Any] = [coordinate_of(row_ranges)]
        if column_ranges is not None:
            few = len(row_ranges) * len(column_ranges) <= _MOST_RANGES
            coordinates.append(coordinate_of(column_ranges if few else _hull(column_ranges)))
        with soma_errors(self._source):
            tables = self._raw.read(tuple(coordinates), result_order="auto").tables()
        while True:
            self._line.begin()
            # Only TileDB's own step is translated: an error while assembling is no error of the source's library.
            with soma_errors(self._source):
                table = next(tables, None)
            if table is None:
                return
            self._line.owe(int(len(table) * self._entry_bytes))
            yield table

    def close(self) -> None:
        """Do nothing: the array belongs to the experiment."""


def _hull(ranges: Array) -> Array:
    return np.array([[ranges[0, 0], ranges[-1, 1]]], np.int64)


def _flat(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    column = table[name]
    array: np.ndarray[Any, Any] = column.chunk(0).to_numpy() if column.num_chunks == 1 else column.to_numpy()
    return array
