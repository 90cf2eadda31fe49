"""The end of a dataset: every receipt is held against the plan, then the summaries are written. Reads no chunk."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.cells_digest import CellsDigest
from ingest.cells_json import keeps_cells_json, write_cells_json
from ingest.chunk_rows import committed_rows
from ingest.digest import rows_digest
from ingest.errors import AlreadyExistsError, CorruptError, PreconditionError
from ingest.layout import SUCCESS_KEY
from ingest.opened import amended
from ingest.plan_rows import plan_batches
from ingest.samples import SampleCounts
from ingest.scratch import Scratch
from ingest.store.base import exists
from ingest.store.body import holds, open_body
from ingest.summaries import Dataset, OffsetTable, dataset_digest, summaries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ingest.amendments import LeftOut
    from ingest.chunk_rows import ChunkRows
    from ingest.ledger.receipts import ChunkReceipt, Receipt
    from ingest.opened import OpenPlan
    from ingest.plan_rows import PlanBatch
    from ingest.store.base import Store
    from ingest.unit_rows import UnitRows

__all__ = ["Finished", "check_chunk", "check_plan", "collect_dataset", "finish", "read_chunks", "with_cells_json"]

_ROUNDS = 5
"""How often summaries are made again because another driver finished more meanwhile."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What the dataset came to."""

    complete: bool
    n_cells: int
    n_chunks: int
    nnz: int
    bytes: int
    digest: str
    """Content digest of the whole dataset, as in ``_SUCCESS.json``."""
    left_out: tuple[LeftOut, ...]
    """What its chunks lack of the plan, whoever left it out."""


def check_plan(opened: OpenPlan, receipt: Receipt) -> None:
    """Check that `receipt` is one of this plan's.

    Raises
    ------
    CorruptError
        It names another.
    """
    if receipt.plan != opened.plan.identity.digest:
        raise CorruptError(f"{receipt.key} belongs to another plan ({receipt.plan})", key=receipt.key)


def check_chunk(opened: OpenPlan, rows: UnitRows, chunk: ChunkReceipt) -> ChunkReceipt:
    """Return `chunk` after holding it against the plan and its amendments: its key, how many cells, which, of whom.

    Parameters
    ----------
    rows
        At least the chunk's own rows.

    Raises
    ------
    CorruptError
        It commits something else (kind ``receipt-disagrees``).
    """
    _check_planned(opened, chunk)
    mine = committed_rows(opened, rows, chunk)
    if (
        chunk.key != opened.plan.key(chunk.chunk)
        or chunk.n_cells != len(mine)
        or chunk.rows != rows_digest(mine.codes, mine.coordinates)
        or sorted(chunk.sources) != _sources(mine)
    ):
        raise _disagrees(opened, chunk)
    return chunk


def _check_planned(opened: OpenPlan, chunk: ChunkReceipt) -> None:
    """Refuse a number that the plan does not have: whatever counts chunks takes it as it is."""
    if chunk.chunk >= opened.plan.n_chunks:
        raise _disagrees(opened, chunk)


def _sources(rows: ChunkRows) -> list[tuple[int, int]]:
    """Return (number of the source, its cells), ascending."""
    cells = np.bincount(rows.codes)  # np.unique takes a millisecond and a half: of 100,000 chunks, minutes
    numbers = np.flatnonzero(cells)
    return list(zip(numbers.tolist(), cells[numbers].tolist(), strict=True))


def _disagrees(opened: OpenPlan, chunk: ChunkReceipt) -> CorruptError:
    return CorruptError(
        f"the receipt of chunk {chunk.chunk} commits other cells than the plan asks for",
        kind="receipt-disagrees",
        hint=f"`repair {opened.store.url}` makes it again",
        chunk=chunk.chunk,
    )


def finish(opened: OpenPlan, *, scratch: Path | None = None, cells_json: bool = False) -> Finished:
    """Check all receipts and write the summaries; ``_SUCCESS.json`` only when no chunk is missing.

    Other drivers may be at it, too. Nothing is written over summaries of more chunks, or over those of a dataset that
    was finished: whoever dies in here leaves what others have finished as it was.

    Parameters
    ----------
    scratch
        Where obs of all cells is collected before it is put; the system's temporary folder when None.
    cells_json
        Write it as JSON, too; where it was once, it is anyway.

    Raises
    ------
    CorruptError
        A receipt disagrees with the plan, or the index is damaged: nothing is written then.
    PreconditionError
        Somebody else keeps writing other summaries.
    """
    folder = Scratch(scratch)
    try:
        for left in reversed(range(_ROUNDS)):
            chunks, offsets = read_chunks(opened)
            # After the receipts: whatever these lack was permitted before they were written.
            opened = amended(opened)
            with folder.guarded():
                dataset = collect_dataset(opened, chunks, offsets, folder.path / f"cells-{left}.feather")
                if cells_json or keeps_cells_json(opened):
                    dataset = with_cells_json(dataset)
            if _write_all(dataset, last_try=left == 0):
                break
    finally:
        folder.close()
    return Finished(
        complete=dataset.complete,
        n_cells=dataset.n_cells,
        n_chunks=len(chunks),
        nnz=dataset.nnz,
        bytes=dataset.bytes,
        digest=dataset_digest(chunks),
        left_out=dataset.left_out,
    )


