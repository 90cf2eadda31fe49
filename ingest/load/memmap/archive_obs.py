"""obs of an archive's cells, as loaders ask for it; see `ingest.load.cells.ObsColumns`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import ConfigError, CorruptError
from ingest.grammar import parse_filter, unknown_column
from ingest.load.obs import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.memmap.features import ObservedFeatureIndex

__all__ = ["ArchiveObs"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]

_SAMPLES = ("dataset_id", "SRX_accession")
_SOURCE = "source"
_PIECE_CELLS = 1 << 20


class ArchiveObs:
    """The columns that all blocks have, and ``source``: the label of a cell's block, unless there is such a column.

    Parameters
    ----------
    index
        The archive's; of another number of rows, it is not looked at.
    n_cells
        Of the archive.
    name
        Of it, for messages.
    """

    def __init__(self, index: ObservedFeatureIndex, n_cells: int, name: str) -> None:
        self._index, self._n_cells, self._name = index, n_cells, name
        blocks = index._feature_arr if index.number_of_rows() == n_cells else []
        own = tuple(column for column in (blocks[0] if blocks else ()) if all(column in block for block in blocks))
        self._labels = [str(label) for label in index._labels] if blocks else [name]
        self._ends = np.asarray(index._cumulative_sum_index[1:]) if blocks else np.array([n_cells])
        self._is_own = frozenset(own)
        self.columns: tuple[str, ...] = own if _SOURCE in own else (*own, _SOURCE)
        self._coded: dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]] = {}

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    @property
    def experiment_column(self) -> str:
        """The column that says which experiment a cell is of."""
        return next((column for column in _SAMPLES if column in self), _SOURCE)

    def categories(self, column: str) -> tuple[str, ...] | None:
        """Return the distinct texts of a column, sorted; None of a column of numbers.

        Raises
        ------
        ConfigError
            There is no such column.
        """
        self._check(column)
        return self._codes(column)[0] if self._is_text(column) else None

    def take(self, column: str, rows: Int64) -> Column:
        """Return a column of some cells, in the order asked for.

        Raises
        ------
        ConfigError
            There is no such column.
        """
        self._check(column)
        if self._is_text(column):
            categories, codes = self._codes(column)
            return Column(codes[rows].astype(np.int32), categories)
        return Column(self._index.take(rows, [column])[column], None)

    def having(self, column: str, texts: Sequence[str]) -> Int64:
        """Return the cells whose `column` is one of `texts`, int64, ascending.

        Raises
        ------
        ConfigError
            There is no such column of texts.
        """
        categories = self.categories(column)
        if categories is None:
            raise ConfigError(f"{column} is a column of numbers", kind="bad-column")
        wanted = np.array([*(category in set(texts) for category in categories), False])
        return np.flatnonzero(wanted[self._codes(column)[1]])

    def where(self, text: str) -> Int64:
        """Return the cells that match a filter of the index grammar, int64, ascending.

        Raises
        ------
        ConfigError
            The filter is none, or names a column that is not there.
        """
        wanted = parse_filter(text)
        for column in wanted.columns:
            self._check(column)
        found = [np.empty(0, np.int64)]
        for start in range(0, self._n_cells, _PIECE_CELLS):
            rows = np.arange(start, min(start + _PIECE_CELLS, self._n_cells))
            batch = pa.RecordBatch.from_pydict({name: self._arrow(name, rows) for name in wanted.columns})
            found.append(start + np.flatnonzero(wanted.mask(batch).to_numpy(zero_copy_only=False)))
        return np.concatenate(found)

    def _check(self, column: str) -> None:
        if column not in self.columns:
            raise unknown_column(column, self.columns, self._name)

    def _is_text(self, column: str) -> bool:
        if column not in self._is_own:
            return True
        return any(block.dtype(column).kind in "OU" for block in self._index._feature_arr)

    def _codes(self, column: str) -> tuple[tuple[str, ...], np.ndarray[Any, Any]]:
        found = self._coded.get(column)
        if found is None:
            if column in self._is_own:
                try:
                    values, codes = self._index.codes(column)
                except TypeError as error:  # lists and structs have no codes
                    said = f"{self._name}: column {column!r} of obs holds neither texts nor numbers ({error})"
                    raise CorruptError(said, kind="scdl-features") from error
                found = tuple(map(str, values)), codes
            else:
                texts = sorted(set(self._labels))
                numbers = np.array([texts.index(label) for label in self._labels], np.int32)
                found = tuple(texts), np.repeat(numbers, np.diff(self._ends, prepend=0))
            self._coded[column] = found
        return found

    def _arrow(self, column: str, rows: Int64) -> pa.Array:
        found = self.take(column, rows)
        if found.categories is None:
            return pa.array(found.values)
        codes = pa.array(found.values, pa.int32(), mask=found.values < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(found.categories, pa.string()))
