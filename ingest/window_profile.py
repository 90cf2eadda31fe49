"""The profile of a plan in window order: a window's chunks are made together, from the bands that the window touches.

Bands are counted window by window, in the order of the windows: one that two windows share has one ordinal, so that a
cut between them splits it, and any other cut between windows is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.profile import Profile, band_bytes, expected_nnz

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from ingest.survey.model import SourceSurvey

__all__ = ["WindowProfileBuilder", "band_keys"]

_Int64 = np.ndarray[Any, np.dtype[np.int64]]
_Int32 = np.ndarray[Any, np.dtype[np.int32]]

_SOURCE_SHIFT = 40
"""Bands of a source are fewer than 2**40, sources fewer than 2**23."""


def band_keys(codes: _Int32, bands: _Int64) -> _Int64:
    """Return one number for source and band, int64 ``(n,)``, that ascends with both."""
    keys: _Int64 = (codes.astype(np.int64) << _SOURCE_SHIFT) + bands
    return keys


class WindowProfileBuilder:
    """Take the cells of a plan batch by batch; what is kept is a few numbers a chunk, and three a cell of one window.

    Parameters
    ----------
    surveys, n_cells, cells_per_chunk, uncut_bytes, n_genes
        As `ingest.profile.ProfileBuilder`.
    window_cells
        Rows of a window, a multiple of `cells_per_chunk`.
    """

    def __init__(
        self,
        surveys: Sequence[SourceSurvey],
        n_cells: int,
        cells_per_chunk: int,
        window_cells: int,
        *,
        uncut_bytes: int,
        n_genes: int,
    ) -> None:
        self._surveys, self._n_cells, self._size, self._window = surveys, n_cells, cells_per_chunk, window_cells
        self._n_genes = n_genes
        self._band_rows = np.array([max(1, survey.band_rows) for survey in surveys], np.int64)
        self._band_bytes = band_bytes(surveys, self._band_rows)
        self._large_csc = np.array(
            [survey.layout == "csc" and survey.stored_bytes > uncut_bytes for survey in surveys], bool
        )
        n_chunks = -(-n_cells // cells_per_chunk)
        self._first_band, self._last_band = np.zeros(n_chunks, np.int64), np.zeros(n_chunks, np.int64)
        self._read_from, self._read_to = np.zeros(n_chunks), np.zeros(n_chunks)
        self._nnz, self._uncut = np.zeros(n_chunks, np.int64), np.ones(n_chunks, bool)
        self._row = 0
        self._held: list[tuple[_Int32, _Int64, _Int64]] = []
        self._keys, self._weights = np.empty(0, np.int64), np.empty(0, np.int64)
        """Bands of the window before, and the non-zeros that it wants of each."""
        self._codes = np.empty(0, np.int32)
        self._band, self._read = -1, 0.0
        self._largest = self._fullest = 0

    def add(self, codes: _Int32, coordinates: _Int64, table: pa.Table | pa.RecordBatch) -> None:
        """Take the next cells, in plan order; see `ingest.profile.ProfileBuilder.add`."""
        nnz = np.minimum(expected_nnz(table, codes, self._surveys), self._n_genes)
        bands = coordinates // self._band_rows[codes]
        taken = 0
        while taken < len(codes):
            missing = self._window - self._row % self._window
            part = slice(taken, taken + missing)
            self._held.append((codes[part], bands[part], nnz[part]))
            self._row += len(codes[part])
            taken += missing
            if self._row % self._window == 0 or self._row == self._n_cells:
                self._close_window()

    def _close_window(self) -> None:
        codes, bands, nnz = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        self._held = []
        first = self._row - len(codes)
        chunks = slice(first // self._size, -(-self._row // self._size))
        self._nnz[chunks] = np.add.reduceat(nnz, np.arange(0, len(nnz), self._size))
        self._fullest = max(self._fullest, int(nnz.sum()))
        keys, inverse = np.unique(band_keys(codes, bands), return_inverse=True)
        weights = np.bincount(inverse, weights=nnz).astype(np.int64)
        _, here, there = np.intersect1d(keys, self._keys, assume_unique=True, return_indices=True)
        # A shared band is read once where one worker makes both windows.
        whole = weights.copy()
        whole[here] += self._weights[there]
        self._largest = max(self._largest, int(whole.max()))
        costs = self._band_bytes[(keys >> _SOURCE_SHIFT)]
        shared_bytes = float(costs[here].sum())
        self._first_band[chunks] = self._band + 1 - len(here)
        self._read_from[chunks] = self._read - shared_bytes
        self._band += len(keys) - len(here)
        self._read += float(costs.sum()) - shared_bytes
        self._last_band[chunks], self._read_to[chunks] = self._band, self._read
        sources = np.unique(codes)
        self._uncut[chunks.start] = bool(self._large_csc[np.intersect1d(sources, self._codes)].any())
        self._keys, self._weights, self._codes = keys, weights, sources

    def finish(self) -> Profile:
        """Return the profile of all cells.

        Raises
        ------
        ValueError
            Not all of them were taken.
        """
        if self._row != self._n_cells:
            raise ValueError(f"{self._row} of {self._n_cells} cells were taken")
        self._uncut[0] = False
        return Profile(
            self._first_band,
            self._last_band,
            self._nnz,
            self._read_from,
            self._read_to,
            self._largest,
            self._uncut,
            self._fullest,
        )
