"""Record batches of another length, and made ahead of who takes them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read_ahead", "regrouped"]


T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield `items` while the next is made in a thread: reading, decoding and hashing wait for each other no more."""
    with ThreadPoolExecutor(1) as maker:
        following = maker.submit(next, items, None)
        while (item := following.result()) is not None:
            following = maker.submit(next, items, None)
            yield item


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
