"""The table of all cells once more, as JSON: one object a cell, on a line of its own, in the order of the chunks.

What the first downloader's users iterate over, and can cut by line. It says what ``cells.feather`` says, takes ten
times the room and a hundred times the time to read; so it is written for those who ask.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ingest.layout import CELLS_JSON_KEY, FORMAT_VERSION
from ingest.store.base import exists

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.opened import OpenPlan

__all__ = ["keeps_cells_json", "write_cells_json"]

_ROWS = 1 << 14
"""Cells in Python at a time: some 2 kB each."""


def keeps_cells_json(opened: OpenPlan) -> bool:
    """Say whether the dataset has, or was begun to have, its cells as JSON: it is then kept true to the chunks."""
    if opened.plan.provenance.settings.get("cells_json"):
        return True
    return exists(opened.store, CELLS_JSON_KEY)


def write_cells_json(cells: Path, path: Path, *, complete: bool) -> Path:
    """Write a document with the rows of a feather file under ``cells``; return `path`.

    Parameters
    ----------
    cells
        ``metadata/cells.feather``, or what is to become it.
    path
        Of the new file.
    complete
        Whether no chunk is missing.
    """
    with pa.memory_map(str(cells)) as source, path.open("w", encoding="utf-8") as sink:
        reader = pa.ipc.open_file(source)
        head = {"format_version": FORMAT_VERSION, "complete": complete, "columns": reader.schema.names}
        sink.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "cells": [')
        separator = "\n"
        for at in range(reader.num_record_batches):
            batch = reader.get_batch(at)
            for start in range(0, len(batch), _ROWS):
                for cell in _plain(batch.slice(start, _ROWS)).to_pylist():
                    sink.write(separator + json.dumps(cell, ensure_ascii=False, allow_nan=False))
                    separator = ",\n"
        sink.write("\n]}\n")
    return path


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the same with null for numbers that JSON does not have: NaN, and infinite ones."""
    columns = [
        pc.if_else(pc.is_finite(column), column, None) if pa.types.is_floating(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)
