"""Counts of a Census at reading speed, in one of two ways: out of its stored tiles, or through TileDB.

Tiles are decompressed and placed by `ingest.fetch.tiles`, in three quarters of the CPU time that TileDB and the
assembly of its tables take (12.6 and 16.7 ns a non-zero, ``python -m benchmarks --only reading``), and over a network
in as many requests at a time as there are pieces. It knows the layout of a Census and no other:
whatever is stored otherwise is read through TileDB (`ingest.fetch.soma_tables`), and everything is where
``CELL_INGEST_CENSUS_READER`` is ``tiledb``.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.bandwidth import Line
from ingest.block import Counts, concat_counts
from ingest.errors import ConfigError, IngestError, SourceChangedError, SourceError, TransientError
from ingest.fetch.assemble import Assembled, GeneMap, empty_rows, reorder_rows
from ingest.fetch.base import Fetched
from ingest.fetch.heap import keep_freed_memory
from ingest.fetch.ranges import ranges_of, split_rows
from ingest.fetch.soma_errors import soma_errors
from ingest.fetch.soma_open import open_experiment
from ingest.fetch.soma_tables import TableReader
from ingest.fetch.tiles.folder import open_folder
from ingest.fetch.tiles.format import Unfamiliar
from ingest.fetch.tiles.reader import TileReader
from ingest.fetch.tiles.stored import open_stored
from ingest.fetch.values import convert_counts, delivered_dtype

if TYPE_CHECKING:
    from ingest.fetch.base import FetchLimits, FetchOptions
    from ingest.genes import Genes
    from ingest.survey.model import SourceSurvey

__all__ = ["READER_VARIABLE", "RowReader", "SomaFetcher"]

Rows = np.ndarray[Any, np.dtype[np.int64]]

READER_VARIABLE = "CELL_INGEST_CENSUS_READER"
"""``tiles`` (where possible, the default) or ``tiledb``."""

_ROW_GAP = 64
_COLUMN_GAP = 512
_ENTRY_BYTES = 10

_log = logging.getLogger(__name__)


class RowReader(Protocol):
    """A way to read rows of X."""

    bytes_read: int
    """Stored bytes taken so far; 0 where nobody tells."""

    def assemble(self, rows: Rows, row_ranges: Rows, column_ranges: Rows | None) -> Assembled:
        """Return the counts of `rows`: int64 ``(n_rows,)``, distinct, at least one, in the order wanted.

        Parameters
        ----------
        row_ranges, column_ranges
            Inclusive ranges that hold all wanted, int64 ``(n, 2)``, ascending, apart from each other; columns None
            for all, otherwise at least one.

        Raises
        ------
        IngestError
            As `ingest.fetch.base.Fetcher.read`.
        """
        ...

    def expect(self, row_ranges: Rows, column_ranges: Rows | None) -> None:
        """Hear what the `assemble` after the next one will most likely be given."""
        ...

    def close(self) -> None:
        """Release files and threads."""
        ...


class SomaFetcher:
    """Reads X raw of one organism; see `ingest.fetch.base.Fetcher`.

    Memory beside the result is that of the way it is read in, for what is read at once, which is cut at bands to fit
    the limit. Rows that had to be read in several pieces cost their result once more while the pieces are joined, and
    again if they were asked for in an order that does not ascend.

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
        try:
            self._reader = self._open_reader(limits)
        except BaseException:
            self._opened.close()
            raise

    def _open_reader(self, limits: FetchLimits) -> RowReader:
        source = self._survey.source
        with soma_errors(source):
            raw = self._opened.raw
        if (
            os.environ.get(READER_VARIABLE) != "tiledb"
            and (folder := open_folder(raw.uri, source, limits.line)) is not None
        ):
            try:
                # What the handle sees is what the version was checked of: nothing that was written since.
                stored = open_stored(folder, until_ms=raw.tiledb_timestamp_ms)
                if stored.schema.dtype == self._survey.dtype:
                    return TileReader(stored, self._genes, threads=limits.threads, source=self._where)
            except TransientError:
                folder.close()
                raise
            except (Unfamiliar, OSError, IngestError) as found:  # whatever is really wrong, TileDB meets it as well
                _log.info("%s: read through TileDB: %s", self._where, found)
            folder.close()
        line = limits.line if source.path is None else Line()
        return TableReader(
            raw,
            self._genes,
            dtype=np.dtype(self._survey.dtype),
            source=source,
            line=line,
            entry_bytes=self._survey.stored_bytes / max(1, self._survey.nnz),
        )

    @property
    def reads_tiles(self) -> bool:
        """Whether stored tiles are read, and not TileDB's tables."""
        return isinstance(self._reader, TileReader)

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
        pieces = self._pieces(rows)
        before = self._reader.bytes_read
        counts = self._assemble(rows).counts if len(pieces) == 1 else self._join(rows, pieces)
        counts = convert_counts(counts, self._dtype, source=self._where)
        return Fetched(counts, None, self._reader.bytes_read - before, was_unsorted=False)

    def expect(self, rows: Rows) -> None:
        """See `ingest.fetch.base.Fetcher`; what will be read in several pieces is not loaded ahead."""
        if len(rows) and self._wants_some and len(pieces := self._pieces(rows)) == 1:
            self._reader.expect(ranges_of(pieces[0], _ROW_GAP), self._column_ranges)

    def _pieces(self, rows: Rows) -> list[Rows]:
        """Return `rows`, ascending, cut into what is read at once."""
        density = -(-self._survey.nnz // max(1, self._survey.n_obs))
        return split_rows(np.sort(rows), self._survey.band_rows, self._most_entries // max(1, density))

    @property
    def _wants_some(self) -> bool:
        return self._column_ranges is None or len(self._column_ranges) > 0

    def _join(self, rows: Rows, pieces: list[Rows]) -> Any:
        counts = concat_counts([self._assemble(piece).counts for piece in pieces])
        order = np.searchsorted(np.concatenate(pieces), rows)
        return counts if np.array_equal(order, np.arange(len(rows))) else reorder_rows(counts, order)

    def _assemble(self, rows: Rows) -> Assembled:
        if not (self._wants_some and len(rows)):
            empty = Counts(*empty_rows(np.zeros(len(rows), np.int64), self._survey.dtype), self._genes.n_target)
            return Assembled(empty, was_unsorted=False, zeros_dropped=0)
        try:
            return self._reader.assemble(rows, ranges_of(np.sort(rows), _ROW_GAP), self._column_ranges)
        except OSError as error:
            message = f"{self._where}: {error}"
            raise SourceError(message, kind="soma-read", source=self._where) from error

    def close(self) -> None:
        """Release the handles."""
        self._reader.close()
        self._opened.close()
