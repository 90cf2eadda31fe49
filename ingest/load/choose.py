"""Which cells, in which order: from what a person asks for to a sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ConfigError, EmptySelectionError
from ingest.grammar import did_you_mean, parse_filter
from ingest.load.order.epoch import Batching
from ingest.load.order.samplers import (
    Sampler,
    Sequential,
    Shuffled,
    Weighted,
    balanced_weights,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.cells import Cells

__all__ = ["choose_cells", "choose_sampler"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


def choose_cells(
    cells: Cells,
    *,
    rows: Int64 | Sequence[int] | None = None,
    where: str | None = None,
    include_srx_accessions: Sequence[str] | None = None,
) -> Int64 | None:
    """Return the cells that all conditions leave, int64, ascending but where `rows` says otherwise; None: all.

    Raises
    ------
    EmptySelectionError
        No cell is left.
    ConfigError
        A condition names what is not there.
    """
    left = None if rows is None else cells.numbers(rows)
    if where is not None:
        found = cells.where(where)
        left = found if left is None else left[np.isin(left, found)]
    if include_srx_accessions is not None:
        found = cells.of_accessions(include_srx_accessions)
        left = found if left is None else left[np.isin(left, found)]
    if left is not None and not len(left):
        raise EmptySelectionError(
            f"no cell of {cells!r} is asked for", kind="no-cells", hint=_why_none(cells, where) if where else None
        )
    return left


def _why_none(cells: Cells, where: str) -> str | None:
    """Say which text of a filter is none of its column's."""
    wanted = parse_filter(where)
    known = {column: texts for column in wanted.columns if (texts := cells.categories(column)) is not None}
    absent = next(iter(wanted.absent_values(known)), None)
    if absent is None:
        return None
    column, text = absent
    return f"{column} is never {text!r}{did_you_mean(text, known[column])}"


def choose_sampler(
    cells: Cells,
    batch_size: int,
    *,
    chosen: Int64 | None = None,
    shuffle: bool = True,
    seed: int = 0,
    block_cells: int | None = None,
    window_cells: int | None = None,
    drop_last: bool = False,
    balance: str | None = None,
    weights: Sequence[float] | np.ndarray[Any, Any] | None = None,
    epoch_cells: int | None = None,
) -> Sampler:
    """Return the sampler of a loader.

    Parameters
    ----------
    chosen
        Cells wanted; None: all.
    block_cells, window_cells
        See `ingest.load.order.epoch.Batching`; None: as these cells are best read.
    balance
        An obs column whose values are to come equally often.
    weights
        Of every cell of the dataset, or of every chosen one.
    epoch_cells
        Cells drawn in an epoch, with `balance` or `weights`.

    Raises
    ------
    ConfigError
        These do not go together, or a number cannot be.
    """
    if balance is not None and weights is not None:
        raise ConfigError("balance and weights both say how often cells come: give one", kind="bad-order")
    block = cells.block_cells if block_cells is None else block_cells
    window = cells.window_cells if window_cells is None else window_cells
    batching = Batching(batch_size, block, max(window, batch_size), drop_last)
    if balance is None and weights is None:
        if epoch_cells is not None:
            raise ConfigError("epoch_cells goes with balance or weights", kind="bad-order")
        kind = Shuffled if shuffle else Sequential
        return kind(cells.n_cells, batching, seed, chosen)
    if not shuffle:
        raise ConfigError("cells drawn by weight have no order to keep: leave shuffle on", kind="bad-order")
    drawn = _balanced(cells, balance, chosen) if balance is not None else _weights(cells, weights, chosen)
    return Weighted(cells.n_cells, batching, seed, chosen, drawn, epoch_cells)


def _balanced(cells: Cells, column: str, chosen: Int64 | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows = np.arange(cells.n_cells) if chosen is None else chosen
    found = cells.obs.take(column, rows)
    if found.categories is None:
        _, codes = np.unique(found.values, return_inverse=True)
        return balanced_weights(codes)
    return balanced_weights(found.values, found.categories)


def _weights(cells: Cells, weights: Any, chosen: Int64 | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    given = np.asarray(weights, np.float64)
    return given[chosen] if chosen is not None and given.shape == (cells.n_cells,) else given
