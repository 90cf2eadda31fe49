"""Cells brought from source order into a window order on disk: buckets of whole windows, each mixed in memory.

Where a row goes follows from the lengths of all runs, so one pass over the coordinates comes first. Memory is that of
one bucket, twice, and 16 bytes a run; disk as much as the cells once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.batching import regrouped
from ingest.cells import CellBatch
from ingest.index_scan import coordinates_of
from ingest.mixing import MixingMeter
from ingest.plan_index import batch_rows
from ingest.source_order import BUCKET_ROWS, read_sorted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.cells import Cells
    from ingest.mixing import Mixedness
    from ingest.window_order import WindowOrder

__all__ = ["Shuffled", "shuffle_cells"]

_MOST_BUCKETS = 512
"""Each is an open file."""

_SPILL_ROWS = 1 << 20
"""Rows that are split at once: the more, the longer the pieces in which buckets are written."""

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

_Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Shuffled:
    """The cells of a plan in window order."""

    before: Mixedness
    """Of the chunks that source order would have made."""
    cells: Cells
    """The same cells in source order."""
    order: WindowOrder
    buckets: tuple[Path, ...]
    bucket_cells: int
    dictionaries: tuple[pa.Array | None, ...]
    """Of each column; None where it is no dictionary."""
    schema: pa.Schema

    def batches(self, n_rows: int) -> Iterator[CellBatch]:
        """Yield the cells in window order, `n_rows` at once, the last batch shorter; each bucket goes once read."""
        for batch in regrouped(self._mixed(), n_rows):
            columns = [
                column if texts is None else pa.DictionaryArray.from_arrays(column, texts, safe=False)
                for column, texts in zip(batch.columns, self.dictionaries, strict=True)
            ]
            codes, joinids, rows = (batch.column(at).to_numpy() for at in range(3))
            places = coordinates_of(codes, joinids, rows, self.cells.scan.is_h5ad)
            yield CellBatch(pa.RecordBatch.from_arrays(columns, schema=self.schema), codes, places)

    def _mixed(self) -> Iterator[pa.RecordBatch]:
        for number, bucket in enumerate(self.buckets):
            rows = next(iter(regrouped(read_sorted(bucket), None)))
            bucket.unlink()
            first = number * self.bucket_cells
            stands = np.argsort(rows.column(rows.num_columns - 1).to_numpy())
            rows = pa.RecordBatch.from_arrays(rows.columns[:-1], rows.schema.names[:-1])
            for low in range(0, len(rows), self.order.cells):
                high = min(low + self.order.cells, len(rows))
                mixed = self.order.mixed(first + low, first + high) - first
                yield rows.take(pa.array(stands[mixed]))


def shuffle_cells(
    cells: Cells,
    order: WindowOrder,
    run_rows: _Int64,
    folder: Path,
    *,
    cells_per_chunk: int,
    bucket_rows: int = BUCKET_ROWS,
) -> Shuffled:
    """Split the cells of an index by where `order` puts them, into files in `folder`.

    Parameters
    ----------
    cells
        In source order.
    run_rows
        int64 ``(n_sources,)``: see `ingest.window_order.run_rows`.
    bucket_rows
        Rows that a bucket has about, one window at least.
    """
    starts = _run_starts(cells, run_rows)
    places = order.run_places(np.diff(np.append(starts, len(cells))))
    least = max(bucket_rows, -(-len(cells) // _MOST_BUCKETS))
    bucket_cells = -(-least // order.cells) * order.cells
    spill = _Spill(folder, -(-len(cells) // bucket_cells))
    meter, first = MixingMeter(len(cells), cells_per_chunk), 0
    try:
        for batch in cells.batches(batch_rows(cells_per_chunk, _SPILL_ROWS)):
            meter.add(batch)
            rows = np.arange(first, first + len(batch))
            run = np.searchsorted(starts, rows, side="right") - 1
            spill.add(batch.table, places[run] + rows - starts[run], bucket_cells)
            first += len(batch)
    finally:
        spill.close()
    return Shuffled(
        meter.finish(), cells, order, tuple(spill.paths), bucket_cells, tuple(spill.dictionaries), spill.schema
    )


def _run_starts(cells: Cells, run_rows: _Int64) -> _Int64:
    """Return the rows at which runs begin, int64 ``(n_runs,)``, in source order."""
    starts: list[_Int64] = []
    first, last = 0, (-1, -1)
    for batch in replace(cells, amend=None).batches():  # where they lie is all that is asked
        runs = batch.coordinates // run_rows[batch.codes]
        begins = np.concatenate([[True], (runs[1:] != runs[:-1]) | (batch.codes[1:] != batch.codes[:-1])])
        begins[0] = (int(batch.codes[0]), int(runs[0])) != last
        starts.append(first + np.flatnonzero(begins))
        first, last = first + len(batch), (int(batch.codes[-1]), int(runs[-1]))
    return np.concatenate(starts)


class _Spill:
    """Rows on their way into buckets, texts as their codes, and where each goes as one more column."""

    def __init__(self, folder: Path, n_buckets: int) -> None:
        self.paths = [folder / f"windows-{number:05d}.arrow" for number in range(n_buckets)]
        self._sinks = [pa.OSFile(str(path), "wb") for path in self.paths]
        self._writers: list[pa.ipc.RecordBatchStreamWriter] = []
        self.dictionaries: list[pa.Array | None] = []
        self.schema: pa.Schema = pa.schema([])

    def add(self, table: pa.RecordBatch, places: _Int64, bucket_cells: int) -> None:
        columns = [column.indices if pa.types.is_dictionary(column.type) else column for column in table.columns]
        rows = pa.RecordBatch.from_arrays([*columns, pa.array(places)], [*table.schema.names, ""])
        if not self._writers:
            self.schema = table.schema
            texts = [column.dictionary if pa.types.is_dictionary(column.type) else None for column in table.columns]
            self.dictionaries = texts
            self._writers = [pa.ipc.new_stream(sink, rows.schema, options=_LZ4) for sink in self._sinks]
        mine = (places // bucket_cells).astype(np.uint16)
        grouped = rows.take(pa.array(np.argsort(mine, kind="stable")))
        edges = np.concatenate([[0], np.cumsum(np.bincount(mine, minlength=len(self.paths)))]).tolist()
        for writer, low, high in zip(self._writers, edges, edges[1:], strict=False):
            if high > low:
                writer.write_batch(grouped.slice(low, high - low))

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for sink in self._sinks:
            sink.close()
