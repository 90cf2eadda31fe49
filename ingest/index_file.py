"""An index file as a stream of checked record batches: mapped, never whole in memory."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ingest.arrow_names import check_names
from ingest.errors import ConfigError
from ingest.unpacked import SMALLER_BATCHES, UnpackedTooLargeError, UnpackLimit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DictionaryCheck", "IndexFile", "same_array"]

_ROWS_AT_ONCE = 1 << 17
_FIRST_VERSION = b"FEA1"
_NO_NAMES = ("", ".", "..", "_index")  # HDF5 and anndata keep them for themselves
_UNREADABLE = (pa.ArrowException, OSError, ValueError, UnicodeDecodeError)


class IndexFile:
    """The first rows of a feather file, as often as they are asked for.

    The file is mapped. What is not compressed is used in place, and its pages are given back after every batch: they
    would count as this process's memory though the system could take them any time. Of a compressed file one record
    batch is in memory (64 Ki rows unless whoever wrote it asked otherwise), of `ingest.unpacked.LIMIT_BYTES` at most.

    Parameters
    ----------
    path
        Feather, version 2: what Arrow reads of the first, of before 2020, it does not check.
    limit
        Give the first so many rows; None gives all.

    Raises
    ------
    ConfigError
        No such file (kind ``no-index``), not a feather file, or columns that no h5ad file can have (``bad-index``).
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path, self.limit = path, limit
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path}: no such index",
                kind="no-index",
                hint="make one with `index census`, `index scbasecount` or `index h5ad`",
            ) from error
        except (OSError, ValueError) as error:  # mmap says that a file is empty by a ValueError
            raise self._not_feather(error) from error
        if self._map[:4] == _FIRST_VERSION:
            raise ConfigError(
                f"{path}: a feather file of version 1, which Arrow reads without a check",
                kind="bad-index",
                hint="write it again: pandas.read_feather(FILE).to_feather(FILE)",
            )
        try:
            schema = self._open().schema
            names = schema.names
        except _UNREADABLE as error:
            raise self._not_feather(error) from error
        _check_names(names, path)
        self._wanted = [at for at, name in enumerate(names) if not name.startswith("__index_level_")]
        self.schema: pa.Schema = pa.schema([schema.field(at) for at in self._wanted])
        """Of the columns that are given: what pandas leaves behind of an index of its own is not."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, at most 131,072 at once.

        Raises
        ------
        ConfigError
            The file is damaged, or a batch takes more memory than may be (kind ``bad-index``).
        """
        checked = DictionaryCheck()
        left = self.limit
        for whole in self._stored():
            for start in range(0, len(whole), _ROWS_AT_ONCE):
                if left is not None and left <= 0:
                    return
                batch = whole.slice(start, _ROWS_AT_ONCE if left is None else min(_ROWS_AT_ONCE, left))
                left = None if left is None else left - len(batch)
                try:
                    checked.validate(batch)
                except (pa.ArrowException, UnicodeDecodeError) as error:
                    raise ConfigError(f"{self.path} is damaged ({error})", kind="bad-index") from error
                yield batch
                self._map.madvise(mmap.MADV_DONTNEED)

    def _stored(self) -> Iterator[pa.RecordBatch]:
        """Yield the record batches as they are stored."""
        if not self._wanted:
            return
        try:
            reader, limit = self._open(self._wanted), UnpackLimit(memoryview(self._map))
            for at in range(reader.num_record_batches):
                limit.check_batch(at)
                yield reader.get_batch(at)
        except UnpackedTooLargeError as error:
            raise ConfigError(f"{self.path}: {error}", kind="bad-index", hint=SMALLER_BATCHES) from error
        except _UNREADABLE as error:
            raise self._not_feather(error) from error

    def _open(self, columns: list[int] | None = None) -> pa.ipc.RecordBatchFileReader:
        options = pa.ipc.IpcReadOptions(included_fields=columns or [])
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._map)), options=options)
        check_names(reader.schema)
        return reader

    def _not_feather(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.path}: not a feather file ({error})", kind="bad-index")


class DictionaryCheck:
    """Validates batches in full, but each dictionary once: it comes again with every batch."""

    def __init__(self) -> None:
        self._seen: dict[int, pa.Array] = {}

    def validate(self, batch: pa.RecordBatch) -> None:
        """Refuse a batch of which a value is none.

        Raises
        ------
        pyarrow.ArrowException, UnicodeDecodeError
            Lengths that do not fit, texts that are not UTF-8, codes outside their dictionary.
        """
        batch.validate()
        for at, column in enumerate(batch.columns):
            if not pa.types.is_dictionary(column.type):
                column.validate(full=True)
                continue
            known = self._seen.get(at)
            if known is None or not same_array(known, column.dictionary):
                column.dictionary.validate(full=True)
                self._seen[at] = column.dictionary
            column.indices.validate(full=True)
            span = pc.min_max(column.indices)
            low, high = span["min"].as_py(), span["max"].as_py()
            if low is not None and (low < 0 or high >= len(column.dictionary)):
                raise pa.ArrowInvalid(f"column {batch.schema.names[at]!r} has a code outside its dictionary")


def same_array(one: pa.Array, other: pa.Array) -> bool:
    """Say whether both are the very same memory; `one` must have been kept, so that its memory was not used again."""
    return (one.offset, len(one), _addresses(one)) == (other.offset, len(other), _addresses(other))


def _addresses(array: pa.Array) -> list[int]:
    return [0 if buffer is None else buffer.address for buffer in array.buffers()]


def _check_names(names: list[str], path: Path) -> None:
    """Refuse what could not be written as obs later."""
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ConfigError(f"{path}: column {name!r} stands twice", kind="bad-index", hint="rename one of them")
        if name in _NO_NAMES or "/" in name or "\0" in name:
            raise ConfigError(
                f"{path}: a column cannot be called {name!r} in an h5ad file", kind="bad-index", hint="rename it"
            )
