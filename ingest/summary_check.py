"""Are the summaries what the receipts say? They are made again in memory and compared by meaning, not by byte."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.arrow_ranges import anybodys_batches
from ingest.cells_json import keeps_cells_json
from ingest.deep import same_column
from ingest.errors import NotFoundError
from ingest.findings import Finding
from ingest.finish import collect_dataset, with_cells_json
from ingest.layout import (
    CELLS_JSON_KEY,
    CELLS_KEY,
    CHUNK_INDEX_KEY,
    CHUNK_OFFSETS_KEY,
    CHUNK_SUMMARY_KEY,
    CONFIG_KEY,
    EXPERIMENTS_KEY,
    GENE_LIST_KEY,
    PRESENCE_KEY,
    PROCESSING_KEY,
    SUCCESS_KEY,
)
from ingest.scratch import Scratch
from ingest.store.body import holds, open_body
from ingest.summaries import OffsetTable, summaries
from ingest.unpacked import UnpackLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan

__all__ = ["SUMMARY_KEYS", "summary_findings"]

SUMMARY_KEYS = (
    GENE_LIST_KEY,
    CHUNK_INDEX_KEY,
    CHUNK_OFFSETS_KEY,
    CHUNK_SUMMARY_KEY,
    PROCESSING_KEY,
    CONFIG_KEY,
    EXPERIMENTS_KEY,
    PRESENCE_KEY,
    CELLS_KEY,
    SUCCESS_KEY,
)

_UNREADABLE_TABLE = (pa.ArrowException, OSError, ValueError, KeyError)


def summary_findings(
    opened: OpenPlan, chunks: Sequence[ChunkReceipt], offsets: OffsetTable, *, scratch: Path | None = None
) -> Iterator[Finding]:
    """Yield each summary that is there and says something else than plan and receipts.

    Parameters
    ----------
    chunks
        Of a complete dataset, in order, each found good; their offsets may stand in `offsets` alone.
    scratch
        Where the table of all cells is made again; the system's temporary folder when None.

    Raises
    ------
    CorruptError
        The plan's index is damaged.
    """
    folder = Scratch(scratch)
    try:
        with folder.guarded():
            dataset = collect_dataset(opened, chunks, offsets, folder.path / "cells.feather")
            if keeps_cells_json(opened):
                dataset = with_cells_json(dataset)
        for key, wanted in summaries(dataset):
            try:
                same = _same_file(opened, key, wanted) if isinstance(wanted, Path) else _same(opened, key, wanted)
            except NotFoundError:
                continue
            if not same:
                yield Finding("summary-differs", f"{key} does not say what the receipts say", key=key)
    finally:
        folder.close()


def _same_file(opened: OpenPlan, key: str, wanted: Path) -> bool:
    """Compare a table too large for memory, batch by batch, by meaning."""
    with open_body(wanted) as body:
        if holds(opened.store, key, body):
            return True
    if key == CELLS_JSON_KEY:
        return False  # there is one way to write it
    with pa.OSFile(str(wanted)) as source:
        reader = pa.ipc.open_file(source)
        mine = (reader.get_batch(at) for at in range(reader.num_record_batches))
        try:
            return _same_rows(mine, anybodys_batches(opened.store, key))
        except _UNREADABLE_TABLE:
            return False  # what cannot be read does not say the same


def _same_rows(wanted: Iterator[pa.RecordBatch], found: Iterator[pa.RecordBatch]) -> bool:
    """Say whether two streams of batches hold equal rows, wherever their batches end."""
    one, other = pa.table({}), pa.table({})
    while True:
        one, other = _more(one, wanted), _more(other, found)
        n_rows = min(len(one), len(other))
        if not n_rows:
            return len(one) == len(other)
        if one.column_names != other.column_names or not all(
            same_column(one[name].slice(0, n_rows), other[name].slice(0, n_rows)) for name in one.column_names
        ):
            return False
        one, other = one.slice(n_rows), other.slice(n_rows)


def _more(held: pa.Table, batches: Iterator[pa.RecordBatch]) -> pa.Table:
    """Return what is held, or where that is nothing the next batch that is not empty."""
    while not len(held):
        batch = next(batches, None)
        if batch is None:
            break
        held = pa.Table.from_batches([batch])
    return held


def _same(opened: OpenPlan, key: str, wanted: bytes) -> bool:
    """Compare by meaning: another release of Arrow or numpy may spell the same table in other bytes."""
    found = opened.store.get(key)
    if found == wanted:
        return True
    same = {".json": _same_json, ".feather": _same_table, ".npz": _same_arrays}
    try:
        return same[key[key.rindex(".") :]](wanted, found)
    except (pa.ArrowException, ValueError, KeyError, OSError, RecursionError, MemoryError):
        return False  # what cannot be read does not say the same


def _same_json(wanted: bytes, found: bytes) -> bool:
    one, other = json.loads(wanted), json.loads(found)
    return bool(one == other)


def _same_table(wanted: bytes, found: bytes) -> bool:
    UnpackLimit(memoryview(found)).check_whole()
    one, other = (pa.ipc.open_file(pa.BufferReader(data)).read_all() for data in (wanted, found))
    other.validate(full=True)  # Arrow believes what a file says of itself
    return one.column_names == other.column_names and all(
        same_column(one[name], other[name]) for name in one.column_names
    )


def _same_arrays(wanted: bytes, found: bytes) -> bool:
    one, other = _arrays(wanted), _arrays(found)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _arrays(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # damage makes zipfile, zlib and numpy raise anything
        raise ValueError(f"it is no archive of arrays ({error})") from error
