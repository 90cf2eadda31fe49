"""The plan's own copy of the index: Arrow batches that end at chunk boundaries, read by byte range."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa

from ingest.errors import CorruptError, NotFoundError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ingest.store.base import Store

__all__ = ["PlanIndex", "index_to_bytes"]

_BATCH_ROWS = 1 << 16


def index_to_bytes(table: pa.Table, cells_per_chunk: int) -> bytes:
    """Encode the cells in plan order; no chunk crosses more batches than it must."""
    sink = pa.BufferOutputStream()
    batch_rows = cells_per_chunk * max(1, _BATCH_ROWS // cells_per_chunk)
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=min(batch_rows, max(1, len(table))))
    data: bytes = sink.getvalue().to_pybytes()
    return data


class _RangeFile(io.RawIOBase):
    """A seekable file over ranges of one object: Arrow reads the footer and the batches it needs."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__()
        self._store, self._key = store, key
        self._size = store.stat(key).size
        self._at = 0

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
        length = max(0, min(len(view), self._size - self._at))
        if length:
            view[:length] = self._store.get_range(self._key, self._at, length)
            self._at += length
        return length

    def read(self, size: int = -1) -> bytes:
        wanted = self._size - self._at if size < 0 else size
        length = max(0, min(wanted, self._size - self._at))
        data = self._store.get_range(self._key, self._at, length) if length else b""
        self._at += length
        return data


class PlanIndex:
    """Rows of the plan's index, fetched as they are asked for."""

    def __init__(self, store: Store, key: str, cells_per_chunk: int) -> None:
        self._key = key
        self._batch_rows = cells_per_chunk * max(1, _BATCH_ROWS // cells_per_chunk)
        try:
            self._reader = pa.ipc.open_file(pa.PythonFile(_RangeFile(store, key), mode="r"))
        except NotFoundError as error:
            raise CorruptError(f"{store.url}/{key} is gone; plan.json names it", key=key) from error
        except (pa.ArrowException, OSError) as error:
            raise CorruptError(f"{key} is no Arrow file ({error})", key=key) from error

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
