"""The end of a dataset: every receipt is held against the plan, then the summaries are written. Reads no chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.digest import rows_digest
from ingest.errors import AlreadyExistsError, CorruptError, PreconditionError
from ingest.opened import whole_index
from ingest.summaries import Dataset, dataset_digest, summaries
from ingest.unit_rows import UnitRows

if TYPE_CHECKING:
    from ingest.ledger.receipts import ChunkReceipt, Receipt
    from ingest.opened import OpenPlan
    from ingest.store.base import Store

__all__ = ["Finished", "check_chunk", "check_plan", "checked_chunks", "finish"]

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


def checked_chunks(opened: OpenPlan, rows: UnitRows) -> list[ChunkReceipt]:
    """Return what the receipts say of the chunks that exist, in order, after holding each against the plan.

    Parameters
    ----------
    rows
        All rows of the plan.

    Raises
    ------
    CorruptError
        A receipt is damaged, or commits something else than the plan asks for.
    """
    chunks: dict[int, ChunkReceipt] = {}
    for receipt in opened.ledger.receipts():
        check_plan(opened, receipt)
        for chunk in receipt.chunks:
            standing = chunks.setdefault(chunk.chunk, chunk)
            if standing.content != chunk.content:
                raise CorruptError(f"two receipts of chunk {chunk.chunk} disagree", key=receipt.key, chunk=chunk.chunk)
    return [check_chunk(opened, rows, chunks[number]) for number in sorted(chunks)]


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
    """Return `chunk` after holding it against the plan: its key, its number of cells, which cells.

    Parameters
    ----------
    rows
        At least the chunk's own rows.

    Raises
    ------
    CorruptError
        It commits something else (kind ``receipt-disagrees``).
    """
    plan = opened.plan
    start, stop = plan.rows(chunk.chunk) if chunk.chunk < plan.n_chunks else (0, 0)
    if (
        stop == start
        or chunk.key != plan.key(chunk.chunk)
        or chunk.n_cells != stop - start
        or chunk.rows != rows_digest(rows.codes(start, stop), rows.coordinates(start, stop))
    ):
        raise CorruptError(
            f"the receipt of chunk {chunk.chunk} commits other cells than the plan asks for",
            kind="receipt-disagrees",
            hint=f"`repair {opened.store.url}` makes it again",
            chunk=chunk.chunk,
        )
    return chunk


def finish(opened: OpenPlan) -> Finished:
    """Check all receipts and write the summaries; ``_SUCCESS.json`` only when no chunk is missing.

    Raises
    ------
    CorruptError
        A receipt disagrees with the plan, or the index is damaged: nothing is written then.
    PreconditionError
        Somebody else keeps writing other summaries.
    """
    table = whole_index(opened)
    rows = UnitRows(opened, 0, table)
    for left in reversed(range(_ROUNDS)):
        chunks = checked_chunks(opened, rows)
        dataset = Dataset(opened, table, chunks)
        if not _write_all(opened.store, dataset, last_try=left == 0):
            continue
        # Another driver may have finished chunks, and its summaries, while these were written over them.
        if opened.ledger.done() <= {chunk.chunk for chunk in chunks}:
            break
    return Finished(dataset.complete, dataset.n_cells, len(chunks), dataset.nnz, dataset.bytes, dataset_digest(chunks))


def _write_all(store: Store, dataset: Dataset, *, last_try: bool) -> bool:
    """Write every summary; False when somebody else wrote one in between."""
    try:
        for key, data in summaries(dataset):
            _write(store, key, data)
    except PreconditionError:
        if last_try:
            raise
        return False
    return True


def _write(store: Store, key: str, data: bytes) -> None:
    """Put a summary, or replace the older one of a dataset that has grown since."""
    try:
        store.put_new(key, data)
    except AlreadyExistsError:
        # The version before the bytes: what is replaced is then what was looked at, or nothing.
        version = store.stat(key).version
        if store.get(key) != data:
            store.replace(key, data, expected=version)