def read_chunks(opened: OpenPlan) -> tuple[list[ChunkReceipt], OffsetTable]:
    """Return what the receipts say of the chunks that exist, in order, offsets apart.

    Raises
    ------
    CorruptError
        A receipt is damaged, belongs to another plan, names a chunk that this one has not, or two disagree.
    """
    chunks: dict[int, ChunkReceipt] = {}
    offsets = OffsetTable()
    for receipt in opened.ledger.receipts():
        check_plan(opened, receipt)
        for chunk in receipt.chunks:
            standing = chunks.get(chunk.chunk)
            if standing is None:
                _check_planned(opened, chunk)
                offsets.add(chunk)
                chunks[chunk.chunk] = replace(chunk, offsets=())
            elif standing.content != chunk.content:
                raise CorruptError(f"two receipts of chunk {chunk.chunk} disagree", key=receipt.key, chunk=chunk.chunk)
    return [chunks[number] for number in sorted(chunks)], offsets


def collect_dataset(opened: OpenPlan, chunks: Sequence[ChunkReceipt], offsets: OffsetTable, path: Path) -> Dataset:
    """Hold `chunks` against the plan while its rows go by, and collect from these what summaries say of cells.

    Parameters
    ----------
    chunks
        Those that exist, in order, each once.
    path
        Of the new file for obs of their cells, uncompressed so that it maps into memory.

    Raises
    ------
    CorruptError
        A receipt commits something else than the plan asks for, or the index does not hold the plan's cells.
    """
    plan, digest, samples = opened.plan, CellsDigest(), SampleCounts(opened)
    left = deque(chunks)
    with pa.OSFile(str(path), "wb") as sink, ExitStack() as stack:
        writer: pa.ipc.RecordBatchFileWriter | None = None
        for batch in plan_batches(opened):
            digest.add(batch.table.to_batches()[0])
            mine = _checked(opened, batch, left)
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_file(sink, batch.table.schema))
            if len(mine):
                whole = len(mine) == len(batch.table)
                kept = batch.table if whole else batch.table.take(pa.array(mine))
                samples.add(kept, batch.codes if whole else batch.codes[mine])
                writer.write_table(kept)
    if digest.hexdigest() != plan.identity.cells:
        key = plan.files["index"]
        message = f"{opened.store.url}/{key} does not hold the cells that plan.json names"
        raise CorruptError(message, kind="plan-damaged", key=key)
    return Dataset(opened, chunks, offsets, samples.experiments(), path)


def with_cells_json(dataset: Dataset) -> Dataset:
    """Return the same with its cells as JSON, beside the table of them."""
    path = write_cells_json(dataset.cells, dataset.cells.with_suffix(".json"), complete=dataset.complete)
    return replace(dataset, cells_json=path)


def _checked(opened: OpenPlan, batch: PlanBatch, left: deque[ChunkReceipt]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Take the chunks of `batch` from `left`, hold each against the plan and return their rows within it."""
    stop, rows = batch.first + len(batch.table), [np.empty(0, np.int64)]
    while left and left[0].chunk * opened.plan.identity.cells_per_chunk < stop:
        chunk = check_chunk(opened, batch.rows, left.popleft())
        rows.append(committed_rows(opened, batch.rows, chunk).places - batch.first)
    return np.concatenate(rows)


def _write_all(dataset: Dataset, *, last_try: bool) -> bool:
    """Write every summary; False when others have finished more, or wrote one, in between."""
    # Looked for before receipts are listed: whoever finished had all of them.
    was_finished = not dataset.complete and exists(dataset.opened.store, SUCCESS_KEY)
    if _is_outgrown(dataset):
        return False
    if was_finished:
        return True  # its receipts are lost: the summaries are all that still says what they held
    try:
        written = all(_write(dataset, key, data) for key, data in summaries(dataset))
    except PreconditionError:
        if last_try:
            raise
        return False
    return written and not _is_outgrown(dataset)


def _is_outgrown(dataset: Dataset) -> bool:
    """Say whether there are receipts of more chunks than `dataset` has; of a complete one, without asking."""
    return not dataset.complete and not dataset.opened.ledger.done() <= {chunk.chunk for chunk in dataset.chunks}


def _write(dataset: Dataset, key: str, data: bytes | Path) -> bool:
    """Put a summary, or replace the older one of a dataset that has grown since; False when it is the newer one."""
    store = dataset.opened.store
    try:
        if isinstance(data, bytes):
            store.put_new(key, data)
        else:
            store.put_new_file(key, data)
    except AlreadyExistsError:
        # The version before the bytes: what is replaced is then what was looked at, or nothing.
        version = store.stat(key).version
        if _is_there(store, key, data):
            return True
        # And before the receipts: who finishes more after this listing replaces that version, too.
        if _is_outgrown(dataset):
            return False
        if isinstance(data, bytes):
            store.replace(key, data, expected=version)
        else:
            store.replace_file(key, data, expected=version)
    return True


def _is_there(store: Store, key: str, data: bytes | Path) -> bool:
    if isinstance(data, bytes):
        return store.get(key) == data
    with open_body(data) as body:
        return holds(store, key, body)
