"""Rows of a stored dense matrix: as they are, or as CSR what is not zero, as scipy's ``csr_matrix`` takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.ahead import Ahead
from ingest.stream.matrix.filled import filled
from ingest.stream.matrix.lines import Lines, index_type
from ingest.stream.matrix.regroup import Entries, regrouped

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.stream.matrix.work import Work

__all__ = ["DenseRows"]

Array = np.ndarray[Any, Any]

_MOST_GAP = 64
"""Rows that are read over rather than read apart, where rows are not chunked."""


class DenseRows:
    """One matrix.

    Rows are read in bands of whole HDF5 chunks, the next while one is worked on. Where chunks are so tall that a band
    would not fit, `lines` goes through `ingest.stream.matrix.regroup`, one chunk after the other, and `rows` reads a
    chunk again for every band that it lies in.
    """

    def __init__(self, file: OpenH5ad, ref: MatrixRef, work: Work, scratch: Path) -> None:
        self._file, self._ref, self._work, self._scratch = file, ref, work, scratch
        self._dataset = file.dataset(ref.path)
        self.dtype = np.dtype(ref.dtype)
        self.shape = ref.shape
        self._chunk = self._dataset.chunks or (1, max(ref.shape[1], 1))
        self._row_bytes = max(ref.shape[1] * self.dtype.itemsize, 1)
        self._fits = max(work.block_bytes // self._row_bytes, 1)
        self._is_tall = self._chunk[0] > 4 * self._fits
        chunk = min(self._chunk[0], max(ref.shape[0], 1))
        self._band = self._fits if self._is_tall else -(-self._fits // chunk) * chunk

    def rows(self, wanted: Array | None = None) -> Iterator[tuple[Array, Array]]:
        """Yield ascending row numbers, int64 ``(n,)``, and the rows ``(n, n_columns)``."""
        ahead = Ahead(self._bands(wanted))
        try:
            yield from ahead
        finally:
            ahead.close()

    def _bands(self, wanted: Array | None) -> Generator[tuple[Array, Array], None, None]:
        n = self.shape[0] if wanted is None else len(wanted)
        step = min(self._band, self._work.most_lines or self._band)
        if wanted is None:
            for first in range(0, n, step):
                last = min(first + step, n)
                yield np.arange(first, last), self._read(slice(first, last), slice(None))
            return
        jumps = (np.diff(wanted // self._band) > 0) | (np.diff(wanted) > max(_MOST_GAP, self._chunk[0]))
        cuts = np.flatnonzero(jumps) + 1
        for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), n], strict=True):
            for first in range(begin, end, step):
                some = wanted[first : min(first + step, end)]
                if len(some):
                    block = self._read(slice(int(some[0]), int(some[-1]) + 1), slice(None))
                    yield some, block if len(block) == len(some) else block[some - some[0]]

    def lines(self, wanted: Array | None = None) -> Iterator[Lines]:
        """Yield rows as CSR, numbered anew."""
        if self._is_tall and wanted is None:
            yield from regrouped(self._entries(), *self.shape, self._scratch, self._work)
            return
        first, kind = 0, index_type(self.shape[1])
        for numbers, block in self.rows(wanted):
            yield Lines(first, *filled(block, kind, self._work))
            first += len(numbers)

    def _entries(self) -> Iterator[Entries]:
        """Yield what is not zero chunk by chunk, those of the first columns first."""
        kind = index_type(self.shape[1])
        for column in range(0, self.shape[1], self._chunk[1]):
            for row in range(0, self.shape[0], self._chunk[0]):
                block = self._read(slice(row, row + self._chunk[0]), slice(column, column + self._chunk[1]))
                indptr, columns, values = filled(block, kind, self._work)
                lines = np.repeat(np.arange(row, row + len(block)), np.diff(indptr))
                yield Entries(lines, columns + kind.type(column), values)

    def _read(self, rows: slice, columns: slice) -> Array:
        with self._work.lock, self._file.reading(self._ref.path):
            return np.ascontiguousarray(self._dataset[rows, columns], self.dtype)
