"""The cells of one run: an index read from anywhere, checked, and streamed in the order of the sources.

Memory does not grow with the cells: the file is read once to check it (`IndexScan`), sorted on disk where it is not in
source order (`sort_cells`), and then read batch by batch as often as somebody asks. What grows is what describes the
whole: sources, and the distinct texts of each column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.batching import regrouped
from ingest.index_file import IndexFile
from ingest.index_scan import COORDINATES, IndexScan, coordinates_of
from ingest.scratch import Scratch
from ingest.source_order import BUCKET_ROWS, read_sorted, sort_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from ingest.source import Source

__all__ = ["COORDINATES", "CellBatch", "Cells", "read_cells"]

BATCH_ROWS = 1 << 16

_Int64 = np.ndarray[Any, np.dtype[np.int64]]
_Int32 = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True, eq=False)
class CellBatch:
    """Consecutive cells in plan order."""

    table: pa.RecordBatch
    """``source`` (dictionary), ``soma_joinid``, ``row`` (int64, -1 where it does not apply), then obs columns.

    Dictionaries are the whole column's, in order of first appearance, and the same in every batch.
    """
    codes: _Int32
    """int32 ``(n_cells,)``: which of the plan's sources."""
    coordinates: _Int64
    """int64 ``(n_cells,)``: joinid or row within the source."""

    def __len__(self) -> int:
        return len(self.codes)

    def with_column(self, name: str, values: np.ndarray[Any, Any]) -> CellBatch:
        """Return the same cells with one more obs column, or with other values in the one of that name."""
        at, column = self.table.schema.get_field_index(name), pa.array(values)
        columns = list(self.table.columns)
        names = list(self.table.schema.names)
        if at < 0:
            columns, names = [*columns, column], [*names, name]
        else:
            columns[at] = column
        return replace(self, table=pa.RecordBatch.from_arrays(columns, names))


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells in plan order: by source, in the order in which sources first appear, then by coordinate."""

    sources: tuple[Source, ...]
    """Distinct sources, in plan order."""
    largest: _Int64
    """int64 ``(n_sources,)``: the largest coordinate asked of each."""
    datasets: tuple[Collection[str] | None, ...]
    """For each source the dataset ids that its cells come from; None where the index does not say."""
    knows_nnz: bool
    """Whether the index has the non-zeros of every cell."""
    scan: IndexScan
    sorted_file: Path | None
    """The cells in plan order, where the index has them in another one."""
    scratch: Scratch | None
    amend: Callable[[Iterator[CellBatch]], Iterator[CellBatch]] | None = None

    def __len__(self) -> int:
        return self.scan.n_cells

    def batches(self, n_rows: int = BATCH_ROWS) -> Iterator[CellBatch]:
        """Yield the cells, `n_rows` at once, the last batch shorter; every call starts anew.

        Raises
        ------
        ConfigError
            The index was damaged meanwhile.
        """
        stored = self.scan.stored() if self.sorted_file is None else read_sorted(self.sorted_file)
        names = pa.array([str(source) for source in self.sources], pa.string())
        found = (self._shown(batch, names) for batch in regrouped(stored, n_rows))
        return found if self.amend is None else self.amend(found)

    def _shown(self, stored: pa.RecordBatch, names: pa.Array) -> CellBatch:
        codes, joinids, rows = stored.columns[:3]
        source = pa.DictionaryArray.from_arrays(codes, names, safe=False)
        obs = [column.shown(numbers) for column, numbers in zip(self.scan.columns, stored.columns[3:], strict=True)]
        table = pa.RecordBatch.from_arrays([source, joinids, rows, *obs], stored.schema.names)
        places = (codes.to_numpy(), joinids.to_numpy(), rows.to_numpy())
        return CellBatch(table, places[0], coordinates_of(*places, self.scan.is_h5ad))

    def with_sources(self, sources: tuple[Source, ...]) -> Cells:
        """Return the same cells with their sources pinned to surveyed versions (same number and order)."""
        return replace(self, sources=sources)

    def amended(self, amend: Callable[[Iterator[CellBatch]], Iterator[CellBatch]]) -> Cells:
        """Return the same cells with whatever `amend` makes of their batches."""
        return replace(self, amend=amend)

    def close(self) -> None:
        """Remove what was sorted; also done when the last of these cells is forgotten, or the process ends."""
        if self.scratch is not None:
            self.scratch.close()


def read_cells(
    path: Path,
    *,
    limit: int | None = None,
    default_source: Source | None = None,
    scratch: Path | None = None,
    bucket_rows: int = BUCKET_ROWS,
) -> Cells:
    """Read an index made by ``index`` or by hand.

    Parameters
    ----------
    path
        Feather (Arrow IPC) file; it must stay as it is until the plan is committed.
    limit
        Take the first so many rows of the file.
    default_source
        The source of all cells where the file has no ``source`` column.
    scratch
        Where an index that is not in source order is sorted; the system's temporary folder when None.
    bucket_rows
        Rows that are sorted at once, on average.

    Raises
    ------
    ConfigError
        Not an index, coordinates missing or not whole, cells that stand twice.
    EmptySelectionError
        No rows.
    """
    scan = IndexScan(IndexFile(path, limit), default_source)
    if scan.in_order:
        scan.doubles.refuse(scan.sources, path)
        folder, sorted_file = None, None
    else:
        folder = Scratch(scratch)
        with folder.guarded():  # the folder goes with its last owner, and so with whatever is raised here
            sorted_file = sort_cells(scan, folder.path, bucket_rows=bucket_rows)
    return Cells(scan.sources, scan.largest, scan.datasets, scan.knows_nnz, scan, sorted_file, folder)
