"""Features of cells and genes, by row: bionemo-scdl's `VariableFeatureIndex` and `ObservedFeatureIndex`.

Rows lie in blocks: of obs those with the same columns, of var those with the same arrays. Texts of obs are held as
codes, columns of a saved index read when they are first asked for, and appending copies nothing that is there.

::

    feature_pieces    a column of some rows: numbers, codes and what they stand for
    feature_encode    arrays and Arrow columns as pieces
    feature_frames    a Parquet file
    feature_segments  rows that came together, in memory or in a file
    feature_observed  a block of obs: segments with the same columns
    feature_variable  a block of var: arrays for all its rows
    feature_codes     one numbering for all values of a column
    feature_folder    the folder of files
    feature_index     blocks by row
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ingest.errors import ConfigError
from ingest.load.memmap.feature_codes import Categories, united
from ingest.load.memmap.feature_encode import from_arrow, from_values
from ingest.load.memmap.feature_index import RowFeatureIndex
from ingest.load.memmap.feature_observed import ObservedBlock, grouped
from ingest.load.memmap.feature_segments import FileSegment, HeldSegment
from ingest.load.memmap.feature_variable import SharedTexts, VariableBlock

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from ingest.load.memmap.feature_frames import Frame
    from ingest.load.memmap.feature_pieces import Array

__all__ = ["ObservedFeatureIndex", "RowFeatureIndex", "VariableFeatureIndex", "are_dicts_equal"]


def are_dicts_equal(dict1: Mapping[str, Array], dict2: Mapping[str, Array]) -> bool:
    """Return whether names and arrays are the same, nan and what else is missing being equal to nothing."""
    return VariableBlock(dict1).equals(VariableBlock(dict2))


class ObservedFeatureIndex(RowFeatureIndex[ObservedBlock]):
    """Features of cells: of each a value of every column of its block."""

    def lookup(self, row: int, select_features: Sequence[str] | None = None) -> tuple[list[Any], str | None]:
        """Return a row's values, as indexing the columns' arrays gives them, and the label of its block.

        Parameters
        ----------
        row
            From 0 on.
        select_features
            Which columns, in which order; None: all. Others are not read.

        Raises
        ------
        IndexError
            There is no such row.
        ValueError
            Its block has no such column.
        """
        number = self._get_dataset_id(row)
        block = self._blocks[number]
        names = self._chosen(block, select_features)
        return block.at(int(row) - self._start(number), names), self._names[number]

    def __getitem__(self, idx: int | slice) -> tuple[list[Any], Any]:
        """Return a row as `lookup` does, or for each block of a slice a dict of arrays, with labels.

        Rows of a block come in ascending order, whatever the slice's step.

        Raises
        ------
        IndexError
            There is no such row.
        TypeError
            `idx` is neither int nor slice.
        """
        if isinstance(idx, int):
            return self.lookup(idx + self.number_of_rows() if idx < 0 else idx)
        if not isinstance(idx, slice):
            raise TypeError("Index must be int or slice")
        wanted = range(self.number_of_rows())[idx]
        ascending = wanted if wanted.step > 0 else wanted[::-1]
        found, labels = [], []
        for number, block in enumerate(self._blocks):
            mine = _between(ascending, self._start(number), self._ends[number])
            if len(mine):
                found.append({name: self._some(block, name, mine, self._start(number)) for name in block})
                labels.append(self._names[number])
        return (found, labels) if wanted.step > 0 else (found[::-1], labels[::-1])

    def take(self, rows: Array, names: Sequence[str]) -> dict[str, Array]:
        """Return columns of many rows, in the order asked for.

        Parameters
        ----------
        rows
            Integers ``(n_rows,)``, each as of `lookup`; any order, repeated or not.
        names
            Which columns.

        Returns
        -------
        dict
            Of each name an array ``(n_rows,)``: of the column's type, or over several blocks of the type that numpy
            concatenates theirs to.

        Raises
        ------
        IndexError
            There is no such row.
        ValueError
            The block of one of the rows has no such column.
        """
        wanted = np.asarray(rows, np.int64)
        for row in (wanted.min(), wanted.max()) if len(wanted) else ():
            self._get_dataset_id(int(row))
        owners = list(grouped(np.searchsorted(self._ends, wanted, side="right")))
        for number, _ in owners:
            self._chosen(self._blocks[number], names)
        return {name: self._taken(name, wanted, owners) for name in names}

    def codes(self, name: str) -> tuple[Categories, Array]:
        """Return what distinct values a column has, and the number of each row's among them.

        Returns
        -------
        categories
            In ascending order.
        codes
            The smallest signed integers that do, ``(n_rows,)``; -1 where there is no value.

        Raises
        ------
        ValueError
            A block has no such column.
        """
        for block in self._blocks:
            self._chosen(block, [name])
        return united(part for block in self._blocks for part in block.coded(name))

    def read(self, names: Sequence[str] | None = None) -> None:
        """Read columns, all unless named, so that processes forked from now on share them.

        Raises
        ------
        ValueError
            A block has no such column.
        """
        for block in self._blocks:
            block.read(self._chosen(block, names))

    def column_dims(self) -> list[int]:
        """Return the number of columns of each block."""
        return [len(block) for block in self._blocks]

    def append_features(self, features: dict[str, Array], label: str | None = None) -> None:
        """Append rows: to the last block if it has the same columns, else as a new one, of that label.

        Parameters
        ----------
        features
            Arrays ``(n_rows,)``, one a column. Without any, or any rows, nothing is appended.

        Raises
        ------
        TypeError
            `features` is no dict, or a column has values that numpy has no common type for with those before.
        ValueError
            Arrays are of different lengths.
        """
        arrays = self._checked(features)
        n_rows = len(next(iter(arrays.values()), ()))
        if n_rows:
            pieces = {name: from_values(array) for name, array in arrays.items()}
            self._append(ObservedBlock(HeldSegment(n_rows, pieces)), label)

    def append_table(self, table: pa.Table, label: str | None = None) -> None:
        """Append the rows of an Arrow table as `append_features` would their ``np.array(column)``.

        Dictionaries of texts stay codes; where there is no text, there is None.

        Raises
        ------
        TypeError
            A column has values that numpy has no common type for with those before.
        """
        if len(table) and table.num_columns:
            pieces = {name: from_arrow(table.column(name)) for name in table.column_names}
            self._append(ObservedBlock(HeldSegment(len(table), pieces)), label)

    def concat(self, other_row_index: ObservedFeatureIndex) -> ObservedFeatureIndex:
        """Append all rows of another index to this one, and return this one.

        Raises
        ------
        TypeError
            It is none, or a column has values that numpy has no common type for with those before.
        """
        if not isinstance(other_row_index, ObservedFeatureIndex):
            raise TypeError("Error: trying to concatenate something that's not a ObservedFeatureIndex.")
        blocks = [block.copy() for block in other_row_index._blocks]
        for block, label in zip(blocks, other_row_index._labels, strict=True):
            self._append(block, label)
        return self

    @classmethod
    def load(cls, datapath: str | os.PathLike[str]) -> Self:
        """Open what was saved into the folder `datapath`; columns are read when they are first asked for.

        Raises
        ------
        FileNotFoundError
            There are no features.
        CorruptError
            A file is missing, damaged, or does not belong to the others (kind ``scdl-features``).
        """
        return cls._load(datapath, rows_are_cells=True)

    def _opened(self, frame: Frame) -> ObservedBlock:
        return ObservedBlock(FileSegment(frame, 0, frame.n_rows))

    def _append(self, block: ObservedBlock, label: str | None) -> None:
        last, n_rows = self._blocks[-1] if self._blocks else None, block.n_rows
        if last is None or last.keys() != block.keys():
            self._new_block(block, n_rows, label)
        else:
            last.append(block)
            self._ends[-1] += n_rows

    @staticmethod
    def _some(block: ObservedBlock, name: str, rows: range, start: int) -> Array:
        if rows.step == 1:
            return block.span(name, rows.start - start, rows.stop - start)
        return block.take(name, np.arange(rows.start - start, rows.stop - start, rows.step))

    def _taken(self, name: str, rows: Array, owners: list[tuple[int, Array]]) -> Array:
        if len(owners) == 1:
            return self._blocks[owners[0][0]].take(name, rows - self._start(owners[0][0]))
        parts = [self._blocks[number].take(name, rows[mine] - self._start(number)) for number, mine in owners]
        if not parts:
            return np.empty(0, self._blocks[0].dtype(name) if self._blocks and name in self._blocks[0] else None)
        together = np.concatenate(parts)
        found = np.empty_like(together)
        found[np.concatenate([mine for _, mine in owners])] = together
        return found


class VariableFeatureIndex(RowFeatureIndex[VariableBlock]):
    """Features of genes: all cells of a block have the same arrays; blocks share the texts that are the same."""

    def __init__(self) -> None:
        super().__init__()
        self._texts = SharedTexts()
        self._last: tuple[VariableBlock, pa.Table] | None = None
        """A block and the table that it is equal to: files that follow each other mostly have the same genes."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def lookup(self, row: int, select_features: Sequence[str] | None = None) -> tuple[list[Array], str | None]:
        """Return the arrays of a row's block, ``(n_genes,)`` each, and its label.

        Parameters
        ----------
        row
            From 0 on.
        select_features
            Which arrays, in which order; None: all. Others are not read. They are the index's own: not copies.

        Raises
        ------
        IndexError
            There is no such row.
        ValueError
            Its block has no such array.
        """
        number = self._get_dataset_id(row)
        block = self._blocks[number]
        return [block[name] for name in self._chosen(block, select_features)], self._names[number]

    def column_dims(self) -> list[int]:
        """Return the number of genes of each block."""
        return [block.n_values for block in self._blocks]

    def append_features(self, n_obs: int, features: dict[str, Array], label: str | None = None) -> None:
        """Append rows: to the last block if it has equal arrays, else as a new one, of that label.

        Parameters
        ----------
        n_obs
            How many.
        features
            Arrays ``(n_genes,)``.

        Raises
        ------
        TypeError
            `features` is no dict.
        ValueError
            Arrays are of different lengths.
        ConfigError
            `n_obs` is negative (kind ``bad-rows``).
        """
        self._append(n_obs, VariableBlock(self._checked(features), None, self._texts), label)

    def append_table(self, n_obs: int, table: pa.Table, label: str | None = None) -> None:
        """Append rows with the columns of an Arrow table, as `append_features` would with ``np.array(column)``.

        Raises
        ------
        ConfigError
            `n_obs` is negative (kind ``bad-rows``).
        """
        if self._is_last(table):
            self._grow(n_obs)
            return
        names: Iterable[str] = table.column_names
        arrays = {name: np.array(from_arrow(table.column(name)).take(slice(None))) for name in names}
        self._append(n_obs, VariableBlock(arrays, None, self._texts), label)
        self._last = (self._blocks[-1], table)

    def concat(self, other_row_index: VariableFeatureIndex) -> VariableFeatureIndex:
        """Append all rows of another index to this one, and return this one.

        Raises
        ------
        TypeError
            It is none.
        """
        if not isinstance(other_row_index, VariableFeatureIndex):
            raise TypeError("Error: trying to concatenate something that's not a VariableFeatureIndex.")
        rows = np.diff([0, *other_row_index._ends]).tolist()
        blocks, labels = other_row_index._feature_arr, other_row_index._labels
        for n_obs, block, label in zip(rows, blocks, labels, strict=True):
            self._append(n_obs, block, label)
        return self

    @classmethod
    def load(cls, datapath: str | os.PathLike[str]) -> Self:
        """Open what was saved into the folder `datapath`; arrays are read when they are first asked for.

        Raises
        ------
        FileNotFoundError
            There are no features.
        CorruptError
            A file is missing, damaged, or does not belong to the others (kind ``scdl-features``).
        """
        return cls._load(datapath, rows_are_cells=False)

    def _opened(self, frame: Frame) -> VariableBlock:
        return VariableBlock(None, frame, self._texts)

    def _append(self, n_obs: int, block: VariableBlock, label: str | None) -> None:
        if self._blocks and self._blocks[-1].equals(block):
            self._grow(n_obs)
        elif n_obs < 0:
            raise _not_rows(n_obs)
        else:
            self._new_block(block, int(n_obs), label)

    def _grow(self, n_obs: int) -> None:
        if n_obs < 0:
            raise _not_rows(n_obs)
        self._ends[-1] += int(n_obs)

    def _is_last(self, table: pa.Table) -> bool:
        """Return whether the last block is equal to a table, for sure; a null of Arrow's may be a NaN of numpy's."""
        if self._last is None or not self._blocks or self._blocks[-1] is not self._last[0]:
            return False
        return not any(column.null_count for column in table.columns) and bool(table.equals(self._last[1]))


def _not_rows(n_obs: int) -> ConfigError:
    return ConfigError(f"{n_obs} rows cannot be appended", kind="bad-rows")


def _between(rows: range, start: int, stop: int) -> range:
    """Return those of ascending `rows` that are in ``[start, stop)``."""
    first = rows.start + max(0, -(-(start - rows.start) // rows.step)) * rows.step
    return range(first, min(stop, rows.stop), rows.step)
