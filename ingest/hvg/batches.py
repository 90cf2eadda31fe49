"""Batches of cells: the values of one obs column of the index, as texts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import ConfigError
from ingest.grammar.suggest import unknown_column
from ingest.index_scan import COORDINATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan

__all__ = ["ALL", "batch_codes", "count_batches"]

ALL = ""
"""The one batch that all cells are in when nobody asks for several."""

_SOURCE = "source"


def batch_codes(column: pa.Array | pa.ChunkedArray) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int32]]]:
    """Return the distinct values of a column as texts, and int32 codes ``(n_cells,)`` into them.

    Raises
    ------
    ConfigError
        A cell has no value (kind ``bad-batch-key``).
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(whole, pa.ChunkedArray):  # pyarrow returns one chunked array when there are no chunks at all
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    if not pa.types.is_dictionary(whole.type):
        whole = pc.dictionary_encode(whole)
    if whole.null_count or whole.dictionary.null_count:
        raise ConfigError("a cell has no value", kind="bad-batch-key")
    texts = [str(value) for value in whole.dictionary.to_pylist()]
    found, codes = np.unique(whole.indices.to_numpy(), return_inverse=True)
    return [texts[at] for at in found], codes.astype(np.int32).reshape(-1)


def count_batches(opened: OpenPlan, key: str, chunks: Sequence[ChunkReceipt]) -> Mapping[str, int]:
    """Return batch -> cells that `chunks` hold, in order of the batches' names.

    Raises
    ------
    ConfigError
        No such column (kind ``unknown-column``), or cells without a value (kind ``bad-batch-key``).
    CorruptError
        The plan's index is damaged.
    """
    found: Counter[str] = Counter()
    wanted = {chunk.chunk: chunk for chunk in chunks}
    whole = len(wanted) == opened.plan.n_chunks and not any(chunk.dropped for chunk in chunks)
    plan, first = opened.plan, 0
    for batch in opened.index.batches(plan.n_cells, (_SOURCE, *COORDINATES, key)):
        if key not in batch.schema.names:
            names = [name for name in opened.index.rows(0, 1).column_names if name not in COORDINATES]
            raise unknown_column(key, names, "the cells of this dataset")
        size = plan.identity.cells_per_chunk
        numbers = np.arange(first, first + len(batch)) // size
        first += len(batch)
        column = batch.column(key)
        if not whole:
            column = column.filter(pa.array(_held(plan.identity.sources, wanted, numbers, batch.column(_SOURCE))))
        try:
            texts, codes = batch_codes(column)
        except ConfigError as error:
            raise ConfigError(
                f"--batch-key {key}: some cells have no value there",
                kind=error.kind,
                hint="take another column, or make a dataset of the cells that have one",
            ) from error
        found.update(dict(zip(texts, np.bincount(codes, minlength=len(texts)).tolist(), strict=True)))
    return dict(sorted(found.items()))


def _held(
    sources: Sequence[str],
    chunks: Mapping[int, ChunkReceipt],
    numbers: np.ndarray[Any, np.dtype[np.int64]],
    column: pa.Array,
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which planned cells, of chunk `numbers` and source `column`, the chunks really hold, bool ``(n,)``."""
    held = np.isin(numbers, list(chunks))
    for number in np.unique(numbers[held]).tolist():
        if chunks[number].dropped:
            has = pa.array([sources[source] for source, _ in chunks[number].sources], pa.string())
            held &= (numbers != number) | pc.is_in(column.cast(pa.string()), has).to_numpy(zero_copy_only=False)
    return held
