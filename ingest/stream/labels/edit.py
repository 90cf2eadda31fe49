"""Single columns, the index, entries of uns of an h5ad file replaced; everything else stays as it lies in the file."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pandas as pd

from ingest.errors import UnfitError
from ingest.fetch.h5ad_open import file_version
from ingest.stream.editing import edited_h5ad, put
from ingest.stream.elements import is_compound, labels_beside, read_table
from ingest.stream.files import changed_copy, new_file
from ingest.stream.hdf5 import writable
from ingest.stream.output import MADE_FROM
from ingest.stream.storage import changed_meanwhile, open_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.source import Source

__all__ = ["Edit", "editing"]

_TABLES = ("obs", "var", "raw.var")
_Table = Literal["obs", "var"]
_ALONG: dict[_Table, str] = {"obs": "obsm", "var": "varm"}
_INDEX = "_index"
_PIECE_BYTES = 8 << 20


class Edit:
    """A file that is open to be changed.

    Tables that are one compound dataset (anndata 0.6) become groups of columns, as they have been since.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def put_column(self, table: _Table, name: str, values: pd.Series[Any]) -> None:
        """Write a column of text, ``(n_rows,)``, in the place of the one of this name, or as the last.

        Text with missing values becomes categorical, as anndata has it.

        Raises
        ------
        UnfitError
            A ValueError: it has another number of rows.
        """
        group = self._file[table]
        _check_rows(group, len(values), f"{table}/{name}")
        _part_index(group, name)
        _remove(group, name)
        put(self._file, f"{table}/{name}", _storable(values))
        order = _order(group)
        if name not in order:
            _put_order(group, [*order, name])

    def rename_column(self, table: _Table, old: str, new: str) -> None:
        """Give a column another name, in its place."""
        group = self._file[table]
        _part_index(group, old)
        for place in ("", "__categories/"):
            if f"{place}{old}" in group:
                group.move(f"{place}{old}", f"{place}{new}")
        _put_order(group, [new if name == old else name for name in _order(group)])

    def put_index(self, table: _Table, names: pd.Index[Any]) -> None:
        """Write the names of the rows, ``(n_rows,)``; tables of obsm, or of varm, take them too.

        Raises
        ------
        UnfitError
            A ValueError: there is another number of rows.
        """
        texts = names.astype(str).to_numpy(object)
        _check_rows(self._file[table], len(texts), f"names of {table}")
        for path in (table, *_tables_in(self._file, _ALONG[table])):  # anndata refuses a file in which they differ
            self._put_names(path, texts)

    def _put_names(self, path: str, names: np.ndarray[Any, Any]) -> None:
        group = self._file[path]
        name = _index_of(group)
        if "column-order" in group.attrs and name in _order(group):  # the column keeps what it has
            name = group.attrs["_index"] = _free_for_index(group)
        _remove(group, name)
        put(self._file, f"{path}/{name}", names)

    def put_uns(self, name: str, entry: Mapping[str, Any]) -> None:
        """Write an entry of uns in the place of the one of this name, or beside the others."""
        put(self._file, f"uns/{name}", dict(entry))

    def drop_uns(self, name: str) -> None:
        """Remove an entry of uns, if it is there."""
        if f"uns/{name}" in self._file:
            del self._file[f"uns/{name}"]


@contextmanager
def editing(path: Path | str, output: Path | None = None, *, version: str) -> Iterator[Edit]:
    """Give a copy of the file at `path` to be changed, which becomes `output`, or replaces the file, at a good end.

    Parameters
    ----------
    path
        Of a local file; with `output` it may be a URL.
    version
        Of the file from which the changes were derived (`Annotations.version`): no other one is changed.

    Raises
    ------
    NoFileError, HostileFileError
        There is no such file, or it breaks a rule.
    ConfigError, CredentialsError, SourceChangedError, TransientError
        As of `ingest.stream.editing.edited_h5ad`; it cannot be reached.
    """
    with open_data(path, version=version) as opened:
        compound, source = _compound_tables(opened), opened.source
    with edited_h5ad(Path(path), source.version) if output is None else _changed(path, source, output) as file:
        for table, (frame, labels) in compound.items():
            put(file, table, frame)
            for name in labels:
                _remove(file, f"uns/{name}")
        yield Edit(file)


@contextmanager
def _changed(path: Path | str, source: Source, output: Path) -> Iterator[h5py.File]:
    with _fetched(path, output) if source.path is None else changed_copy(path, output) as copy:
        if file_version(str(path)) != source.version:
            raise changed_meanwhile(path)
        with writable(copy, "r+", name=output) as file:
            file.attrs[MADE_FROM] = source.address
            yield file


@contextmanager
def _fetched(url: Path | str, output: Path) -> Iterator[Path]:
    """Yield the path of a copy of a remote file, as `changed_copy` does of a local one."""
    with new_file(output) as copy:
        with open_data(url) as opened, copy.open("r+b") as file:
            for start in range(0, opened.size_bytes, _PIECE_BYTES):
                piece = bytearray(min(_PIECE_BYTES, opened.size_bytes - start))
                opened.copy(start, memoryview(piece))
                file.write(piece)
        yield copy


def _compound_tables(opened: OpenH5ad) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    return {
        table: (read_table(opened, table), labels_beside(opened, table))
        for table in _TABLES
        if is_compound(opened, table)
    }


def _tables_in(file: h5py.File, path: str) -> list[str]:
    group = file.get(path)
    nodes = group.items() if isinstance(group, h5py.Group) else ()
    return [f"{path}/{key}" for key, node in nodes if _text(node.attrs.get("encoding-type")) == "dataframe"]


def _index_of(group: h5py.Group) -> str:
    return _text(group.attrs.get("_index", _INDEX))


def _check_rows(group: h5py.Group, n: int, what: str) -> None:
    names = group[_index_of(group)]
    if isinstance(names, h5py.Group):  # text of pandas' own type
        names = names["values"]
    if len(names) != n:
        raise UnfitError(f"{what}: {n:,} rows where there are {len(names):,}")


def _part_index(group: h5py.Group, name: str) -> None:
    """Give the names of the rows a place of their own where they lie under `name`, which is to be a column's alone.

    An h5ad has one dataset for an index and a column of one name, as long as they are equal.
    """
    if name == _index_of(group):
        place = _free_for_index(group)
        group.copy(name, place)
        group.attrs["_index"] = place


def _free_for_index(group: h5py.Group) -> str:
    return next(name for name in (_INDEX, *(f"{_INDEX}-{number}" for number in range(len(group)))) if name not in group)


def _order(group: h5py.Group) -> list[str]:
    # Without columns, anndata writes an empty array of numbers.
    return [_text(label) for label in np.ravel(group.attrs["column-order"]).tolist()]


def _put_order(group: h5py.Group, names: list[str]) -> None:
    group.attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())


def _remove(group: h5py.Group, name: str) -> None:
    for old in (name, f"__categories/{name}"):  # where anndata 0.7 has the labels of a column
        if old in group:
            del group[old]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _storable(values: pd.Series[Any]) -> Any:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.array
    return pd.Categorical(values) if values.isna().any() else values.to_numpy(object)
