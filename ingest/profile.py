"""What the chunks of a plan ask of their sources, counted in one pass over its cells. Pure: numbers in, numbers out.

A *band* is what the source decodes together (2048 cells of a Census).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.survey.model import SourceSurvey

__all__ = ["Profile", "ProfileBuilder", "band_bytes", "expected_nnz", "known_nnz"]

_Int64 = np.ndarray[Any, np.dtype[np.int64]]
_Int32 = np.ndarray[Any, np.dtype[np.int32]]
_Float64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What the chunks of a plan ask of their sources; every array is ``(n_chunks,)``."""

    first_band: _Int64
    """Ordinal of the first band that the chunk touches, counting all bands of the plan."""
    last_band: _Int64
    """Ordinal of the last one, inclusive."""
    nnz: _Int64
    """Non-zeros expected."""
    read_from: _Float64
    """Stored bytes of all bands of the plan before the chunk's first."""
    read_to: _Float64
    """Stored bytes of all bands of the plan up to the chunk's last, inclusive."""
    largest_band_nnz: int
    """Non-zeros wanted of the fullest band: the least that must be read in one go."""
    uncut: np.ndarray[Any, np.dtype[np.bool_]]
    """``uncut[k]``: chunks k-1 and k must be made by one worker, for they share a large CSC file or a window."""
    largest_window_nnz: int = 0
    """Non-zeros of the fullest window: what is held until its rows stand in their places; 0 in source order."""

    @property
    def n_chunks(self) -> int:
        """Number of chunks in the plan."""
        return len(self.nnz)


