"""Turn a CSC matrix larger than memory into rows once, through files of row ranges in a scratch folder.

One pass over the source deals entries out to one file per range of rows; then each range is put in order on its own
and appended to one file of indices and one of values. Rows are read from those with plain reads: a memory map of a
file on a full disk would kill the process.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError, DiskFullError, HostileFileError
from ingest.fetch.assemble import Assembled, csr_rows
from ingest.fetch.h5ad_csc import column_blocks, wanted_entries
from ingest.fetch.h5ad_slabs import plan_runs
from ingest.fetch.kernels import compiled
from ingest.fetch.scratch_folder import ScratchFolder
from ingest.fetch.values import plain_values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.fetch.assemble import GeneMap
    from ingest.fetch.base import FetchLimits
    from ingest.fetch.h5ad_csc import Columns
    from ingest.fetch.h5ad_matrix import MatrixRef
    from ingest.fetch.h5ad_slabs import Entries, Pointers

__all__ = ["ScratchReader"]

Array = np.ndarray[Any, Any]

_MOST_FILES = 256


class ScratchReader:
    """Rows of a CSC matrix larger than memory, transposed through a folder of its own in `limits.scratch`.

    Memory: a slab, one range of rows while it is put in order, and 8 bytes a row of the source.

    Raises
    ------
    ConfigError
        ``disk-full``: the scratch folder has too little room; the message says how much is needed.
        ``memory``: even the row pointers do not fit.
    HostileFileError
        ``index-range``.
    """

    def __init__(
        self,
        pointers: Pointers,
        entries: Entries,
        matrix: MatrixRef,
        genes: GeneMap,
        *,
        limits: FetchLimits,
        label: str,
    ) -> None:
        self._genes, self._label = genes, label
        self._n_obs, self._n_vars = matrix.shape
        self._value = plain_values(np.empty(0, matrix.dtype), source=label).dtype
        self._record = np.dtype([("row", np.int32), ("column", np.int32), ("value", self._value)])
        self._budget = limits.memory_bytes - 16 * (self._n_obs + 1)
        if self._budget < limits.memory_bytes // 2:
            raise ConfigError(
                f"{label}: transposing {self._n_obs:,} rows needs {32 * self._n_obs:,} bytes of memory,"
                f" a worker has {limits.memory_bytes:,}",
                kind="memory",
                hint="run fewer workers (-d) or give them more memory",
            )
        self._was_unsorted = False
        n_entries = wanted_entries(pointers, genes)
        with self._disk(limits.scratch):
            self._scratch = ScratchFolder(limits.scratch)
        try:
            self._need_room(limits.scratch, n_entries)
            with self._disk(limits.scratch):
                self._deal(pointers, entries, n_entries)
                self._indptr = np.zeros(self._n_obs + 1, np.int64)
                self._order_ranges()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the scratch files."""
        self._scratch.close()

    def parts(self, ascending: Array) -> Iterator[tuple[int, int, Assembled]]:
        """Yield ``(first, last, rows)``: the rows ``ascending[first:last]``, in that order.

        Raises
        ------
        HostileFileError
            ``duplicate-entry``.
        """
        starts, ends = self._indptr[ascending], self._indptr[ascending + 1]
        entry = 4 + self._value.itemsize
        most = max(self._budget // 4 // (entry + 12), 1)
        for slab in plan_runs(starts, ends, ascending, merge=min(most, (128 << 10) // entry), most=most):
            rows = ascending[slab.first : slab.last]
            low, high = int(starts[slab.first]), int(ends[slab.last - 1])
            indptr = self._indptr[rows[0] : rows[-1] + 2] - low
            indices, data = (
                np.fromfile(self._scratch.path / name, kind, high - low, offset=low * kind.itemsize)
                for name, kind in (("indices", np.dtype(np.int32)), ("data", self._value))
            )
            label = f"{self._label}: rows from {rows[0]}"
            found = csr_rows(indptr, indices, data, rows - rows[0], self._genes, source=label)
            yield slab.first, slab.last, Assembled(found.counts, self._was_unsorted, found.zeros_dropped)

    def _need_room(self, scratch: Path, n_entries: int) -> None:
        # The ranges, and beside them the ordered files as they grow; a range is deleted once it is in order.
        needed = n_entries * (self._record.itemsize + 4 + self._value.itemsize)
        free = shutil.disk_usage(scratch).free
        if free < needed:
            raise self._full(scratch, f"needs {needed:,} bytes, {free:,} are free")

    def _full(self, scratch: Path, what: str) -> DiskFullError:
        return DiskFullError(
            f"{self._label}: transposing it through {scratch} {what}",
            hint="name a larger folder with --scratch",
        )

    @contextmanager
    def _disk(self, scratch: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(scratch, f"filled the disk ({error.strerror})") from error
            raise ConfigError(f"{scratch}: {error.strerror or error}", kind="scratch") from error

    def _deal(self, pointers: Pointers, entries: Entries, n_entries: int) -> None:
        """Append every wanted entry to the file of its range of rows."""
        n_ranges = min(_MOST_FILES, -(-n_entries * self._record.itemsize * 4 // self._budget) or 1, self._n_obs or 1)
        self._range_rows = max(-(-self._n_obs // n_ranges), 1)
        # Working arrays of one block: source arrays, converted rows, ranges, order, records.
        most = max(self._budget // 4 // (self._record.itemsize * 2 + 40), 1)
        files = [self._range_file(number).open("wb", buffering=0) for number in range(n_ranges)]
        try:
            for block in column_blocks(pointers, self._genes, merge=entries.merge, most=most):
                self._deal_block(block, entries, files)
        finally:
            for file in files:
                file.close()

    def _range_file(self, number: int) -> Path:
        return self._scratch.path / f"rows-{number:04d}"

    def _deal_block(self, block: Columns, entries: Entries, files: list[Any]) -> None:
        rows = entries.indices(block.low, block.high)
        outside = np.flatnonzero((rows < 0) | (rows >= self._n_obs))
        columns = np.repeat(np.arange(len(block.indptr) - 1, dtype=np.int32), np.diff(block.indptr)) + block.first
        if len(outside):
            message = f"{self._label}: column {columns[outside[0]]}: row {rows[outside[0]]} of {self._n_obs}"
            raise HostileFileError(message, kind="index-range")
        self._was_unsorted |= bool(((np.diff(rows) < 0) & (np.diff(columns) == 0)).any())
        keep = self._genes.columns[columns] >= 0 if len(self._genes.columns) else np.ones(len(rows), np.bool_)
        number = np.where(keep, rows // self._range_rows, len(files)).astype(np.uint16)
        order = np.argsort(number, kind="stable")  # by radix: in one range, columns stay ascending
        records = np.empty(len(rows), self._record)
        records["row"] = (rows % self._range_rows)[order]
        records["column"] = columns[order]
        records["value"] = entries.data(block.low, block.high)[order]
        cuts = np.searchsorted(number[order], np.arange(len(files) + 1))
        for file, low, high in zip(files, cuts[:-1], cuts[1:], strict=True):
            _write(file, records[low:high])

    def _order_ranges(self) -> None:
        with (
            (self._scratch.path / "indices").open("wb", buffering=0) as indices,
            (self._scratch.path / "data").open("wb", buffering=0) as data,
        ):
            for number, first in enumerate(range(0, self._n_obs, self._range_rows)):
                self._order_range(self._range_file(number), first, indices, data)
                self._range_file(number).unlink()

    def _order_range(self, path: Path, first: int, indices: Any, data: Any) -> None:
        last = min(first + self._range_rows, self._n_obs)
        counts = np.zeros(last - first, np.int64)
        for records in self._records(path):
            counts += np.bincount(records["row"], minlength=len(counts))
        ends = np.cumsum(counts)
        self._indptr[first + 1 : last + 1] = self._indptr[first] + ends
        # Rows may be crowded: what would not fit is put in order in several passes over the range's file.
        most = max(self._budget // 4 // (4 + self._value.itemsize), 1)
        for slab in plan_runs(ends - counts, ends, np.arange(len(ends)), merge=0, most=most):
            out = self._ordered(path, counts, slab.first, slab.last)
            _write(indices, out[0])
            _write(data, out[1])

    def _ordered(self, path: Path, counts: Array, low: int, high: int) -> tuple[Array, Array]:
        cursor = np.zeros(high - low, np.int64)
        np.cumsum(counts[low : high - 1], out=cursor[1:])
        n_entries = int(counts[low:high].sum())
        out_indices, out_data = np.empty(n_entries, np.int32), np.empty(n_entries, self._value)
        for records in self._records(path):
            mine = records[(records["row"] >= low) & (records["row"] < high)] if high - low < len(counts) else records
            position = mine["row"] - np.int32(low)
            column, value = np.ascontiguousarray(mine["column"]), np.ascontiguousarray(mine["value"])
            _place(position, column, value, cursor, out_indices, out_data)
        return out_indices, out_data

    def _records(self, path: Path) -> Iterator[Array]:
        step = max(self._budget // 8 // (self._record.itemsize * 2 + 16), 1)
        with path.open("rb", buffering=0) as file:
            while len(records := np.fromfile(file, self._record, step)):
                yield records


@compiled
def _place(position: Array, column: Array, value: Array, cursor: Array, out_indices: Array, out_data: Array) -> None:
    """Put entries into their rows; `cursor` (int64 ``(n_rows,)``) is each row's next free place."""
    for i in range(position.size):
        at = cursor[position[i]]
        cursor[position[i]] = at + 1
        out_indices[at] = column[i]
        out_data[at] = value[i]


def _write(file: Any, values: Array) -> None:
    # An unbuffered write may take a part only, as on a disk that is nearly full.
    rest = np.ascontiguousarray(values).view(np.uint8).data
    while len(rest):
        rest = rest[file.write(rest) :]
