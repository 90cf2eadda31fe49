"""The plan's own copy of the index: Arrow batches that end at chunk boundaries, read by byte range.

The distinct texts of a column are known before the first batch is written, so that each dictionary stands once, at the
beginning, and whoever wants a few rows reads it together with the batches that hold them. What is read is held against
the digests of its blocks (`ingest.index_blocks`); plans of earlier builds have none.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pyarrow as pa

from ingest.arrow_ranges import READ_AHEAD_BYTES, open_arrow
from ingest.errors import CorruptError, NotFoundError
from ingest.index_blocks import BlockHasher
from ingest.index_file import DictionaryCheck

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from typing_extensions import Buffer

    from ingest.index_blocks import IndexBlocks
    from ingest.store.base import Store

__all__ = ["IndexWriter", "PlanIndex", "batch_rows"]

_BATCH_ROWS = 1 << 16


def batch_rows(cells_per_chunk: int, most_rows: int = _BATCH_ROWS) -> int:
    """Return the rows of all batches but the last: whole chunks, at least one, of `most_rows` if that is no fewer."""
    return cells_per_chunk * max(1, most_rows // cells_per_chunk)


class IndexWriter:
    """Writes the plan's index to a local file; a context that closes it.

    Parameters
    ----------
    path
        Of the new file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _HashingFile(path)
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Write the next `batch_rows` cells; dictionaries are the same in all batches."""
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), batch.schema, options=options)
        self._writer.write_batch(batch)

    @property
    def sha256(self) -> str:
        """Of all bytes, once the file is closed: 64 hex digits."""
        return self._file.sha256.hexdigest()

    @property
    def blocks(self) -> IndexBlocks:
        """Digests of its parts, once the file is closed."""
        return self._file.blocks.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._file.close()


class _HashingFile(io.RawIOBase):
    """A new file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sha256, self.blocks = hashlib.sha256(), BlockHasher()
        self._raw = path.open("xb")

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self.sha256.update(data)
        self.blocks.add(data)
        return self._raw.write(data)

    def close(self) -> None:
        self._raw.close()
        super().close()


class PlanIndex:
    """Rows of the plan's index, fetched as they are asked for.

    Parameters
    ----------
    blocks
        Digests of what is fetched; None for an index of an earlier build, or on scratch.
    """

    def __init__(self, store: Store, key: str, cells_per_chunk: int, blocks: IndexBlocks | None = None) -> None:
        self._store, self._key, self._blocks = store, key, blocks
        self._batch_rows = batch_rows(cells_per_chunk)
        try:
            self._reader = open_arrow(store, key, blocks=blocks)
        except NotFoundError as error:
            raise CorruptError(f"{store.url}/{key} is gone; plan.json names it", key=key) from error
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(f"{key} is no Arrow file ({error})", key=key) from error

    def check_length(self, n_cells: int) -> None:
        """Refuse an index with more or fewer batches than so many cells have; none is read.

        Raises
        ------
        CorruptError
            It is not the plan's.
        """
        found, wanted = self._reader.num_record_batches, -(-n_cells // self._batch_rows)
        if found != wanted:
            raise CorruptError(
                f"{self._key}: {found:,} batches of cells where {wanted:,} were planned",
                kind="plan-damaged",
                key=self._key,
            )

    def rows(self, start: int, stop: int) -> pa.Table:
        """Return plan rows ``[start, stop)`` with all their columns.

        Raises
        ------
        CorruptError
            The file is damaged, or has fewer rows.
        """
        first, last = start // self._batch_rows, (stop - 1) // self._batch_rows
        try:
            batches = [self._reader.get_batch(at) for at in range(first, last + 1)]
            for batch in batches:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise CorruptError(
                f"{self._key}: cannot read rows {start:,} to {stop:,} ({error})", key=self._key
            ) from error
        table = pa.Table.from_batches(batches).slice(start - first * self._batch_rows, stop - start)
        if len(table) != stop - start:
            raise CorruptError(f"{self._key}: {len(table):,} rows where {stop - start:,} were planned", key=self._key)
        return table

    def batches(self, n_cells: int, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order; no chunk is in two batches.

        Parameters
        ----------
        n_cells
            Rows that the plan has.
        columns
            Decode only these, of those that there are; none stands for all.

        Raises
        ------
        CorruptError
            The file is damaged, or has another number of rows.
        """
        check, n_found = DictionaryCheck(), 0
        try:
            wanted = [at for at, name in enumerate(self._reader.schema.names) if name in columns]
            reader = open_arrow(self._store, self._key, READ_AHEAD_BYTES, wanted, self._blocks)
            for at in range(reader.num_record_batches):
                batch = reader.get_batch(at)
                check.validate(batch)
                n_found += len(batch)
                if len(batch) != min(self._batch_rows, n_cells - at * self._batch_rows):
                    break
                yield batch
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptError(f"{self._key}: cannot be read ({error})", key=self._key) from error
        if n_found != n_cells:
            raise CorruptError(f"{self._key}: {n_found:,} rows where {n_cells:,} were planned", key=self._key)