class ProfileBuilder:
    """Take the cells of a plan batch by batch; what is kept is a few numbers a chunk, none a cell or a band.

    Parameters
    ----------
    surveys
        One a source, in plan order.
    n_cells
        Of the whole plan.
    cells_per_chunk
        Only the last chunk may hold fewer.
    uncut_bytes
        A CSC file with more stored bytes than this is never read by two workers.
    n_genes
        Columns of the dataset; bounds the non-zeros of a cell.
    """

    def __init__(
        self,
        surveys: Sequence[SourceSurvey],
        n_cells: int,
        cells_per_chunk: int,
        *,
        uncut_bytes: int,
        n_genes: int,
    ) -> None:
        self._surveys, self._n_cells, self._size, self._n_genes = surveys, n_cells, cells_per_chunk, n_genes
        self._band_rows = np.array([max(1, survey.band_rows) for survey in surveys], np.int64)
        self._band_bytes = band_bytes(surveys, self._band_rows)
        self._large_csc = np.array(
            [survey.layout == "csc" and survey.stored_bytes > uncut_bytes for survey in surveys], bool
        )
        n_chunks = -(-n_cells // cells_per_chunk)
        self._first_band, self._last_band = np.zeros(n_chunks, np.int64), np.zeros(n_chunks, np.int64)
        self._read_from, self._read_to = np.zeros(n_chunks), np.zeros(n_chunks)
        self._first_code, self._last_code = np.zeros(n_chunks, np.int32), np.zeros(n_chunks, np.int32)
        self._nnz = np.zeros(n_chunks, np.int64)
        self._row = 0
        self._last = (-1, -1)
        """Source and band of the last cell so far."""
        self._band, self._read = -1, 0.0
        self._band_nnz = self._largest = 0

    def add(self, codes: _Int32, coordinates: _Int64, table: pa.Table | pa.RecordBatch) -> None:
        """Take the next cells, in plan order.

        Parameters
        ----------
        codes, coordinates
            int32 and int64 ``(n,)``: source number, and joinid or row.
        table
            ``(n,)`` rows; its column ``nnz`` is used where there is one.
        """
        if not len(codes):
            return
        bands = coordinates // self._band_rows[codes]
        is_new = np.empty(len(codes), bool)
        is_new[0] = (int(codes[0]), int(bands[0])) != self._last
        is_new[1:] = (bands[1:] != bands[:-1]) | (codes[1:] != codes[:-1])
        edges = np.flatnonzero(is_new)
        nnz = np.minimum(expected_nnz(table, codes, self._surveys), self._n_genes)
        self._weigh_bands(edges, nnz)
        self._weigh_chunks(nnz)
        self._mark_chunks(codes, edges)
        self._last = (int(codes[-1]), int(bands[-1]))
        self._row += len(codes)

    def _weigh_bands(self, edges: _Int64, nnz: _Int64) -> None:
        goes_on = not len(edges) or edges[0] > 0
        sums = np.add.reduceat(nnz, np.concatenate([[0], edges]) if goes_on else edges)
        if goes_on:
            sums[0] += self._band_nnz
        self._largest = max(self._largest, int(sums.max()))
        self._band_nnz = int(sums[-1])

    def _weigh_chunks(self, nnz: _Int64) -> None:
        edges = np.arange(-self._row % self._size, len(nnz), self._size)
        sums = np.add.reduceat(nnz, edges if self._row % self._size == 0 else np.concatenate([[0], edges]))
        first = self._row // self._size
        self._nnz[first : first + len(sums)] += sums

    def _mark_chunks(self, codes: _Int32, edges: _Int64) -> None:
        """Take down where chunks begin and end; `edges` are the rows of `codes` that begin a band."""
        # One running sum over the whole plan: where batches end must not show in its last digit.
        read = np.cumsum(np.concatenate([[self._read], self._band_bytes[codes[edges]]]))
        starts = np.arange(-self._row % self._size, len(codes), self._size)
        ends = np.arange(-(self._row + 1) % self._size, len(codes), self._size)
        if self._row + len(codes) == self._n_cells and self._n_cells % self._size:
            ends = np.append(ends, len(codes) - 1)
        began, ended = (self._row + starts) // self._size, (self._row + ends) // self._size
        bands_to_start, bands_to_end = (np.searchsorted(edges, rows, side="right") for rows in (starts, ends))
        self._first_band[began], self._last_band[ended] = self._band + bands_to_start, self._band + bands_to_end
        self._read_from[began] = read[bands_to_start] - self._band_bytes[codes[starts]]
        self._read_to[ended] = read[bands_to_end]
        self._first_code[began], self._last_code[ended] = codes[starts], codes[ends]
        self._band, self._read = self._band + len(edges), float(read[-1])

    def finish(self) -> Profile:
        """Return the profile of all cells.

        Raises
        ------
        ValueError
            Not all of them were taken.
        """
        if self._row != self._n_cells:
            raise ValueError(f"{self._row} of {self._n_cells} cells were taken")
        uncut = np.zeros(len(self._nnz), bool)
        before, after = self._last_code[:-1], self._first_code[1:]
        uncut[1:] = (before == after) & self._large_csc[before]
        return Profile(
            self._first_band, self._last_band, self._nnz, self._read_from, self._read_to, self._largest, uncut
        )


def band_bytes(surveys: Sequence[SourceSurvey], band_rows: _Int64) -> _Float64:
    """Return for each source the stored bytes that reading any cell of a band costs."""
    row_bytes = np.array([survey.stored_bytes / max(1, survey.n_obs) for survey in surveys])
    costs: _Float64 = row_bytes * np.minimum(band_rows, np.array([max(1, survey.n_obs) for survey in surveys]))
    return costs


def expected_nnz(table: pa.Table | pa.RecordBatch, codes: _Int32, surveys: Sequence[SourceSurvey]) -> _Int64:
    """Return the non-zeros that the cells of `table` have in their sources, or a source's mean where not known."""
    known = known_nnz(table)
    if known is not None and (not len(known) or known.min() >= 0):
        return known
    mean = np.array([-(-survey.nnz // max(1, survey.n_obs)) for survey in surveys], np.int64)
    guess: _Int64 = mean[codes]
    return guess if known is None else np.where(known < 0, guess, known)


def known_nnz(table: pa.Table | pa.RecordBatch) -> _Int64 | None:
    """Return the non-zeros of every cell as its ``nnz`` column has them, -1 where it does not know.

    None where there is no such column of numbers: an index made by hand may use the name for something else.
    """
    if "nnz" not in table.schema.names:
        return None
    kind = table["nnz"].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    values = table["nnz"].to_numpy(zero_copy_only=False)
    known = np.isfinite(values) & (values >= 0)
    counts: _Int64 = np.where(known, values, -1).astype(np.int64)
    return counts
