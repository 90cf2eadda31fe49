"""Fetch rows of an h5ad file: CSR by merged runs, dense by chunk bands, CSC transposed once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.block import Counts
from ingest.errors import IngestError, NotCountsError, SourceChangedError, SourceError
from ingest.fetch.assemble import GeneMap
from ingest.fetch.base import Fetched
from ingest.fetch.h5ad_csc import CscReader
from ingest.fetch.h5ad_matrix import describe_matrix
from ingest.fetch.h5ad_obs import obs_names
from ingest.fetch.h5ad_open import OpenBudget, open_h5ad
from ingest.fetch.h5ad_scratch import ScratchReader
from ingest.fetch.h5ad_slabs import CsrReader, DenseReader, H5Entries, Pointers
from ingest.fetch.kernels import take_rows
from ingest.fetch.values import convert_counts, delivered_dtype
from ingest.validate import check_counts, value_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.fetch.assemble import Assembled
    from ingest.fetch.base import FetchLimits, FetchOptions
    from ingest.fetch.h5ad_slabs import RowReader
    from ingest.genes import Genes
    from ingest.survey.model import SourceSurvey

__all__ = ["H5adFetcher"]

Array = np.ndarray[Any, Any]

_LEAST_SLAB_BYTES = 1 << 16
_MOST_SLAB_BYTES = 64 << 20
_HELD_SHARE = 4
"""A remote file is fetched whole when it takes this part of the memory at most, and this part of its rows is wanted."""


class H5adFetcher:
    """One open h5ad file at its surveyed version; see `ingest.fetch.base.Fetcher`.

    Parameters
    ----------
    survey
        Of this source: which matrix, at which version.
    genes
        Columns to deliver.
    options
        Value type, and whether fractions pass.
    limits
        Memory, threads and scratch of this worker.

    Raises
    ------
    SourceChangedError
        The file is not the surveyed version.
    SourceError
        It breaks a rule of structure.
    ConfigError
        ``disk-full``, ``memory``: a transposition does not fit.
    TransientError
        The network.
    """

    def __init__(self, survey: SourceSurvey, genes: Genes, options: FetchOptions, limits: FetchLimits) -> None:
        self._survey, self._genes, self._options, self._limits = survey, genes, options, limits
        self._delivered = delivered_dtype(survey.dtype, options, integer=survey.integer)
        chunk_bytes = min(OpenBudget().chunk_bytes, max(limits.memory_bytes, OpenBudget().spare_chunk_bytes))
        self._file = open_h5ad(survey.source, budget=OpenBudget(chunk_bytes=chunk_bytes), warm=True, line=limits.line)
        self._reader: RowReader | None = None
        self._bytes_seen = self._held_bytes = 0
        try:
            self._matrix = describe_matrix(self._file, survey.matrix)
            self._check_survey()
            self._bytes_seen = self._file.bytes_read
        except BaseException:
            self._file.close()
            raise

    def read(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Fetched:
        """Return the counts of `rows`, int64 ``(n_rows,)``, distinct, in any order; names and counts in that order.

        Raises
        ------
        SourceError
            ``row-range``, ``duplicate-row``; structure that breaks a rule; ``NotCountsError`` naming dataset, row and
            gene for the first value that is no count.
        SourceChangedError
            The file changed: nothing of this read may be used.
        ConfigError
            ``disk-full``, ``memory``.
        TransientError
            The network.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        self._check_rows(ascending)
        with self._named():
            if self._reader is None:
                if self._is_held_whole(len(rows)):
                    self._held_bytes = self._file.hold()
                self._reader = self._open_reader()
            parts = []
            was_unsorted = False
            for first, last, found in self._reader.parts(ascending):
                was_unsorted |= found.was_unsorted
                parts.append((order[first:last], self._checked(found, ascending[first:last])))
            names = obs_names(self._file, rows)
            self._file.check_unchanged()
        return Fetched(self._in_order(parts, len(rows)), names, self._new_bytes(), was_unsorted)

    def expect(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Do nothing: HDF5 reads one piece after the other."""

    def close(self) -> None:
        """Close the file and remove scratch."""
        if isinstance(self._reader, CscReader | ScratchReader):
            self._reader.close()
        self._reader = None
        self._file.close()

    def _check_survey(self) -> None:
        survey, matrix = self._survey, self._matrix
        found = (matrix.shape, matrix.layout, matrix.nnz, matrix.dtype)
        if found != ((survey.n_obs, len(survey.genes)), survey.layout, survey.nnz, survey.dtype):
            message = f"{self._file.name}: {matrix.path} is not the matrix surveyed ({found})"
            raise SourceChangedError(message, source=str(survey.source))

    def _check_rows(self, ascending: Array) -> None:
        source = str(self._survey.source)
        if len(ascending) and (ascending[0] < 0 or ascending[-1] >= self._survey.n_obs):
            wrong = ascending[0] if ascending[0] < 0 else ascending[-1]
            message = f"{self._file.name}: row {wrong} of {self._survey.n_obs} rows"
            raise SourceError(message, kind="row-range", source=source)
        if (double := np.flatnonzero(np.diff(ascending) == 0)).size:
            message = f"{self._file.name}: row {ascending[double[0]]} is asked for twice"
            raise SourceError(message, kind="duplicate-row", source=source)

    def _is_held_whole(self, n_rows: int) -> bool:
        """Say whether to fetch all of a remote file: it is small, and most of it is wanted, or of every column some."""
        if not self._file.is_remote or self._file.size_bytes * _HELD_SHARE > self._limits.memory_bytes:
            return False
        return self._matrix.layout == "csc" or n_rows * _HELD_SHARE >= self._survey.n_obs

    def _open_reader(self) -> RowReader:
        file, matrix = self._file, self._matrix
        limits = replace(self._limits, memory_bytes=self._limits.memory_bytes - self._held_bytes)
        genes = GeneMap.between(self._survey.genes, self._genes)
        slab_bytes = max(min(limits.memory_bytes // 4, _MOST_SLAB_BYTES), _LEAST_SLAB_BYTES)
        if matrix.layout == "dense":
            return DenseReader(file, matrix, genes, slab_bytes=slab_bytes)
        label = f"{file.name}: {matrix.path}"
        entries = H5Entries(file, matrix)
        pointers = Pointers(file, f"{matrix.path}/indptr", matrix.nnz, most_bytes=limits.memory_bytes // 8)
        if matrix.layout == "csr":
            return CsrReader(pointers, entries, matrix, genes, slab_bytes=slab_bytes, label=label)
        if CscReader.memory_bytes(pointers, matrix, genes) + 2 * slab_bytes <= limits.memory_bytes:
            return CscReader(pointers, entries, matrix, genes, slab_bytes=slab_bytes, label=label)
        return ScratchReader(pointers, entries, matrix, genes, limits=limits, label=label)

    def _checked(self, found: Assembled, rows: Array) -> Counts:
        """Return the part in the type delivered, every value proven to be a count."""
        label = f"{self._file.name}: {self._matrix.path}"
        allow = self._options.allow_noninteger
        try:
            check_counts(found.counts, source=label, allow_noninteger=allow)
            return convert_counts(found.counts, self._delivered, source=label)
        except NotCountsError as error:
            raise self._with_cell(error, found.counts, rows) from error

    def _with_cell(self, error: NotCountsError, counts: Counts, rows: Array) -> NotCountsError:
        """Name the row and the gene of the file instead of those of the part."""
        place = self._fault_place(counts)
        if place is None:
            return error
        row = rows[int(np.searchsorted(counts.indptr, place, side="right")) - 1]
        gene, value = self._genes.ids[counts.indices[place]], counts.data[place].item()
        message = (
            f"{self._file.name}: {self._matrix.path}: row {row}, gene {gene} holds {value!r} ({error.kind}),"
            f" which is no count" + (f" that {self._delivered} holds exactly" if error.kind == "count-overflow" else "")
        )
        return NotCountsError(message, kind=error.kind, hint=error.hint, source=str(self._survey.source))

    def _fault_place(self, counts: Counts) -> int | None:
        allow = self._options.allow_noninteger
        for at, value in enumerate(counts.data.tolist()):
            if value_fault(value, allow_noninteger=allow) or _inexact(value, self._delivered):
                return at
        return None

    def _in_order(self, parts: list[tuple[Array, Counts]], n_rows: int) -> Counts:
        """Lay the parts out in the order asked for; each is let go of once copied."""
        lengths = np.zeros(n_rows, np.int64)
        for positions, part in parts:
            lengths[positions] = np.diff(part.indptr)
        indptr = np.zeros(n_rows + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        if len(parts) == 1 and np.array_equal(parts[0][0], np.arange(n_rows)):
            return parts[0][1]
        indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], self._delivered)
        parts.reverse()
        while parts:
            positions, part = parts.pop()
            take_rows(part.indptr, part.indices, part.data, np.arange(part.n_cells), indptr[positions], indices, data)
        return Counts(indptr, indices, data, len(self._genes))

    def _new_bytes(self) -> int:
        total = self._file.bytes_read
        new, self._bytes_seen = total - self._bytes_seen, total
        return new

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the source's own key on every error, whatever label it was raised with."""
        try:
            yield
        except IngestError as error:
            error.source = str(self._survey.source)
            raise


def _inexact(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return float(dtype.type(value)) != value  # as Python floats: numpy would round `value` first
    return not 0 <= value <= np.iinfo(dtype).max or value != int(value)
