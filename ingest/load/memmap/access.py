"""Single rows, their features and their neighbours, as bionemo-scdl gives them."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
    from ingest.load.memmap.neighbors import Neighbors, NeighborSettings

__all__ = ["RowAccess"]

Array = np.ndarray[Any, Any]
Row = tuple[Array, Array]
Features = list[Any] | None

_NO_NEIGHBORS = "Cannot include neighbor data: neighbor functionality is disabled or no neighbor data available"


class RowAccess(ABC):
    """Rows by number; whoever inherits it has mapped the arrays."""

    load_neighbors: bool
    _values: Array
    _columns: Array
    _row_ends: Array
    _var_feature_index: VariableFeatureIndex
    _obs_feature_index: ObservedFeatureIndex
    _neighbors: Neighbors | None
    _neighbor_settings: NeighborSettings

    @abstractmethod
    def number_of_rows(self) -> int:
        """Return the number of cells."""
        ...

    def get_row(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: list[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: list[str] | None = None,
    ) -> tuple[Row, Features, Features]:
        """Return a cell: its stored values and their columns, and features where they are asked for.

        Parameters
        ----------
        var_feature_names, obs_feature_names
            Which features, in which order; None: all.

        Returns
        -------
        tuple
            ``(values, columns)``, views of the archive ``(nnz,)``; a list of arrays ``(n_columns,)``, or None; a list
            of values, or None.

        Raises
        ------
        IndexError
            There is no such row.
        ValueError
            There is no such feature.
        """
        index = operator.index(index)  # numpy's small numbers have no room for one more
        if not 0 <= index < len(self._row_ends) - 1:
            raise IndexError(f"Row index {index} is not valid: rows are numbered from 0 to {len(self._row_ends) - 2}.")
        start, end = self._row_ends[index], self._row_ends[index + 1]
        var = self._var_feature_index.lookup(index, var_feature_names)[0] if return_var_features else None
        obs = self._obs_feature_index.lookup(index, obs_feature_names)[0] if return_obs_features else None
        return (self._values[start:end], self._columns[start:end]), var, obs

    def get_row_padded(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: list[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: list[str] | None = None,
    ) -> tuple[Array, Features, Features]:
        """Return a cell as float64 ``(n_columns,)``, and features as `get_row` does."""
        row, var, obs = self.get_row(
            index, return_var_features, var_feature_names, return_obs_features, obs_feature_names
        )
        return self._padded(index, row), var, obs

    def get_row_column(self, index: int, column: int | None, impute_missing_zeros: bool = True) -> Any:
        """Return one stored value; where none is stored 0.0, or None unless `impute_missing_zeros`."""
        if column is None:
            return None
        (values, columns), _, _ = self.get_row(index)
        found = np.flatnonzero(columns == column)  # wherever it stands: columns need not ascend
        if len(found):
            return values[found[0]]
        return 0.0 if impute_missing_zeros else None

    def get_row_with_neighbor(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: list[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: list[str] | None = None,
    ) -> dict[str, Any]:
        """Return a cell and one of its neighbours.

        ::

            current_cell, next_cell                 (values, columns) of each
            current_cell_index, next_cell_index     their numbers
            var_features, obs_features              of the cell, as get_row has them

        Raises
        ------
        ValueError
            Neighbours were not asked for, or the archive has none.
        """
        self._check_neighbors()
        row, var, obs = self.get_row(
            index, return_var_features, var_feature_names, return_obs_features, obs_feature_names
        )
        neighbor = self.sample_neighbor_index(index)
        other = row if neighbor == index else self.get_row(neighbor)[0]
        return _pair(row, other, index, neighbor, var, obs)

    def get_row_padded_with_neighbor(
        self,
        index: int,
        return_var_features: bool = False,
        var_feature_names: list[str] | None = None,
        return_obs_features: bool = False,
        obs_feature_names: list[str] | None = None,
    ) -> dict[str, Any]:
        """Return what `get_row_with_neighbor` does, each cell as float64 ``(n_columns,)``."""
        found = self.get_row_with_neighbor(
            index, return_var_features, var_feature_names, return_obs_features, obs_feature_names
        )
        neighbor = found["next_cell_index"]
        row = self._padded(index, found["current_cell"])
        other = row if neighbor == index else self._padded(neighbor, found["next_cell"])
        return {**found, "current_cell": row, "next_cell": other}

    def get_neighbor_indices_for_cell(self, cell_index: int) -> Array:
        """Return the neighbours of a cell, uint32 ``(n,)``; empty where neighbours were not asked for.

        Raises
        ------
        IndexError
            There is no such cell.
        ValueError
            Neighbours were asked for, and the archive has none.
        """
        neighbors = self._neighbors_of(cell_index)
        return np.array([], dtype=int) if neighbors is None else neighbors.indices[neighbors.of(int(cell_index))]

    def get_neighbor_weights_for_cell(self, cell_index: int) -> Array:
        """Return the weights of a cell's neighbours, float32 ``(n,)``; empty where neighbours were not asked for.

        Raises
        ------
        IndexError, ValueError
            As `get_neighbor_indices_for_cell`.
        """
        neighbors = self._neighbors_of(cell_index)
        return np.array([], dtype=float) if neighbors is None else neighbors.values[neighbors.of(int(cell_index))]

    def sample_neighbor_index(self, cell_index: int) -> int:
        """Return one neighbour of a cell as the strategy says, or the cell itself where there is none.

        Raises
        ------
        IndexError, ValueError
            As `get_neighbor_indices_for_cell`.
        """
        neighbors = self._neighbors_of(cell_index)
        return cell_index if neighbors is None else neighbors.sample(int(cell_index), self._neighbor_settings)

    def get_neighbor_stats(self) -> dict[str, Any]:
        """Return how many neighbours cells have: total, least, most, on average, and how many cells have none."""
        return {"has_neighbors": False} if self._neighbors is None else self._neighbors.stats()

    def _padded(self, index: int, row: Row) -> Array:
        found = np.zeros(self._var_feature_index.number_vars_at_row(index))
        found[row[1]] = row[0]
        return found

    def _check_neighbors(self) -> None:
        if not self.load_neighbors or self._neighbors is None:
            raise ValueError(_NO_NEIGHBORS)

    def _neighbors_of(self, cell: int) -> Neighbors | None:
        n_rows, cell = self.number_of_rows(), operator.index(cell)
        if not 0 <= cell < n_rows:
            raise IndexError(f"Cell index {cell} out of bounds for dataset with {n_rows} cells")
        if self.load_neighbors and self._neighbors is None:
            raise ValueError("Neighbor functionality was enabled but no neighbor data is available")
        return self._neighbors if self.load_neighbors else None


def _pair(row: Row, other: Row, index: int, neighbor: int, var: Features, obs: Features) -> dict[str, Any]:
    return {
        "current_cell": row,
        "next_cell": other,
        "current_cell_index": index,
        "next_cell_index": neighbor,
        "var_features": var,
        "obs_features": obs,
    }
