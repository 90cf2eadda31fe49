"""Streams over tables in memory, cut at will."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ingest.errors import EmptySelectionError

if TYPE_CHECKING:
    import pyarrow as pa


class TableStream:
    """A table as a stream of batches of `rows`."""

    def __init__(self, table: pa.Table, rows: int = 1000) -> None:
        self.table = table
        self.rows = rows
        self.notes: tuple[str, ...] = ()
        self.passes = 0

    @property
    def schema(self):
        return self.table.schema

    @property
    def total(self):
        return len(self.table)

    def nothing(self):
        return EmptySelectionError("the table has no cells")

    def batches(self, columns=None):
        self.passes += 1
        table = self.table if columns is None else self.table.select(list(columns))
        for batch in table.to_batches():
            yield from (batch.slice(start, self.rows) for start in range(0, len(batch), self.rows))


@pytest.fixture(scope="session")
def table_stream():
    return TableStream
