"""Features of cells and genes, by row: bionemo-scdl's `VariableFeatureIndex` and `ObservedFeatureIndex`.

Rows lie in blocks: of obs those with the same columns, of var those with the same arrays. Texts of obs are held as
codes, columns of a saved index read when they are first asked for, and appending copies nothing that is there.

::

    feature_pieces    a column of some rows: numbers, codes and what they stand for
    feature_frames    a Parquet file
    feature_blocks    rows with like columns, in memory or in a file
    feature_folder    the folder of files
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from ingest.errors import ConfigError
from ingest.load.memmap.feature_blocks import FileSegment, HeldSegment, ObservedBlock, VariableBlock, grouped
from ingest.load.memmap.feature_codes import Categories, united
from ingest.load.memmap.feature_folder import load_folder, save_folder
from ingest.load.memmap.feature_pieces import from_arrow, from_values
from ingest.load.memmap.names import VERSION

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from ingest.load.memmap.feature_frames import Frame
    from ingest.load.memmap.feature_pieces import Array

__all__ = ["ObservedFeatureIndex", "RowFeatureIndex", "VariableFeatureIndex", "are_dicts_equal"]

Block = TypeVar("Block", ObservedBlock, VariableBlock)


def are_dicts_equal(dict1: Mapping[str, Array], dict2: Mapping[str, Array]) -> bool:
    """Return whether names and arrays are the same, nan and what else is missing being equal to nothing."""
    return VariableBlock(dict1).equals(VariableBlock(dict2))


class RowFeatureIndex(ABC, Generic[Block]):
    """Features of rows, in blocks."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._ends: list[int] = []
        self._names: list[str | None] = []
        self._version = VERSION

    @property
    def _feature_arr(self) -> list[Block]:
        """Mappings of names to arrays, one a block."""
        return list(self._blocks)

    @property
    def _cumulative_sum_index(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 ``(n_blocks + 1,)``: -1, then the rows up to and with each block."""
        return np.array([-1, *self._ends], np.int64)

    @property
    def _labels(self) -> list[str | None]:
        """Of each block."""
        return list(self._names)

    @property
    def _num_entries_per_row(self) -> list[int]:
        """Of each block."""
        return self.column_dims()

    def version(self) -> str:
        """Return the version of bionemo-scdl whose format this is, or that wrote what was loaded."""
        return self._version

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._blocks)

    @abstractmethod
    def lookup(self, row: int, select_features: Sequence[str] | None = None) -> tuple[list[Any], str | None]:
        """Return features of a row and the label of its block."""
        ...

    @abstractmethod
    def column_dims(self) -> list[int]:
        """Return, for each block, the features of one of its rows."""
        ...

    def number_vars_at_row(self, row: int) -> int:
        """Return the number of features of `row`: columns of obs, values of a column of var.

        Raises
        ------
        IndexError
            There is no such row.
        """
        return self.column_dims()[self._get_dataset_id(row)]

    def number_of_values(self) -> list[int]:
        """Return, for each block, its rows times the features of one; ``[0]`` where there are no blocks."""
        rows = np.diff([0, *self._ends]).tolist()
        return [n_rows * n for n_rows, n in zip(rows, self.column_dims(), strict=True)] or [0]

    def number_of_rows(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    def save(self, datapath: str | os.PathLike[str]) -> None:
        """Write all of it into the folder `datapath`, in place of the features there.

        Raises
        ------
        ConfigError
            A column is of no type that Parquet has (kind ``feature-type``), or the disk is full (``disk-full``).
        ConflictError
            The folder holds something else, too (kind ``not-features``).
        """
        save_folder(datapath, self._blocks, self._cumulative_sum_index, self._names, self._version)

    @classmethod
    @abstractmethod
    def load(cls, datapath: str | os.PathLike[str]) -> Self:
        """Open what was saved into the folder `datapath`; columns are read when they are first asked for.

        Raises
        ------
        FileNotFoundError
            There are no features.
        CorruptError
            A file is missing, damaged, or does not belong to the others (kind ``scdl-features``).
        """
        ...

    @classmethod
    def _load(cls, datapath: str | os.PathLike[str], *, rows_are_cells: bool) -> Self:
        folder = load_folder(datapath, rows_are_cells=rows_are_cells)
        index = cls()
        index._blocks = [cls._opened(frame) for frame in folder.frames]
        index._ends, index._names = list(folder.ends), list(folder.labels)
        index._version = folder.version
        return index

    @staticmethod
    @abstractmethod
    def _opened(frame: Frame) -> Block: ...

    def _get_dataset_id(self, row: int) -> int:
        """Return the number of the block that has `row`."""
        if row < 0:
            raise IndexError(f"Row index {row} is not valid. It must be non-negative.")
        if not self._ends:
            raise IndexError("There are no features to lookup.")
        if row >= self._ends[-1]:
            raise IndexError(
                f"Row index {row} is larger than number of rows in FeatureIndex ({self.number_of_rows()})."
            )
        return bisect_right(self._ends, row)

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _chosen(self, block: Block, names: Sequence[str] | None) -> Sequence[str]:
        if names is None:
            return list(block)
        for name in names:
            if name not in block:
                raise ValueError(f"Provided feature column {name} in select_features not present in dataset.")
        return names

    def _checked(self, features: object) -> dict[str, Array]:
        """Return arrays of one length."""
        if not isinstance(features, dict):
            raise TypeError(f"{type(self).__name__}.append_features expects a dict of arrays")
        arrays = {name: np.asarray(values) for name, values in features.items()}
        if len({len(array) for array in arrays.values()}) > 1:
            raise ValueError("All feature arrays must have the same length")
        return arrays

    def _new_block(self, block: Block, n_rows: int, label: str | None) -> None:
        self._blocks.append(block)
        self._ends.append(self.number_of_rows() + n_rows)
        self._names.append(label)


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

    @staticmethod
    def _opened(frame: Frame) -> ObservedBlock:
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
    """Features of genes: all cells of a block have the same arrays."""

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
        self._append(n_obs, VariableBlock(self._checked(features)), label)

    def append_table(self, n_obs: int, table: pa.Table, label: str | None = None) -> None:
        """Append rows with the columns of an Arrow table, as `append_features` would with ``np.array(column)``.

        Raises
        ------
        ConfigError
            `n_obs` is negative (kind ``bad-rows``).
        """
        names: Iterable[str] = table.column_names
        arrays = {name: np.array(from_arrow(table.column(name)).take(slice(None))) for name in names}
        self._append(n_obs, VariableBlock(arrays), label)

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

    @staticmethod
    def _opened(frame: Frame) -> VariableBlock:
        return VariableBlock(None, frame)

    def _append(self, n_obs: int, block: VariableBlock, label: str | None) -> None:
        if n_obs < 0:
            raise ConfigError(f"{n_obs} rows cannot be appended", kind="bad-rows")
        if self._blocks and self._blocks[-1].equals(block):
            self._ends[-1] += int(n_obs)
        else:
            self._new_block(block, int(n_obs), label)


def _between(rows: range, start: int, stop: int) -> range:
    """Return those of ascending `rows` that are in ``[start, stop)``."""
    first = rows.start + max(0, -(-(start - rows.start) // rows.step)) * rows.step
    return range(first, min(stop, rows.stop), rows.step)
