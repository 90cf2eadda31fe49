"""A Census that nobody has to hold: indexes, surveys, plans and receipts without cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.cells import read_cells
from ingest.committing import commit_plan
from ingest.digest import rows_digest
from ingest.encode.base import Offsets
from ingest.genes import Genes
from ingest.layout import RECEIPTS
from ingest.ledger.receipts import ChunkReceipt, Receipt
from ingest.plan_rows import plan_batches
from ingest.planning import draft_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.source import Source
from ingest.store.local import LocalStore
from ingest.survey.model import SourceSurvey

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from ingest.opened import OpenPlan
    from ingest.plan import Plan

__all__ = ["SOURCE", "simulated_plan", "simulated_survey", "write_index", "write_receipts"]

SOURCE = "census://2025-11-08/homo_sapiens"
_BATCH_ROWS = 1 << 16
_LABELS = {"assay": 20, "cell_type": 800, "tissue": 300, "tissue_general": 60, "suspension_type": 3, "disease": 120}
_STRIDE = 61_803_399
"""Coprime to any number of rows that is used here: rows far apart follow each other, each comes once."""

_N_GENES = 60_530
_NNZ_PER_CELL = 2_440
_STORED_BYTES_PER_NNZ = 2
_HDF5_CHUNKS = 20
"""Of each array of a file."""


def simulated_survey(n_obs: int) -> SourceSurvey:
    """Return what surveying a Census of `n_obs` cells would find."""
    ids = tuple(f"ENSG{at:011d}" for at in range(_N_GENES))
    nnz = n_obs * _NNZ_PER_CELL
    return SourceSurvey(
        source=Source.parse(SOURCE),
        n_obs=n_obs,
        layout="soma",
        matrix="RNA/X/raw",
        dtype="float32",
        nnz=nnz,
        band_rows=2048,
        stored_bytes=nnz * _STORED_BYTES_PER_NNZ,
        names_unique=True,
        genes=Genes(ids, ids, (1000,) * _N_GENES),
        presence={},
        integer=True,
        datasets={},
    )


def simulated_plan(folder: Path, n_chunks: int, cells_per_chunk: int) -> OpenPlan:
    """Commit a plan of so many chunks to ``folder/dest``."""
    index = folder / "index.feather"
    write_index(index, n_chunks * cells_per_chunk, shuffled=False)
    cells = read_cells(index)
    survey = simulated_survey(int(cells.largest[0]) + 1)
    settings, work = DataSettings(cells_per_chunk=cells_per_chunk), WorkSettings(scratch=folder)
    draft = draft_plan(cells, [survey], settings, work, created="", versions={}, recorded={})
    opened = commit_plan(LocalStore(folder / "dest"), draft)
    draft.close()
    index.unlink()
    return opened


def write_receipts(opened: OpenPlan, dest: Path, chunks: Container[int]) -> None:
    """Write receipts of `chunks` that agree with the plan, as files: syncing each would take longer than to measure."""
    plan = opened.plan
    (dest / RECEIPTS).mkdir(parents=True, exist_ok=True)
    for batch in plan_batches(opened, ("source", "soma_joinid", "row")):
        first = batch.first // plan.identity.cells_per_chunk
        for chunk in range(first, plan.n_chunks):
            start, stop = plan.rows(chunk)
            if start >= batch.first + len(batch.table):
                break
            if chunk in chunks:
                rows = rows_digest(batch.rows.codes(start, stop), batch.rows.coordinates(start, stop))
                receipt = Receipt(plan.identity.digest, "benchmark", (_chunk_receipt(plan, chunk, rows),))
                (dest / receipt.key).write_bytes(receipt.seal())


def _chunk_receipt(plan: Plan, chunk: int, rows: str) -> ChunkReceipt:
    n_cells = plan.rows(chunk)[1] - plan.rows(chunk)[0]
    places, sizes = tuple(range(10_000, 10_000 + 50_000 * _HDF5_CHUNKS, 50_000)), (49_999,) * _HDF5_CHUNKS
    offsets = tuple(Offsets(name, (65_536,), places, sizes) for name in ("X/data", "X/indices"))
    return ChunkReceipt(
        chunk=chunk,
        key=plan.key(chunk),
        size=n_cells * 4_000,
        sha256=f"{chunk:064x}",
        rows=rows,
        content=f"{chunk:032x}",
        n_cells=n_cells,
        nnz=n_cells * _NNZ_PER_CELL,
        sum=n_cells * 3.0 * _NNZ_PER_CELL,
        maximum=5000.0,
        dtype="float32",
        sources=((0, n_cells),),
        cell_sums=f"{chunk:032x}",
        offsets=offsets,
    )


def write_index(path: Path, n_rows: int, *, shuffled: bool) -> None:
    """Write an index with the default columns of a Census, in streamed batches: one source, every third cell left out.

    Datasets lie together as in a Census; all other labels change from cell to cell, which nothing compresses.
    """
    rng = np.random.default_rng(0)
    texts = {name: pa.array([f"{name} number {at}" for at in range(count)]) for name, count in _LABELS.items()}
    texts["dataset_id"] = pa.array([f"{at:08x}-0000-4000-8000-000000000000" for at in range(1500)])
    texts["source"] = pa.array([SOURCE])
    stride = _STRIDE if np.gcd(_STRIDE, n_rows) == 1 else 1
    writer: pa.ipc.RecordBatchFileWriter | None = None
    with pa.OSFile(str(path), "wb") as sink:
        for start in range(0, n_rows, _BATCH_ROWS):
            rows = np.arange(start, min(start + _BATCH_ROWS, n_rows), dtype=np.int64)
            if shuffled:
                rows = rows * stride % n_rows
            batch = _batch(rows, n_rows, texts, rng)
            if writer is None:
                writer = pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
            writer.write_batch(batch)
        if writer is not None:
            writer.close()


def _batch(rows: Any, n_rows: int, texts: dict[str, pa.Array], rng: np.random.Generator) -> pa.RecordBatch:
    codes = {name: rng.integers(0, len(texts[name]), len(rows), np.int32) for name in _LABELS}
    codes["source"] = np.zeros(len(rows), np.int32)
    codes["dataset_id"] = (rows * len(texts["dataset_id"]) // n_rows).astype(np.int32)
    nnz = rng.integers(500, 5000, len(rows))
    columns = {name: pa.DictionaryArray.from_arrays(pa.array(codes[name]), texts[name]) for name in codes}
    columns |= {"soma_joinid": pa.array(rows * 3 // 2), "nnz": pa.array(nnz), "raw_sum": pa.array(nnz * 3.0)}
    order = ["source", "soma_joinid", *_LABELS, "dataset_id", "nnz", "raw_sum"]
    return pa.RecordBatch.from_arrays([columns[name] for name in order], order)
