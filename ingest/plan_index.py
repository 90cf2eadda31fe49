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

__all__ = ["READ_AHEAD_BYTES", "IndexWriter", "PlanIndex", "batch_rows", "open_arrow"]

_BATCH_ROWS = 1 << 16
_TRIES = 2
"""Readings of a range before its blocks count as damaged: a transfer may be at fault, once."""
READ_AHEAD_BYTES = 16 << 20
"""What is fetched at once by whoever reads the whole index."""


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


class _RangeFile(io.RawIOBase):
    """A seekable file over ranges of one object, for Arrow.

    Whoever reads on from the beginning has `ahead_bytes` fetched at once. With `blocks`, whole ones are fetched, and
    what is not as they say is never delivered.
    """

    def __init__(self, store: Store, key: str, ahead_bytes: int, blocks: IndexBlocks | None = None) -> None:
        super().__init__()
        self._store, self._key, self._ahead, self._blocks = store, key, ahead_bytes, blocks
        self._size = store.stat(key).size if blocks is None else blocks.size
        self._at = 0
        self._held_from, self._held = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        wanted = self._size - self._at if size < 0 else size
        data = self._range(self._at, max(0, min(wanted, self._size - self._at)))
        self._at += len(data)
        return data

    def _range(self, start: int, length: int) -> bytes:
        if not length:
            return b""
        if self._held_from <= start and start + length <= self._held_from + len(self._held):
            return self._held[start - self._held_from : start - self._held_from + length]
        if self._blocks is None and length >= self._ahead:
            return self._store.get_range(self._key, start, length)
        stop = min(start + max(length, self._ahead), self._size)
        self._held_from, self._held = start, b""  # what was held goes before as much again comes
        self._held_from, self._held = self._fetched(start, stop)
        return self._held[start - self._held_from : start - self._held_from + length]

    def _fetched(self, start: int, stop: int) -> tuple[int, bytes]:
        """Return the bytes ``[start, stop)``, or whole blocks around them, and where these begin."""
        if self._blocks is None:
            return start, self._store.get_range(self._key, start, stop - start)
        start, stop = self._blocks.around(start, stop)
        for _ in range(_TRIES):
            data = self._store.get_range(self._key, start, stop - start)
            if len(data) == stop - start and self._blocks.are(start, data):
                return start, data
        raise CorruptError(
            f"{self._store.url}/{self._key} is not what plan.json names in bytes {start:,} to {stop:,};"
            " no chunk can be made from it",
            kind="plan-damaged",
            hint="chunks that verify finds good stay good; ingest the others into another destination",
            key=self._key,
        )


def open_arrow(
    store: Store,
    key: str,
    ahead_bytes: int = 0,
    wanted: Sequence[int] = (),
    blocks: IndexBlocks | None = None,
) -> pa.ipc.RecordBatchFileReader:
    """Open an Arrow file in a store.

    Parameters
    ----------
    ahead_bytes
        Fetch as much at once, `READ_AHEAD_BYTES` for reading on from the beginning; 0 fetches what is asked for.
    wanted
        Decode these columns only; none stands for all.
    blocks
        Digests that what is read must have.

    Raises
    ------
    NotFoundError
        There is no such object.
    CorruptError
        It does not have the digests.
    pyarrow.ArrowException, OSError
        It is no Arrow file.
    """
    options = pa.ipc.IpcReadOptions(included_fields=list(wanted))
    return pa.ipc.open_file(pa.PythonFile(_RangeFile(store, key, ahead_bytes, blocks), mode="r"), options=options)


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
