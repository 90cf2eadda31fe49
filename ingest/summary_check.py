"""Are the summaries what the receipts say? They are made again in memory and compared by meaning, not by byte."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.deep import same_column
from ingest.errors import NotFoundError
from ingest.findings import Finding
from ingest.layout import (
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
from ingest.summaries import Dataset, summaries

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

_UNREADABLE = (pa.ArrowException, zipfile.BadZipFile, zlib.error)


def summary_findings(opened: OpenPlan, chunks: Sequence[ChunkReceipt]) -> Iterator[Finding]:
    """Yield each summary that is there and says something else than plan and receipts.

    Parameters
    ----------
    chunks
        Of a complete dataset, in order, each found good.
    """
    dataset = Dataset(opened, opened.index.rows(0, opened.plan.n_cells), chunks)
    for key, wanted in summaries(dataset):
        try:
            found = opened.store.get(key)
        except NotFoundError:
            continue
        if found != wanted and not _same(key, wanted, found):
            yield Finding("summary-differs", f"{key} does not say what the receipts say", key=key)


def _same(key: str, wanted: bytes, found: bytes) -> bool:
    """Compare by meaning: another release of Arrow or numpy may spell the same table in other bytes."""
    same = {".json": _same_json, ".feather": _same_table, ".npz": _same_arrays}
    try:
        return same[key[key.rindex(".") :]](wanted, found)
    except (ValueError, KeyError, OSError, EOFError, NotImplementedError, *_UNREADABLE):
        return False  # what cannot be read does not say the same


def _same_json(wanted: bytes, found: bytes) -> bool:
    one, other = json.loads(wanted), json.loads(found)
    return bool(one == other)


def _same_table(wanted: bytes, found: bytes) -> bool:
    one, other = (pa.ipc.open_file(pa.BufferReader(data)).read_all() for data in (wanted, found))
    return one.column_names == other.column_names and all(
        same_column(one[name], other[name]) for name in one.column_names
    )


def _same_arrays(wanted: bytes, found: bytes) -> bool:
    one, other = _arrays(wanted), _arrays(found)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _arrays(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
