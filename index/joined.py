"""Several streams of cells as one: of a Census and of files, each with the columns of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from index.agree import TEXT, as_type, plain_type, wider_type
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from index.read import IndexFile
    from ingest.errors import EmptySelectionError

__all__ = ["Joined"]

_COORDINATES = ("soma_joinid", "row")


class Joined:
    """The cells of index files, file after file; a column that a file lacks is null there.

    Parameters
    ----------
    files
        At least one.

    Raises
    ------
    ConfigError
        ``bad-index``: one of several files does not say which source its cells are of.
    """

    def __init__(self, files: Sequence[IndexFile]) -> None:
        self._files = files
        for file in files if len(files) > 1 else ():
            if "source" not in file.schema.names:
                raise ConfigError(
                    f"{file.path}: has no column 'source', by which the cells of several indexes are told apart",
                    kind="bad-index",
                )
        names = dict.fromkeys(name for file in files for name in file.schema.names)
        self._schema = pa.schema([(name, self._type(name)) for name in names])

    @property
    def schema(self) -> pa.Schema:
        """All columns, in order of appearance."""
        return self._schema

    @property
    def notes(self) -> Sequence[str]:
        """Nothing to note."""
        return ()

    @property
    def total(self) -> int:
        """Cells of all files."""
        return sum(file.total for file in self._files)

    @property
    def origins(self) -> list[Any]:
        """How the cells of each file were chosen; None where the file does not say."""
        return [file.origin for file in self._files]

    @property
    def where(self) -> str:
        """What has these columns, for messages."""
        return str(self._files[0].path) if len(self._files) == 1 else f"the {len(self._files)} indexes"

    def nothing(self) -> EmptySelectionError:
        """Explain as the first file does."""
        return self._files[0].nothing()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells, or only `columns` of them, in the order of the files.

        Raises
        ------
        ConfigError
            A file is damaged.
        """
        schema = self._schema if columns is None else pa.schema([self._schema.field(name) for name in columns])
        for file in self._files:
            here = [name for name in schema.names if name in file.schema.names]
            for batch in file.batches(here or file.schema.names[:1]):
                yield pa.record_batch([_column(batch, field) for field in schema], schema=schema)

    def _type(self, name: str) -> pa.DataType:
        kinds = {file.schema.field(name).type for file in self._files if name in file.schema.names}
        if len(kinds) == 1:
            return kinds.pop()
        plain = {plain_type(kind) for kind in kinds}
        return wider_type(plain) or TEXT


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name in batch.schema.names:
        return as_type(batch.column(field.name), field.type)
    if field.name in _COORDINATES:
        return pa.array(np.full(len(batch), -1, np.int64))
    return pa.nulls(len(batch), field.type)
