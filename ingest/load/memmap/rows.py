"""Many rows at once, in the order asked for: what batches are made of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import CorruptError
from ingest.load.memmap.ahead import Prefetch, is_larger_than_memory
from ingest.load.memmap.kernels import take_columns, take_values
from ingest.load.read.buffers import Buffers

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

__all__ = ["MappedRows", "RowBatch", "constant_width"]

Array = np.ndarray[Any, Any]
Int64 = np.ndarray[Any, np.dtype[np.int64]]
Int32 = np.ndarray[Any, np.dtype[np.int32]]

_LEAST_ROWS = 512
"""That a thread is worth."""
_PIECE_ENTRIES = 1 << 24
_MOST_SMALL = int(np.iinfo(np.int32).max)


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows as CSR."""

    indptr: Int64
    """int64 ``(n_rows + 1,)``; starts at 0."""
    columns: Int32
    """int32 ``(nnz,)``, as stored."""
    values: Array
    """``(nnz,)``, as stored."""
    n_columns: int
    stacked: np.dtype[Any]
    """The type in which a row's values and columns are stacked: numpy's common one of the archive's two."""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def to_scipy(self) -> sp.csr_matrix:
        """Return a copy as a scipy matrix ``(n_rows, n_columns)``; halves as float32, since scipy has none."""
        import scipy.sparse as sp

        values = self.values.astype(np.float32 if self.values.dtype == np.float16 else self.values.dtype)
        parts = (values, self.columns.copy(), self.indptr.copy())
        return sp.csr_matrix(parts, shape=(len(self), self.n_columns))

    def to_csr(self, width: int | None = None) -> torch.Tensor:
        """Return a sparse CSR tensor ``(n_rows, width or n_columns)``; values as they are stacked, int32 columns."""
        from ingest.load.torch.csr import csr_tensor

        wide = self.n_columns if width is None else width
        if wide < self.n_columns or not self.n_columns:
            largest = int(self.columns.max(initial=-1))
            if largest >= wide:  # torch would read what is not its own
                raise ValueError(f"width={wide}: there is a column {largest}")
        rows = self.indptr.astype(np.int32) if self.indptr[-1] <= _MOST_SMALL else self.indptr
        columns, values = self.columns.astype(rows.dtype, copy=False), self.values.astype(self.stacked, copy=False)
        return csr_tensor(rows, columns, values, (len(self), wide))


class MappedRows:
    """Takes rows out of mapped arrays.

    Parameters
    ----------
    data, columns, row_index
        The arrays of an archive, as they are mapped.
    prefetch
        Whether to ask for a batch's pages before it is read; None: where the archive is larger than memory.
    """

    def __init__(self, data: Array, columns: Array, row_index: Array, *, prefetch: bool | None = None) -> None:
        wanted = is_larger_than_memory(data, columns) if prefetch is None else prefetch
        self._prefetch = Prefetch(data, columns) if wanted else None
        # Plain and read-only, whatever they are: one compiled kernel for each width, and numpy's memmap is slow to cut.
        self._bits = _plain(data).view(f"u{data.itemsize}")
        self._columns = _plain(columns)
        self._row_index = _plain(row_index)
        self._dtype = data.dtype
        self._stacked = np.result_type(data.dtype, columns.dtype)
        self._name = str(getattr(data, "filename", "") or "the archive")
        self.buffers = Buffers()

    @property
    def n_rows(self) -> int:
        """Rows."""
        return len(self._row_index) - 1

    def take(self, rows: Int64, n_columns: int, *, threads: int = 1) -> RowBatch:
        """Return rows, int64 ``(n,)`` in any order, some perhaps several times.

        Parameters
        ----------
        n_columns
            Of the batch; 0: as many as its largest column asks for.
        threads
            That copy, where there are rows enough.

        Raises
        ------
        IndexError
            There is no such row.
        CorruptError
            Rows are not where they can be (kind ``scdl-array``), or a column is none of so many (``scdl-column``).
        """
        wrong = rows[(rows < 0) | (rows >= self.n_rows)]
        if len(wrong):
            raise IndexError(f"Row index {int(wrong[0])} is not valid: rows are numbered from 0 to {self.n_rows - 1}.")
        begins = self._row_index[rows].astype(np.int64)
        lengths = self._row_index[rows + 1].astype(np.int64) - begins
        if len(rows) and (lengths.min() < 0 or int((begins + lengths).max()) > len(self._bits)):
            raise self._damaged("rows end before they begin, or after the last entry")
        if self._prefetch is not None:
            self._prefetch(begins, begins + lengths)
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        nnz = int(indptr[-1])
        bits, columns = self.buffers.lend(nnz, self._bits.dtype), self.buffers.lend(nnz, np.dtype(np.int32))

        def fill(first: int, last: int) -> int:
            take_values(self._bits, begins[first:last], indptr[first : last + 1], bits)
            return int(take_columns(self._columns, begins[first:last], indptr[first : last + 1], columns))

        parts = min(threads, max(1, len(rows) // _LEAST_ROWS))
        cuts = [len(rows) * part // parts for part in range(parts + 1)]
        if parts == 1:
            largest = fill(0, len(rows))
        else:
            with ThreadPoolExecutor(parts, "cell-ingest-rows") as pool:
                largest = max(pool.map(fill, cuts[:-1], cuts[1:]))
        if largest >= (n_columns or _MOST_SMALL):  # torch would look up and write there
            raise self._damaged(f"column {largest} of {n_columns}", "scdl-column")
        return RowBatch(indptr, columns, bits.view(self._dtype), n_columns or largest + 1, self._stacked)

    def largest_column(self) -> int:
        """Return the largest column of all rows; of every entry it is read.

        Raises
        ------
        CorruptError
            It is none that a tensor can have.
        """
        pieces = range(0, len(self._columns), _PIECE_ENTRIES)
        largest = max((int(self._columns[at : at + _PIECE_ENTRIES].max()) for at in pieces), default=-1)
        if largest >= _MOST_SMALL:
            raise self._damaged(f"column {largest}", "scdl-column")
        return largest

    def _damaged(self, what: str, kind: str = "scdl-array") -> CorruptError:
        hint = "convert it again: it is damaged, or bionemo-scdl made it of a raw.X with other genes than X"
        return CorruptError(f"{self._name}: {what}", kind=kind, hint=hint)


def constant_width(column_dims: list[int]) -> int:
    """Return the columns of batches: of several gene sets, those of the widest."""
    return max(column_dims, default=0)


def _plain(array: Array) -> Array:
    found = array.view(np.ndarray)
    found.flags.writeable = False
    return found
