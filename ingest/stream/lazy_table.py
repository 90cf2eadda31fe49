"""obs or var of a file, read when it is wanted and no more of it than is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from ingest.stream.handle import AnnData

__all__ = ["LazyTable"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LazyTable:
    """The table `name` of a handle's file: a column is read by its name, what else is asked is asked of all of it.

    Nothing is kept: each reading is of the file as it is then. What a DataFrame can do, it does on a table read whole.
    """

    handle: AnnData
    name: Literal["obs", "var"]

    def load(self) -> pd.DataFrame:
        """Return the whole table, ``(n_rows, n_columns)``.

        Raises
        ------
        AbsentError, HostileFileError
            As of `ingest.stream.tables.load_obs`.
        """
        from ingest.stream.elements import read_table

        return read_table(self.handle.opened, self.name)

    def head(self, n: int = 5) -> pd.DataFrame:
        """Return the first `n` rows, reading only these; of a negative `n`, all but the last ``-n``."""
        from ingest.stream.elements import read_rows

        return read_rows(self.handle.opened, self.name, 0, n if n >= 0 else max(0, len(self) + n))

    @property
    def columns(self) -> pd.Index[Any]:
        """Names of the columns, in order."""
        import pandas as pd

        from ingest.stream.elements import table_columns

        return pd.Index(table_columns(self.handle.opened, self.name))

    @property
    def index(self) -> pd.Index[Any]:
        """Names of the rows."""
        from ingest.stream.elements import read_rows

        return read_rows(self.handle.opened, self.name, 0, len(self), columns=()).index

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), len(self.columns)

    def __len__(self) -> int:
        from ingest.fetch.h5ad_table import open_table

        return open_table(self.handle.opened, self.name).n_rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, item: Any) -> Any:
        from ingest.stream.elements import read_rows

        if isinstance(item, str):
            return read_rows(self.handle.opened, self.name, 0, len(self), columns=[item])[item]
        if isinstance(item, list) and item and all(isinstance(name, str) for name in item):
            return read_rows(self.handle.opened, self.name, 0, len(self), columns=item)
        if isinstance(item, slice) and all(bound is None or isinstance(bound, int) for bound in _bounds(item)):
            start, stop, step = item.indices(len(self))
            if step > 0:  # by places, as names are text
                return read_rows(self.handle.opened, self.name, start, stop)[::step]
        return self.load()[item]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.load(), name)

    def __repr__(self) -> str:
        n_rows, n_columns = self.shape
        what = f"{self.name}: {n_rows:,} rows x {n_columns:,} columns; .load() reads them"
        return f"{what}\n{self.head()}" if n_rows and n_columns else what


def _bounds(item: slice) -> tuple[Any, Any, Any]:
    return item.start, item.stop, item.step
