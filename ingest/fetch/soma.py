"""Counts of a Census at reading speed: bands as unordered coordinate tables, assembled by a compiled counting pass.

Reading any cell of a band decodes most of the band, so what a read costs is bands touched, and the rest is avoiding
overhead: a range of its own costs TileDB about as much as copying 64 rows or 512 columns that nobody wants. What lies
closer is read as one range, and what came along unasked is dropped while it is assembled. (36 M entries of 20,000 cells
x 20,000 genes, CPU time: all rows 0.8 s; every second row, drawn at random, 1.1 s as ranges of their own and 0.7 s this
way; 300 genes 1.3 s and 0.6 s.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import concat_counts
from ingest.errors import ConfigError, SourceChangedError, SourceError
from ingest.fetch.assemble import Assembled, CooAssembler, GeneMap, reorder_rows
from ingest.fetch.base import Fetched
from ingest.fetch.heap import keep_freed_memory
from ingest.fetch.soma_errors import soma_errors
from ingest.fetch.soma_open import open_experiment
from ingest.fetch.values import convert_counts, delivered_dtype, plain_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from ingest.fetch.base import FetchLimits, FetchOptions
    from ingest.genes import Genes
    from ingest.survey.model import SourceSurvey

__all__ = ["SomaFetcher", "coordinate_of", "ranges_of", "split_rows"]

Rows = np.ndarray[Any, np.dtype[np.int64]]

_ROW_GAP = 64
_COLUMN_GAP = 512
_MOST_RANGES = 2_000
_ENTRY_BYTES = 10


class SomaFetcher:
    """Reads X raw of one organism; see `ingest.fetch.base.Fetcher`.

    Memory beside the result: TileDB's buffers (`ingest.fetch.soma_config`) and 8 bytes an entry of what is read at
    once, 16 at worst (`ingest.fetch.assemble.CooAssembler`), which is cut at bands to fit the limit. Rows that had to
    be read in several pieces cost their result once more while the pieces are joined, and again if they were asked
    for in an order that does not ascend.

    Parameters
    ----------
    survey
        What the source looked like; opened at its version.
    genes
        The dataset's genes, the columns delivered.
    options, limits
        What is delivered, and the share of the machine.

    Raises
    ------
    SourceChangedError
        The surveyed version is gone or has moved.
    ConfigError
        Credentials, CPU.
    TransientError
        The network.
    """

    def __init__(self, survey: SourceSurvey, genes: Genes, options: FetchOptions, limits: FetchLimits) -> None:
        self._survey, self._where = survey, str(survey.source)
        self._genes = GeneMap.between(survey.genes, genes)
        self._dtype = delivered_dtype(survey.dtype, options, integer=survey.integer)
        self._most_entries = max(limits.memory_bytes * 3 // 4 // _ENTRY_BYTES, 1)
        wanted = np.flatnonzero(self._genes.columns >= 0) if len(self._genes.columns) else np.empty(0, np.int64)
        self._column_ranges = ranges_of(wanted, _COLUMN_GAP) if len(self._genes.columns) else None
        keep_freed_memory()
        try:
            self._opened = open_experiment(survey.source, limits)
        except ConfigError as error:
            if error.kind not in {"unknown-version", "no-census"}:
                raise
            raise SourceChangedError(f"{error.message}; it was there when surveyed", source=self._where) from error
        with soma_errors(survey.source):
            self._raw = self._opened.raw

    def read(self, rows: Rows) -> Fetched:
        """Return the counts of `rows`: int64 ``(n_rows,)`` joinids, distinct, in any order.

        Raises
        ------
        SourceError
            ``row-range``, ``duplicate-row``, damaged arrays, values that the wanted type cannot hold.
        TransientError
            The network; nothing was delivered.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self._survey.n_obs):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            message = f"{self._where}: soma_joinid {wrong} of {self._survey.n_obs}"
            raise SourceError(message, kind="row-range", source=self._where)
        density = -(-self._survey.nnz // max(1, self._survey.n_obs))
        pieces = split_rows(np.sort(rows), self._survey.band_rows, self._most_entries // max(1, density))
        counts = self._assemble(rows).counts if len(pieces) == 1 else self._join(rows, pieces)
        return Fetched(convert_counts(counts, self._dtype, source=self._where), None, 0, was_unsorted=False)

    def _join(self, rows: Rows, pieces: list[Rows]) -> Any:
        counts = concat_counts([self._assemble(piece).counts for piece in pieces])
        order = np.searchsorted(np.concatenate(pieces), rows)
        return counts if np.array_equal(order, np.arange(len(rows))) else reorder_rows(counts, order)

    def _assemble(self, rows: Rows) -> Assembled:
        stored = plain_values(np.empty(0, self._survey.dtype), source=self._where).dtype
        assembler = CooAssembler(rows, self._genes, dtype=stored, source=self._where)
        for table in self._tables(np.sort(rows)):
            dim0, dim1, data = (_flat(table, name) for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
            assembler.add(dim0, dim1, plain_values(data, source=self._where))
        return assembler.finish()

    def _tables(self, rows: Rows) -> Iterator[pa.Table]:
        """Yield what TileDB has for ascending `rows` and the wanted columns, in any order, and some more."""
        if not len(rows) or (self._column_ranges is not None and not len(self._column_ranges)):
            return
        row_ranges = ranges_of(rows, _ROW_GAP)
        coordinates: list[Any] = [coordinate_of(row_ranges)]
        if self._column_ranges is not None:
            few = len(row_ranges) * len(self._column_ranges) <= _MOST_RANGES
            coordinates.append(coordinate_of(self._column_ranges if few else _hull(self._column_ranges)))
        with soma_errors(self._survey.source):
            tables = self._raw.read(tuple(coordinates), result_order="auto").tables()
        while True:
            # Only TileDB's own step is translated: an error while assembling is no error of the source's library.
            with soma_errors(self._survey.source):
                table = next(tables, None)
            if table is None:
                return
            yield table

    def close(self) -> None:
        """Release the handles."""
        self._opened.close()


def ranges_of(values: Rows, gap: int) -> Rows:
    """Join ascending distinct `values` into inclusive ranges, int64 ``(n, 2)``, bridging up to `gap` values between."""
    if not len(values):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(values) > gap + 1)
    first = values[np.concatenate([[0], breaks + 1])]
    last = values[np.concatenate([breaks, [len(values) - 1]])]
    return np.stack([first, last], axis=1)


def split_rows(rows: Rows, band_rows: int, most_rows: int) -> list[Rows]:
    """Cut ascending `rows` where bands end, into pieces of at most `most_rows`, or of one band if that has more."""
    edges = [*(np.flatnonzero(np.diff(rows // max(1, band_rows))) + 1).tolist(), len(rows)]
    pieces, begin, last = [], 0, 0
    for edge in edges:
        if edge - begin > most_rows and last > begin:
            pieces.append(rows[begin:last])
            begin = last
        last = edge
    return [*pieces, rows[begin:]]


def _hull(ranges: Rows) -> Rows:
    return np.array([[ranges[0, 0], ranges[-1, 1]]], np.int64)


def coordinate_of(ranges: Rows) -> slice | Rows:
    """Return `ranges` as SOMA takes them: one as a slice, several as points, which TileDB joins again."""
    if len(ranges) == 1:
        return slice(int(ranges[0, 0]), int(ranges[0, 1]))
    lengths = ranges[:, 1] - ranges[:, 0] + 1
    ends = np.cumsum(lengths)
    points: Rows = np.arange(ends[-1]) + np.repeat(ranges[:, 0] - (ends - lengths), lengths)
    return points


def _flat(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    column = table[name]
    array: np.ndarray[Any, Any] = column.chunk(0).to_numpy() if column.num_chunks == 1 else column.to_numpy()
    return array
