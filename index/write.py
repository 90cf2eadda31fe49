"""Write a stream of cells as one Feather v2 file, atomically, in memory that does not grow with the cells."""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from index.dictionaries import GrowingDictionary, is_text
from index.stream import silent
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from index.stream import CellStream, Progress

__all__ = ["ORIGIN_KEY", "IndexReport", "write_index"]

ORIGIN_KEY: Final = b"cell-ingest"
"""Of the file's schema metadata: JSON, by which options its cells were chosen. A help for people: pandas drops it."""
_BATCH_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was written."""

    path: Path
    cells: int
    """Rows of the file."""
    total: int
    """Cells there were to choose from."""
    bytes: int
    """Size of the file."""
    seconds: float
    """Wall time."""
    columns: tuple[str, ...]
    """Columns of the file, in order."""
    notes: tuple[str, ...]
    """What the selection did beyond what was asked for, one line each, for people."""


class _TooManyValues(Exception):  # noqa: N818  # a signal inside this module, no error
    def __init__(self, column: str) -> None:
        self.column = column


def write_index(
    path: Path, stream: CellStream, *, origin: Mapping[str, Any] | None = None, progress: Progress = silent
) -> IndexReport:
    """Write `stream` to `path`, replacing it only when all is written.

    Text columns are dictionary-encoded; one with more than a million distinct values (barcodes, say) is written
    as plain text instead, since its dictionary would grow with the cells.

    Parameters
    ----------
    origin
        How the cells were chosen, to be written into the file under `ORIGIN_KEY`.

    Raises
    ------
    EmptySelectionError
        The stream held no cells; `path` is untouched.
    ConfigError
        ``bad-output``: `path` cannot be written. ``bad-column``: a text is no UTF-8.
    """
    began = time.monotonic()
    plain: set[str] = set()
    while True:
        try:
            cells = _write(path, stream, frozenset(plain), origin, progress)
        except _TooManyValues as found:
            plain.add(found.column)
        else:
            break
    seconds = time.monotonic() - began
    names = tuple(stream.schema.names)
    return IndexReport(path, cells, stream.total, path.stat().st_size, seconds, names, tuple(stream.notes))


def _write(
    path: Path, stream: CellStream, plain: frozenset[str], origin: Mapping[str, Any] | None, progress: Progress
) -> int:
    encoder = _Encoder(stream.schema, plain)
    about = {} if origin is None else {ORIGIN_KEY: json.dumps(origin, ensure_ascii=False, default=str).encode()}
    # Deltas let dictionaries grow while batches are already on disk; the file format allows no replacement.
    options = pa.ipc.IpcWriteOptions(compression="lz4", emit_dictionary_deltas=True)
    with (
        _replacing(path) as sink,
        pa.ipc.new_file(sink, encoder.schema.with_metadata(about), options=options) as writer,
    ):
        cells = 0
        for batch in encoder.encode(stream.batches()):
            with _blaming(path):
                writer.write_batch(batch)
            cells += len(batch)
            progress("writing", cells)
        if cells == 0:
            raise stream.nothing()
    return cells


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot write {path}: {reason}", kind="bad-output", hint="choose another -o") from error


@contextmanager
def _replacing(path: Path) -> Iterator[pa.NativeFile]:
    """Yield a file beside `path` that takes its place if all goes well, and vanishes if not."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with _blaming(path):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.OSFile(str(beside), "wb")
    try:
        with sink:
            yield sink
        with _blaming(path):
            _flush(beside)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check_texts(batch: pa.RecordBatch) -> None:
    """Refuse what nobody could read back: Arrow takes any bytes for text, and TileDB and Parquet store any."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"the source's column {name!r} cannot be written ({error})",
                kind="bad-column",
                hint="leave it out with --columns, or have the source mended",
            ) from error


class _Encoder:
    """Cuts a stream into batches of even size whose dictionaries only grow."""

    def __init__(self, schema: pa.Schema, plain: frozenset[str]) -> None:
        texts = [field.name for field in schema if is_text(field.type) and field.name not in plain]
        self._dictionaries = {name: GrowingDictionary() for name in texts}
        # A constant dictionary value type: sources mix string and large_string.
        self._coded = pa.schema([(field.name, self._coded_type(field)) for field in schema])
        encoded = pa.dictionary(pa.int32(), pa.string())
        self.schema = pa.schema(
            [(field.name, encoded if field.name in self._dictionaries else field.type) for field in self._coded]
        )

    def encode(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `batches`, 65,536 at a time."""
        pending = self._coded.empty_table()
        for batch in batches:
            _check_texts(batch)
            pending = pa.concat_tables([pending, self._codes(batch)])
            while len(pending) >= _BATCH_ROWS:
                yield self._dress(pending.slice(0, _BATCH_ROWS))
                pending = pending.slice(_BATCH_ROWS)
        if len(pending):
            yield self._dress(pending)

    def _coded_type(self, field: pa.Field) -> pa.DataType:
        if field.name in self._dictionaries:
            return pa.int32()
        if is_text(field.type) or pa.types.is_null(field.type):
            return pa.string()
        return field.type.value_type if pa.types.is_dictionary(field.type) else field.type

    def _codes(self, batch: pa.RecordBatch) -> pa.Table:
        columns = []
        for field in self._coded:
            column = batch.column(field.name)
            dictionary = self._dictionaries.get(field.name)
            columns.append(column.cast(field.type) if dictionary is None else dictionary.encode(column))
            if dictionary is not None and dictionary.is_too_large:
                raise _TooManyValues(field.name)
        return pa.table(columns, schema=self._coded)

    def _dress(self, coded: pa.Table) -> pa.RecordBatch:
        """Give codes their dictionary: codes made earlier stay right, since it has only grown."""
        columns = []
        for name, column in zip(coded.column_names, coded.columns, strict=True):
            whole = column.combine_chunks()
            dictionary = self._dictionaries.get(name)
            columns.append(whole if dictionary is None else pa.DictionaryArray.from_arrays(whole, dictionary.values))
        return pa.record_batch(columns, schema=self.schema)
