"""obs and var of whatever a caller gives, read column by column: a path or URL, a handle, an AnnData in memory or backed.

An object whose obs is a table in memory is taken at its word, whatever its file holds: somebody may have changed it.
Everything else is a file, examined by `ingest.fetch.h5ad_open` before any of it is read.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from ingest.errors import ConfigError, NoColumnError, NoFileError, SourceError
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_table import open_table
from ingest.source import Source, address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["Annotations", "Columns", "annotations", "is_text", "local_path", "location_of", "open_data"]

_PIECE_ROWS = 1 << 16
_SHOWN = 12


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """obs or var: what its columns are called, and their values when somebody asks."""

    path: str
    """``obs`` or ``var``."""
    label: str
    """What it is of, for messages."""
    n_rows: int
    names: tuple[str, ...]
    read: Callable[[str | None, int, int], pd.Series[Any]]
    """Rows ``[start, stop)`` of a column, or of the index (None)."""

    def column(self, name: str) -> pd.Series[Any]:
        """Return a whole column, ``(n_rows,)``, indexed by number.

        Raises
        ------
        NoColumnError
            A KeyError: there is none of this name (kind ``unknown-column``); those that there are, are named.
        """
        self.check(name)
        return self._whole(name)

    def index(self) -> pd.Index[Any]:
        """Return the names of the rows."""
        return pd.Index(self._whole(None).to_numpy(object), dtype=object)

    def check(self, name: str) -> None:
        """Raise NoColumnError unless there is a column `name`."""
        if name not in self.names:
            near = get_close_matches(name, self.names, 3) or list(self.names)
            raise NoColumnError(
                f"{self.label}: no column {name!r} in {self.path}",
                hint=f"there are {', '.join(near[:_SHOWN])}" if near else f"its {self.path} has no columns",
            )

    def pieces(self, name: str) -> Iterator[pd.Series[Any]]:
        """Yield a column in pieces that memory has room for."""
        for start in range(0, self.n_rows, _PIECE_ROWS):
            yield self.read(name, start, min(start + _PIECE_ROWS, self.n_rows))

    def is_text(self, name: str) -> bool:
        """Tell whether a column is categorical or text."""
        return is_text(self.read(name, 0, 0).dtype)

    def _whole(self, name: str | None) -> pd.Series[Any]:
        return self.read(name, 0, self.n_rows).reset_index(drop=True)


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The two tables of one AnnData, in memory or in a file."""

    label: str
    obs: Columns
    var: Columns
    file: OpenH5ad | None
    """The file they are read from; None when they are in memory."""


@contextmanager
def annotations(data: Any) -> Iterator[Annotations]:
    """Give access to obs and var of `data`: path, URL, handle, or AnnData in memory or backed.

    Raises
    ------
    TypeError
        It is none of these.
    NoFileError
        There is no such file.
    SourceError, ConfigError, TransientError
        As of `ingest.fetch.h5ad_open.open_h5ad`.
    """
    obs, var = getattr(data, "obs", None), getattr(data, "var", None)
    if isinstance(obs, pd.DataFrame) and isinstance(var, pd.DataFrame):
        label = "this AnnData"
        yield Annotations(label, _of_frame(obs, "obs", label), _of_frame(var, "var", label), None)
        return
    with open_data(data) as file:
        yield Annotations(file.name, _of_file(file, "obs"), _of_file(file, "var"), file)


def open_data(data: Any) -> OpenH5ad:
    """Open the file that `data` is, or is of; as of `annotations`."""
    source = Source("h5ad", address_of(location_of(data)), "")
    try:
        return open_h5ad(source)
    except SourceError as error:
        if error.kind == "no-such-file":
            raise NoFileError(error.message, source=error.source) from error
        raise


def location_of(data: Any) -> str:
    """Return the path or URL that `data` is, or is of.

    Raises
    ------
    TypeError
        It is, and has, no path.
    """
    if isinstance(data, str | os.PathLike):
        return os.fsdecode(data)
    for name in ("path", "filename"):
        if isinstance(found := getattr(data, name, None), str | os.PathLike):
            return os.fsdecode(found)
    raise TypeError(f"a path, a handle or an AnnData is wanted, not {type(data).__name__}")


def local_path(data: Any) -> Path:
    """Return the path of a file that is to be changed or copied.

    Raises
    ------
    TypeError
        As of `location_of`; an AnnData in memory has no file.
    NoFileError
        There is no such file.
    ConfigError
        It is not of this machine (kind ``not-local``).
    """
    location = location_of(data)
    path = Source("h5ad", address_of(location), "").path
    if path is None:
        raise ConfigError(f"{location}: not on this machine's disks", kind="not-local", hint="fetch it first")
    if not path.is_file():
        raise NoFileError(f"{path}: there is no such file", source=location)
    return path


def is_text(dtype: Any) -> bool:
    """Tell whether a column of this type is categorical or text."""
    return isinstance(dtype, pd.CategoricalDtype | pd.StringDtype) or dtype == object


def _of_frame(frame: pd.DataFrame, path: str, label: str) -> Columns:
    def read(name: str | None, start: int, stop: int) -> pd.Series[Any]:
        return (frame.index.to_series() if name is None else frame[name]).iloc[start:stop]

    return Columns(path, label, len(frame), tuple(map(str, frame.columns)), read)


def _of_file(file: OpenH5ad, path: str) -> Columns:
    table = open_table(file, path)

    def read(name: str | None, start: int, stop: int) -> pd.Series[Any]:
        column = table.index if name is None else table.columns[name]
        values = column.read(start, stop)
        if pa.types.is_dictionary(values.type) and pa.types.is_null(values.type.value_type):
            return pd.Series([None] * len(values), dtype=object)
        found: pd.Series[Any] = values.to_pandas()
        return found

    return Columns(path, file.name, table.n_rows, tuple(table.columns), read)
