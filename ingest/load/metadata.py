"""What comes with a batch's counts: which cells they are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.load.cells import Cells

__all__ = ["MetadataReader"]

_CELL, _EXPERIMENT = "cell_id", "experiment_id"


@dataclass(frozen=True, eq=False)
class MetadataReader:
    """Says of cells what a training loop asks for.

    Parameters
    ----------
    cells
        The datasets.
    columns
        Of obs, beside the two that are always there: ``cell_id``, names as texts, and ``experiment_id``.

    Raises
    ------
    ConfigError
        There is no such column.
    """

    cells: Cells
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column in self.columns:
            if column in (_CELL, _EXPERIMENT):
                raise ConfigError(f"{column} is always there", kind="bad-column")
            self.cells.categories(column)

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """What the codes of each text column stand for, ``experiment_id`` among them."""
        named = {_EXPERIMENT: self.cells.experiment_column, **{column: column for column in self.columns}}
        found = {name: self.cells.categories(column) for name, column in named.items()}
        return {name: texts for name, texts in found.items() if texts is not None}

    def of(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Sequence[str] | np.ndarray[Any, Any]]:
        """Return names ``(n_cells,)``, codes int64 (-1: none) of text columns, and numbers of the others."""
        named = {_EXPERIMENT: self.cells.experiment_column, **{column: column for column in self.columns}}
        found: dict[str, Any] = {_CELL: self.cells.cell_ids(rows)}
        for name, column in named.items():
            values = self.cells.obs.take(column, rows)
            found[name] = values.values if values.categories is None else values.values.astype(np.int64)
        return found
