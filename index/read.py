"""Read an index file, made here or by hand in pandas, as a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from index.dictionaries import is_text
from index.write import ORIGIN_KEY
from ingest.arrow_names import check_names
from ingest.errors import ConfigError, EmptySelectionError
from ingest.grammar import unknown_column
from ingest.index_file import DictionaryCheck
from ingest.unpacked import SMALLER_BATCHES, UnpackedTooLargeError, UnpackLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["IndexFile"]

_LEFTOVER = "__index_level_"


class IndexFile:
    """The cells of an index file, in its order.

    Coordinates become int64 (whole floats are accepted, gaps become -1), pandas' index columns are left out, dates
    become text.

    Raises
    ------
    ConfigError
        ``no-index``: there is no such file; ``bad-index``: it is no Feather v2 file, or has no coordinates.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._limit = _open(path)
        stored = self._file.schema
        self._names = [name for name in stored.names if not name.startswith(_LEFTOVER)]
        if len(set(stored.names)) < len(stored.names):
            raise ConfigError(f"{path}: two columns have one name", kind="bad-index")
        if "soma_joinid" not in stored.names and "row" not in stored.names:
            raise ConfigError(
                f"{path}: no index of cells: it has neither 'soma_joinid' nor 'row'",
                kind="bad-index",
                hint="make one with `index census`, `index scbasecount` or `index h5ad`",
            )
        self._schema = pa.schema([(name, self._type(stored.field(name))) for name in self._names])

    @property
    def schema(self) -> pa.Schema:
        """Columns as they are delivered."""
        return self._schema

    @property
    def origin(self) -> Any:
        """How the cells were chosen, as `index.write` wrote it down; None where the file does not say."""
        about = (self._file.schema.metadata or {}).get(ORIGIN_KEY)
        try:
            return None if about is None else json.loads(about)
        except ValueError:
            return None

    @property
    def notes(self) -> Sequence[str]:
        """Nothing to note."""
        return ()

    @property
    def total(self) -> int:
        """Rows of the file; reads the batches' headers alone."""
        with _readable(self.path):
            return self._limit.count_rows()

    def nothing(self) -> EmptySelectionError:
        """Explain that the file is empty."""
        return EmptySelectionError(f"{self.path}: the index has no cells")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells, or only `columns` of them.

        Raises
        ------
        ConfigError
            ``unknown-column``; ``bad-index``: the file is damaged, or a coordinate is no whole number.
        """
        names = list(self._names if columns is None else columns)
        for name in names:
            if name not in self._names:
                raise unknown_column(name, self._names, str(self.path))
        schema, checked = pa.schema([self._schema.field(name) for name in names]), DictionaryCheck()
        for number in range(self._file.num_record_batches):
            with _readable(self.path):
                self._limit.check_batch(number)
                batch = self._file.get_batch(number).select(names)
                # Arrow believes lengths, offsets and codes: looked at unchecked, they end the process.
                checked.validate(batch)
            yield pa.record_batch([self._column(batch, field) for field in schema], schema=schema)

    def _type(self, field: pa.Field) -> pa.DataType:
        if field.name in ("soma_joinid", "row"):
            return pa.int64()
        kind = field.type
        if pa.types.is_dictionary(kind) and not is_text(kind):
            kind = kind.value_type
        if pa.types.is_temporal(kind) or pa.types.is_null(kind):
            return pa.string()
        if pa.types.is_string_view(kind):  # Arrow takes no rows of these
            return pa.string()
        plain = is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if not plain:
            raise ConfigError(
                f"{self.path}: column {field.name!r} of type {kind} cannot stand in an index",
                kind="bad-index",
                hint="drop it, or turn it into numbers or text",
            )
        return kind

    def _column(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        column = batch.column(field.name)
        if column.type == field.type and field.name not in ("soma_joinid", "row"):
            return column
        try:
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            # Safe: a fraction is refused, not cut.
            column = column.cast(field.type)
        except pa.ArrowException as error:
            raise ConfigError(
                f"{self.path}: column {field.name!r} ({column.type}) holds no whole numbers", kind="bad-index"
            ) from error
        return pc.fill_null(column, -1) if field.name in ("soma_joinid", "row") else column


class _readable:  # noqa: N801  # reads as a phrase: with _readable(path)
    """Turn what Arrow raises while `path` is read into one error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise ConfigError(
                f"{self._path}: no such index",
                kind="no-index",
                hint="make one with `index census`, `index scbasecount` or `index h5ad`",
            ) from error
        if isinstance(error, UnpackedTooLargeError):
            raise ConfigError(f"{self._path}: {error}", kind="bad-index", hint=SMALLER_BATCHES) from error
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError):
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{self._path}: no readable Feather v2 file ({reason})",
                kind="bad-index",
                hint="an index is what `index` writes, or DataFrame.to_feather",
            ) from error


def _open(path: Path) -> tuple[pa.RecordBatchFileReader, UnpackLimit]:
    with _readable(path):
        mapped = pa.memory_map(str(path))
        limit = UnpackLimit(memoryview(mapped.read_buffer()))
        mapped.seek(0)
        reader = pa.ipc.open_file(mapped)
        check_names(reader.schema)
        return reader, limit
