"""Record batches of another length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["regrouped"]


def regrouped(batches: Iterator[pa.RecordBatch], n_rows: int | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `batches` in batches of exactly `n_rows`, the last shorter; None makes all of them one.

    Columns must not be dictionaries: those of different batches would have to be brought together.
    """
    held: list[pa.RecordBatch] = []
    count = 0
    for whole in batches:
        batch = whole
        while n_rows is not None and count + len(batch) >= n_rows:
            held.append(batch.slice(0, n_rows - count))
            yield _joined(held)
            batch, held, count = batch.slice(len(held[-1])), [], 0
        if len(batch):
            held.append(batch)
            count += len(batch)
    if held:
        yield _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
