"""One block of features as a Parquet file: opened by its footer, columns read when somebody asks, written in pieces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.errors import ConfigError, CorruptError
from ingest.load.memmap.feature_encode import is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = ["ROWS_AT_ONCE", "Frame", "arrow_type", "damaged", "write_frame"]

ROWS_AT_ONCE = 1 << 18
"""Of a row group that we write: what writing holds in memory."""

_HINT = "take the features from a copy, or convert the archive again"


@dataclass(frozen=True, slots=True)
class Frame:
    """A Parquet file of one block, of which only the footer has been read."""

    path: Path
    written: tuple[int, int]
    """Size in bytes and time of modification in ns: what the footer was read of."""
    n_rows: int
    schema: pa.Schema
    starts: tuple[int, ...]
    """First row of each row group, and the number of rows."""

    @classmethod
    def open(cls, path: Path) -> Frame:
        """Read the footer.

        Raises
        ------
        CorruptError
            There is no such file, or it is damaged (kind ``scdl-features``).
        """
        try:
            with pq.ParquetFile(path) as file:
                schema, footer = file.schema_arrow, file.metadata
                starts = [0]
                for group in range(footer.num_row_groups):
                    starts.append(starts[-1] + footer.row_group(group).num_rows)
            written = _written(path)
        except FileNotFoundError as error:
            raise damaged(path, "is missing") from error
        except (pa.ArrowException, OSError, UnicodeError, ValueError) as error:
            raise damaged(path, f"is damaged ({error})") from error
        if len(set(schema.names)) < len(schema.names):
            raise damaged(path, "has two columns of one name")
        if starts[-1] != footer.num_rows or min(np.diff(starts), default=0) < 0:
            raise damaged(path, f"has {footer.num_rows:,} rows, its row groups {starts[-1]:,}")
        return cls(path, written, footer.num_rows, schema, tuple(starts))

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        names: list[str] = self.schema.names
        return names

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the numpy type that a column has when it is read; integers are looked through for nulls for it.

        Raises
        ------
        CorruptError
            As `read`.
        """
        kind = self.schema.field(name).type
        some, none = _dtype_of([], kind), _dtype_of([None], kind)
        if some == none:
            return some
        return none if any(table.column(name).null_count for table in self.batches(0, self.n_rows, [name])) else some

    def read(self, name: str, start: int, stop: int) -> pa.ChunkedArray:
        """Read a column of the rows ``[start, stop)``; texts come as dictionaries.

        Raises
        ------
        CorruptError
            It is damaged, or the file is no longer the one that was opened (kind ``scdl-features``).
        """
        # What the footer says of single columns is not asked: pyarrow ends the process where that is damaged.
        groups = [g for g in range(len(self.starts) - 1) if self.starts[g] < stop and self.starts[g + 1] > start]
        with self._opened([name]) as file:
            column = self._checked(lambda: file.read_row_groups(groups, [name], use_threads=False).column(name))
        first = self.starts[groups[0]] if groups else 0
        column = column.slice(start - first, stop - start)
        if len(column) != stop - start:
            raise damaged(self.path, f"has {len(column):,} rows of column {name!r}, not {stop - start:,}")
        return column

    def batches(self, start: int, stop: int, names: list[str] | None = None) -> Iterator[pa.Table]:
        """Read columns, all unless named, of the rows ``[start, stop)``, some rows at a time.

        Raises
        ------
        CorruptError
            As `read`.
        """
        names = self.names if names is None else names
        with self._opened(names) as file:
            for group in range(len(self.starts) - 1):
                low, high = max(self.starts[group], start), min(self.starts[group + 1], stop)
                if low < high:
                    yield self._group(file, group, names).slice(low - self.starts[group], high - low)

    def _group(self, file: pq.ParquetFile, group: int, names: list[str]) -> pa.Table:
        table = self._checked(lambda: file.read_row_group(group, names, use_threads=False))
        n_rows = self.starts[group + 1] - self.starts[group]
        if len(table) != n_rows:
            raise damaged(self.path, f"has {len(table):,} rows in row group {group}, not {n_rows:,}")
        return table

    def _opened(self, names: list[str]) -> pq.ParquetFile:
        encoded = [name for name in names if is_text(self.schema.field(name).type)]
        try:
            changed = _written(self.path) != self.written
        except FileNotFoundError as error:
            raise self._gone("is no longer there") from error
        if changed:
            raise self._gone("is another one than when it was opened")
        return self._checked(
            lambda: pq.ParquetFile(self.path, read_dictionary=encoded, page_checksum_verification=True)
        )

    def _checked(self, read: Callable[[], Any]) -> Any:
        """Return what is read; texts of it are UTF-8, codes among the dictionary's then."""
        try:
            found = read()
            if isinstance(found, (pa.ChunkedArray, pa.Table)):
                found.validate(full=True)
        except (pa.ArrowException, OSError, UnicodeError, KeyError) as error:
            raise damaged(self.path, f"is damaged ({error})") from error
        return found

    def _gone(self, what: str) -> CorruptError:
        return CorruptError(f"{self.path} {what}", kind="scdl-features", hint="open the archive again")


