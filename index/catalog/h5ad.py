"""h5ad files as a catalogue of cells."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa

from index.agree import TEXT, as_type, plain_type, wider_type
from index.catalog.columns import placed_names
from index.stream import silent
from ingest.errors import ConfigError, EmptySelectionError, IngestError
from ingest.fetch.h5ad_obs import iter_obs, obs_columns
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_remote import remote_error, remote_filesystem
from ingest.fetch.h5ad_table import open_table
from ingest.source import Source, address_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from index.stream import Progress

__all__ = ["H5adCells", "find_files"]

_BATCH_ROWS: Final = 65_536
_WILD: Final = frozenset("*?[")


def find_files(patterns: Sequence[str]) -> tuple[Source, ...]:
    """Return the files that paths, URLs and globs stand for, sorted within each glob, each once.

    Raises
    ------
    ConfigError
        ``no-such-file``: a path or glob that stands for nothing.
    CredentialsError, TransientError
        A store refuses, or does not answer.
    """
    found = [source for pattern in patterns for source in _expand(pattern)]
    if not found:
        raise ConfigError("no h5ad file is named", kind="no-such-file", hint="name paths, URLs or globs")
    return tuple({source.address: source for source in found}.values())


def _expand(pattern: str) -> list[Source]:
    if "://" in pattern and not pattern.startswith("file://"):
        # In an HTTP URL a question mark begins the query.
        wild = _WILD - {"?"} if pattern.startswith("http") else _WILD
        return _expand_remote(pattern) if wild & set(pattern) else [Source.parse(pattern)]
    if pattern.startswith("file://"):
        return [Source.parse(pattern)]
    path = Path(pattern).expanduser()
    places = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
    files = [place for place in places if Path(place).is_file()]
    if not files:
        what, hint = ("is a folder", f"say {pattern.rstrip('/')}/*.h5ad") if path.is_dir() else ("no such file", None)
        raise ConfigError(f"{pattern}: {what}", kind="no-such-file", hint=hint)
    return [Source("h5ad", address_of(place), "") for place in files]


def _expand_remote(pattern: str) -> list[Source]:
    address_of(pattern)  # refuses secrets before anything is asked
    filesystem = remote_filesystem(pattern)
    try:
        places = sorted(filesystem.unstrip_protocol(place) for place in filesystem.glob(pattern))
    except FileNotFoundError:
        places = []
    except Exception as error:  # every client has its own tree; remote_error sorts them
        raise error if isinstance(error, IngestError) else remote_error(pattern, error) from error
    if not places:
        raise ConfigError(f"{pattern}: no such file", kind="no-such-file", hint="check the bucket and the pattern")
    return [Source("h5ad", address_of(place), "") for place in places]


@dataclass(frozen=True, slots=True)
class _File:
    """One file, looked at."""

    source: Source
    """With its version."""
    n_cells: int
    columns: Mapping[str, pa.DataType]


class H5adCells:
    """The cells of h5ad files, file after file, with the obs columns that any of them has.

    A column that a file lacks is null there. One whose types do not agree is text.

    Parameters
    ----------
    sources
        The files; one with a version must still have it.
    noted
        Columns whose differences between the files are noted; all by default.

    Raises
    ------
    SourceError
        A file does not exist, is no h5ad, or is not fit to be opened.
    SourceChangedError
        A file is not the version named.
    """

    def __init__(
        self, sources: Sequence[Source], noted: Collection[str] | None = None, *, progress: Progress = silent
    ) -> None:
        self._notes: list[str] = []
        self._noted = noted
        self._files: list[_File] = []
        for source in sources:
            self._files.append(_look_at(source))
            progress("looking at files", len(self._files))
        columns = dict.fromkeys(column for file in self._files for column in file.columns)
        kinds = {column: self._agree(column) for column in columns}
        self._note_gaps(kinds)
        self._stored = placed_names(list(kinds), self._notes)
        obs = [(name, kinds[column]) for name, column in self._stored.items()]
        self._schema = pa.schema([("source", TEXT), ("soma_joinid", pa.int64()), ("row", pa.int64()), *obs])

    @property
    def schema(self) -> pa.Schema:
        """``source``, ``soma_joinid``, ``row``, then the obs columns of all files."""
        return self._schema

    @property
    def notes(self) -> Sequence[str]:
        """Columns that differ between the files."""
        return tuple(self._notes)

    @property
    def total(self) -> int:
        """Cells of all files."""
        return sum(file.n_cells for file in self._files)

    @property
    def where(self) -> str:
        """What has these columns, for messages."""
        if len(self._files) > 1:
            return f"the obs of {len(self._files)} files"
        return f"the obs of {unquote(urlsplit(self._files[0].source.address).path.rsplit('/', 1)[-1])}"

    def nothing(self) -> EmptySelectionError:
        """Explain that the files hold no cells."""
        return EmptySelectionError(f"no cells in {self.where}")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cells, or only `columns` of them, by file and row.

        Raises
        ------
        SourceError
            A column is damaged.
        SourceChangedError
            A file changed since it was looked at.
        """
        schema = self._schema if columns is None else pa.schema([self._schema.field(name) for name in columns])
        for file in self._files:
            yield from self._file_batches(file, schema)

    def _file_batches(self, file: _File, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        here = [name for name in schema.names if self._stored.get(name) in file.columns]
        start = 0
        with open_h5ad(file.source) as opened:
            for batch in iter_obs(opened, [self._stored[name] for name in here], _BATCH_ROWS):
                known = dict(zip(here, batch.columns, strict=True)) | _coordinates(file.source, start, batch.num_rows)
                columns = [
                    as_type(known[field.name], field.type)
                    if field.name in known
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                start += batch.num_rows
                yield pa.record_batch(columns, schema=schema)

    def _agree(self, column: str) -> pa.DataType:
        kinds = {plain_type(file.columns[column]) for file in self._files if column in file.columns}
        if len(kinds) == 1:
            return kinds.pop()
        agreed = wider_type(kinds - {pa.null()})
        if agreed is None and self._is_noted(column):
            names = ", ".join(sorted("text" if kind == TEXT else str(kind) for kind in kinds))
            self._notes.append(f"column {column!r} is {names} in different files: written as text")
        return agreed or TEXT

    def _note_gaps(self, kinds: Mapping[str, pa.DataType]) -> None:
        gaps = [
            name for name in kinds if self._is_noted(name) and not all(name in file.columns for file in self._files)
        ]
        if gaps:
            names = ", ".join(gaps[:8]) + (", …" if len(gaps) > 8 else "")
            columns = "1 column is" if len(gaps) == 1 else f"{len(gaps)} columns are"
            self._notes.append(f"{columns} not in all {len(self._files)} files ({names}): empty there")

    def _is_noted(self, column: str) -> bool:
        return self._noted is None or column in self._noted


def _look_at(source: Source) -> _File:
    with open_h5ad(source) as opened:
        return _File(opened.source, open_table(opened, "obs").n_rows, obs_columns(opened))


def _coordinates(source: Source, start: int, n_rows: int) -> dict[str, pa.Array]:
    codes = pa.array(np.zeros(n_rows, np.int32))
    return {
        "source": pa.DictionaryArray.from_arrays(codes, pa.array([str(source)])),
        "soma_joinid": pa.array(np.full(n_rows, -1, np.int64)),
        "row": pa.array(np.arange(start, start + n_rows)),
    }
