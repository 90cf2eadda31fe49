"""obs and var of whatever a caller gives (path, URL, handle, AnnData in memory or backed), read column by column.

An object whose obs is a table in memory is taken at its word, whatever its file holds: somebody may have changed it.
Everything else is a file, examined by `ingest.fetch.h5ad_open` before any of it is read.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import pandas as pd

from ingest.fetch.h5ad_table import open_table
from ingest.stream.columns import is_ordered, no_column
from ingest.stream.storage import open_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["Annotations", "Columns", "annotated", "columns_of", "is_text"]

_PIECE_ROWS = 1 << 14


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
        names: pd.Index[Any] = pd.Index(self._whole(None).to_numpy(object), dtype=object)
        return names

    def check(self, name: str) -> None:
        """Raise NoColumnError unless there is a column `name`."""
        if name not in self.names:
            raise no_column(self.label, self.path, name, self.names)

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
    note: Callable[[str], dict[str, str]]
    """The texts of an entry of uns, such as operations leave about what they did; empty where there is none."""
    file: OpenH5ad | None
    """The file they are read from; None when they are in memory."""

    @property
    def version(self) -> str:
        """Of the file, for whoever opens it again; empty when they are in memory."""
        return "" if self.file is None else self.file.source.version


@contextmanager
def annotated(data: Any) -> Iterator[Annotations]:
    """Give access to obs and var of `data`: path, URL, handle, or AnnData in memory or backed.

    Raises
    ------
    TypeError
        It is none of these.
    NoFileError
        There is no such file.
    SourceError, ConfigError, TransientError
        As of `ingest.stream.storage.open_data`.
    """
    obs, var = getattr(data, "obs", None), getattr(data, "var", None)
    if isinstance(obs, pd.DataFrame) and isinstance(var, pd.DataFrame):
        yield _in_memory(data, obs, var)
        return
    with open_data(data) as file:
        yield Annotations(
            file.name, columns_of(file, "obs"), columns_of(file, "var"), lambda name: _texts_of_file(file, name), file
        )


def is_text(dtype: Any) -> bool:
    """Tell whether a column of this type is categorical or text."""
    return isinstance(dtype, pd.CategoricalDtype | pd.StringDtype) or dtype.kind == "O"


def _in_memory(data: Any, obs: pd.DataFrame, var: pd.DataFrame) -> Annotations:
    label = "this AnnData"

    def note(name: str) -> dict[str, str]:
        entry = data.uns.get(name)
        return {key: text for key, text in entry.items() if isinstance(text, str)} if hasattr(entry, "items") else {}

    return Annotations(label, _of_frame(obs, "obs", label), _of_frame(var, "var", label), note, None)


def _of_frame(frame: pd.DataFrame, path: str, label: str) -> Columns:
    def read(name: str | None, start: int, stop: int) -> pd.Series[Any]:
        return (frame.index.to_series() if name is None else frame[name]).iloc[start:stop]

    return Columns(path, label, len(frame), tuple(map(str, frame.columns)), read)


def columns_of(file: OpenH5ad, path: str) -> Columns:
    """Return obs or var of a file that is open."""
    table = open_table(file, path)

    def read(name: str | None, start: int, stop: int) -> pd.Series[Any]:
        column = table.index if name is None else table.columns[name]
        with file.reading(path):  # pandas refuses categories that repeat
            found: pd.Series[Any] = column.read(start, stop).to_pandas()
        if name is not None and isinstance(found.dtype, pd.CategoricalDtype) and is_ordered(file, path, name):
            found = found.cat.as_ordered()
        return found

    return Columns(path, file.name, table.n_rows, tuple(table.columns), read)


def _texts_of_file(file: OpenH5ad, name: str) -> dict[str, str]:
    group = file.get(f"uns/{name}")
    texts = {}
    for key in group if isinstance(group, h5py.Group) else ():
        node = file.get(f"uns/{name}/{key}")
        if isinstance(node, h5py.Dataset) and node.shape == () and h5py.check_string_dtype(node.dtype) is not None:
            with file.reading(f"uns/{name}/{key}"):
                texts[key] = bytes(node[()]).decode()
    return texts