def damaged(path: Path, what: str) -> CorruptError:
    """Return the error of a file of features that is none."""
    return CorruptError(f"{path} {what}", kind="scdl-features", hint=_HINT)


def arrow_type(name: str, dtype: np.dtype[Any], samples: Callable[[], list[Any]]) -> pa.DataType:
    """Return the type that a column has in a file: what pyarrow makes of the whole of it.

    Parameters
    ----------
    samples
        Values, one of each type among them, of a column of objects.

    Raises
    ------
    ConfigError
        Parquet has no type for such values (kind ``feature-type``).
    """
    try:
        if dtype.kind == "U":
            return pa.string()
        if dtype.kind != "O":
            return pa.array(np.empty(0, dtype.newbyteorder("=")), from_pandas=True).type
        values = samples()
        try:
            return pa.array(values, from_pandas=True).type
        except pa.ArrowInvalid:
            return pa.array(values, pa.string(), from_pandas=True).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _no_type(name, error) from error


def write_frame(
    path: Path, kinds: Mapping[str, pa.DataType], batches: Iterator[Mapping[str, Callable[[pa.DataType], pa.Array]]]
) -> None:
    """Write a new Parquet file as bionemo-scdl reads it: plain texts, compressed by their dictionary.

    Pages have checksums.

    Parameters
    ----------
    kinds
        Columns and their types.
    batches
        Of the columns of some rows each, what gives them as a type.

    Raises
    ------
    ConfigError
        A value is none of its column's type (kind ``feature-type``).
    """
    schema = pa.schema([pa.field(name, kind) for name, kind in kinds.items()])
    with path.open("xb") as sink, pq.ParquetWriter(sink, schema, write_page_checksum=True) as writer:
        held: list[pa.Table] = []
        for batch in batches:
            held.append(pa.table([_column(name, batch[name], kind) for name, kind in kinds.items()], schema=schema))
            if sum(map(len, held)) >= ROWS_AT_ONCE:
                writer.write_table(pa.concat_tables(held), ROWS_AT_ONCE)
                held.clear()
        if held:
            writer.write_table(pa.concat_tables(held), ROWS_AT_ONCE)


def _column(name: str, give: Callable[[pa.DataType], pa.Array], kind: pa.DataType) -> pa.Array:
    try:
        return give(kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _no_type(name, error) from error


def _dtype_of(values: list[Any], kind: pa.DataType) -> np.dtype[Any]:
    found: np.dtype[Any] = pa.array(values, kind).to_numpy(zero_copy_only=False).dtype
    return found


def _no_type(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"feature {name!r} cannot be saved: {error}",
        kind="feature-type",
        hint="leave the column out, or make its values of one type",
    )


def _written(path: Path) -> tuple[int, int]:
    stat = os.stat(path)  # noqa: PTH116 # patched by no test, called for every read
    return stat.st_size, stat.st_mtime_ns
