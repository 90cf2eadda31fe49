"""A Parquet file in a bucket or on a disk, of which only the columns and row groups asked for are read."""

from __future__ import annotations

import bisect
import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.dictionaries import is_text
from ingest.errors import ConfigError, SourceError, TransientError
from ingest.fetch.h5ad_remote import retried

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ParquetTable"]


class _Ranges(io.RawIOBase):
    """A seekable file over exact ranges of one object."""

    def __init__(self, filesystem: Any, url: str) -> None:
        super().__init__()
        self._filesystem, self._url = filesystem, url
        self._size = int(retried(url, lambda: filesystem.info(url))["size"])
        self._at = 0
        self.bytes_read = 0
        self.requests = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        if stop <= self._at:
            return b""
        data = retried(self._url, lambda: self._range(self._at, stop))
        self._at = stop
        self.bytes_read += len(data)
        self.requests += 1
        return data

    def _range(self, start: int, stop: int) -> bytes:
        data = bytes(self._filesystem.cat_file(self._url, start=start, end=stop))
        if len(data) != stop - start:
            raise TransientError(
                f"{self._url}: {len(data)} bytes came where {stop - start} were asked", kind="short-read"
            )
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


class ParquetTable:
    """One table. Texts come as dictionaries, but for those of `plain`.

    Parameters
    ----------
    filesystem
        Of fsspec.
    url
        Of the file.
    plain
        Columns of texts that hardly repeat.

    Raises
    ------
    ConfigError
        ``no-metadata``: there is no such file, or it is no Parquet file.
    CredentialsError, TransientError
        The store refuses, or does not answer.
    """

    def __init__(self, filesystem: Any, url: str, *, plain: Sequence[str] = ()) -> None:
        self.url = url
        self.groups_read = 0
        """Row groups read so far, each as often as it was."""
        try:
            self._ranges = _Ranges(filesystem, url)
            self._file = self._opened(plain)
        except SourceError as error:
            raise ConfigError(
                f"{url}: there is no such table", kind="no-metadata", hint="--root names the folder of the releases"
            ) from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
            raise ConfigError(f"{url}: no Parquet file ({error})", kind="no-metadata") from error

    def _opened(self, plain: Sequence[str]) -> pq.ParquetFile:
        whole = pq.read_metadata(pa.PythonFile(self._ranges, mode="r"))
        texts = [field.name for field in whole.schema.to_arrow_schema() if is_text(field.type)]
        return pq.ParquetFile(
            pa.PythonFile(self._ranges, mode="r"),
            metadata=whole,
            read_dictionary=[name for name in texts if name not in plain],
            pre_buffer=True,
        )

    @property
    def schema(self) -> pa.Schema:
        """Columns, in the file's order."""
        return self._file.schema_arrow

    @property
    def n_rows(self) -> int:
        """Rows of all groups."""
        return int(self._file.metadata.num_rows)

    @property
    def n_groups(self) -> int:
        """Row groups of the file."""
        return int(self._file.metadata.num_row_groups)

    @property
    def bytes_read(self) -> int:
        """Bytes read so far, the footer's included."""
        return self._ranges.bytes_read

    def groups_with(self, column: str, values: Sequence[str]) -> list[int]:
        """Return the row groups that may hold one of `values`, by the extremes that the file states for each group."""
        ascending = sorted(values)
        at = self._file.metadata.schema.names.index(column)
        return [group for group in range(self.n_groups) if self._may_hold(group, at, ascending)]

    def _may_hold(self, group: int, column: int, ascending: Sequence[str]) -> bool:
        facts = self._file.metadata.row_group(group).column(column).statistics
        if facts is None or not facts.has_min_max:
            return True
        try:
            least, most = facts.min, facts.max
        except UnicodeDecodeError:  # reading it tells what else is damaged
            return True
        first = bisect.bisect_left(ascending, least)
        return first < len(ascending) and ascending[first] <= most

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Return `columns` of all rows: for tables that are small."""
        parts = list(self.batches(columns, range(self.n_groups)))
        return pa.concat_tables(parts) if parts else self.schema.empty_table().select(list(columns))

    def batches(self, columns: Sequence[str], groups: Sequence[int]) -> Iterator[pa.Table]:
        """Yield `columns` of the row groups asked for, one group at a time.

        Raises
        ------
        ConfigError
            ``no-metadata``: the file is damaged.
        CredentialsError, TransientError
            The store refuses, or does not answer.
        """
        for group in groups:
            self.groups_read += 1
            try:
                # Group by group: asked for several at once, Arrow would buffer all of them before the first row.
                table = self._file.read_row_group(group, columns=list(columns))
                table.validate(full=True)  # Arrow believes that texts are UTF-8
            except (pa.ArrowException, OSError) as error:
                raise ConfigError(f"{self.url}: cannot be read ({error})", kind="no-metadata") from error
            yield table
