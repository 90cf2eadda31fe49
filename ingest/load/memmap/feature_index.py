"""What indices of var's and of obs' features have in common: blocks, looked up by row, kept in a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from ingest.load.memmap.feature_folder import load_folder, save_folder
from ingest.load.memmap.feature_observed import ObservedBlock
from ingest.load.memmap.feature_variable import VariableBlock
from ingest.load.memmap.names import VERSION

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from ingest.load.memmap.feature_frames import Frame
    from ingest.load.memmap.feature_pieces import Array

__all__ = ["RowFeatureIndex"]

Block = TypeVar("Block", ObservedBlock, VariableBlock)


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
        index._blocks = [index._opened(frame) for frame in folder.frames]
        index._ends, index._names = list(folder.ends), list(folder.labels)
        index._version = folder.version
        return index

    @abstractmethod
    def _opened(self, frame: Frame) -> Block: ...

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
