"""Cells brought into source order on disk: split into buckets that follow each other, each sorted in memory.

The bounds of the buckets are quantiles of a random sample, so that they hold about equally many cells however these
are spread. A bucket is sorted exactly; the split itself needs a key that only never decreases, and gets a float one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.batching import regrouped
from ingest.index_scan import Doubles, coordinates_of
from ingest.obs_columns import TextColumn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.index_scan import IndexScan

__all__ = ["BUCKET_ROWS", "read_sorted", "sort_cells"]

BUCKET_ROWS = 1 << 21
"""Sorted in memory at once: some 200 MB of the default columns of a Census, and as much again meanwhile."""

_MOST_BUCKETS = 512
"""Each is an open file."""

_SPILL_ROWS = 1 << 20
"""Rows that are split at once: the more, the longer the pieces in which buckets are written."""

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def sort_cells(scan: IndexScan, folder: Path, *, bucket_rows: int = BUCKET_ROWS) -> Path:
    """Write the cells of an index in source order and return the file; texts are numbered in that order from then on.

    Parameters
    ----------
    scan
        Of the index.
    folder
        For the file and, meanwhile, as much again; at most one bucket is in memory, twice.
    bucket_rows
        Rows that a bucket has on average.

    Raises
    ------
    ConfigError
        Cells stand twice (kind ``duplicate-cells``).
    """
    key = _Key(scan)
    bounds = key.bounds(min(_MOST_BUCKETS, -(-scan.n_cells // bucket_rows)))
    buckets = _spill(scan, key, bounds, folder)
    doubles, orders = (
        Doubles(),
        {column.name: _FirstSeen(column) for column in scan.columns if isinstance(column, TextColumn)},
    )
    path = folder / "sorted.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, scan.stored_schema, options=_LZ4) as writer:
        for bucket in buckets:
            rows = _sorted_rows(bucket, key, doubles)
            bucket.unlink()
            if rows is not None:
                writer.write_batch(_renumbered(rows, orders))
    doubles.refuse(scan.sources, scan.file.path)
    for order in orders.values():
        order.settle()
    return path


def read_sorted(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield what `sort_cells` wrote."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        yield from reader


class _Key:
    """A float for every cell that does not decrease in source order."""

    def __init__(self, scan: IndexScan) -> None:
        self._is_h5ad, self._sample = scan.is_h5ad, scan.sample
        self._base = np.concatenate([[0.0], np.cumsum(scan.largest.astype(np.float64) + 1)[:-1]])

    def places(self, batch: pa.RecordBatch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return source and coordinate of the cells."""
        codes, joinids, rows = (batch.column(at).to_numpy() for at in range(3))
        return codes, coordinates_of(codes, joinids, rows, self._is_h5ad)

    def of(self, codes: np.ndarray[Any, Any], coordinates: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        keys: np.ndarray[Any, Any] = self._base[codes] + coordinates
        return keys

    def bounds(self, n_buckets: int) -> np.ndarray[Any, Any]:
        """Return the least keys of all buckets but the first, ascending."""
        codes, coordinates = (np.concatenate(parts) for parts in zip(*self._sample, strict=True))
        keys = np.sort(self.of(codes, coordinates))
        bounds: np.ndarray[Any, Any] = np.unique(keys[np.arange(1, n_buckets) * len(keys) // n_buckets])
        return bounds


def _spill(scan: IndexScan, key: _Key, bounds: np.ndarray[Any, Any], folder: Path) -> list[Path]:
    """Split the cells by `bounds` into files, in the order of the index within each."""
    paths = [folder / f"bucket-{number:05d}.arrow" for number in range(len(bounds) + 1)]
    sinks = [pa.OSFile(str(path), "wb") for path in paths]
    try:
        writers = [pa.ipc.new_stream(sink, scan.stored_schema, options=_LZ4) for sink in sinks]
        for batch in regrouped(scan.stored(), _SPILL_ROWS):
            mine = np.searchsorted(bounds, key.of(*key.places(batch)), side="right").astype(np.uint16)
            grouped = batch.take(pa.array(np.argsort(mine, kind="stable")))
            edges = np.concatenate([[0], np.cumsum(np.bincount(mine, minlength=len(paths)))]).tolist()
            for writer, low, high in zip(writers, edges, edges[1:], strict=False):
                if high > low:
                    writer.write_batch(grouped.slice(low, high - low))
        for writer in writers:
            writer.close()
    finally:
        for sink in sinks:
            sink.close()
    return paths


def _sorted_rows(bucket: Path, key: _Key, doubles: Doubles) -> pa.RecordBatch | None:
    rows = next(iter(regrouped(read_sorted(bucket), None)), None)
    if rows is None:
        return None
    codes, coordinates = key.places(rows)
    order = np.lexsort((coordinates, codes))
    doubles.follow(codes[order], coordinates[order])
    return rows.take(pa.array(order))


class _FirstSeen:
    """The codes of a text column in order of first appearance, while its rows go by in their final order."""

    def __init__(self, column: TextColumn) -> None:
        self._column = column
        self._recode = np.full(len(column.texts) + 1, -2, np.int32)
        self._recode[-1] = -1
        self._first: list[int] = []

    def renumber(self, codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = self._recode[codes]
        unseen = found == -2
        if unseen.any():
            fresh, at = np.unique(codes[unseen], return_index=True)
            fresh = fresh[np.argsort(at)]
            self._recode[fresh] = np.arange(len(self._first), len(self._first) + len(fresh))
            self._first += fresh.tolist()
            found = self._recode[codes]
        return found

    def settle(self) -> None:
        self._column.reorder(self._first)


def _renumbered(rows: pa.RecordBatch, orders: dict[str, _FirstSeen]) -> pa.RecordBatch:
    columns = [
        pa.array(orders[name].renumber(column.to_numpy())) if name in orders else column
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
