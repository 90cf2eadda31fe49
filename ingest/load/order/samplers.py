"""Samplers: who decides the order of cells, and never sees any.

A sampler is a value: equal ones give equal epochs, and its ``repr`` says all about it but the cells themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ingest.errors import ConfigError, EmptySelectionError
from ingest.load.order.draws import uniform
from ingest.load.order.epoch import Batching, Blocks, EpochOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BLOCK_CELLS", "WINDOW_CELLS", "Sampler", "Sequential", "Shuffled", "Weighted", "balanced_weights"]

Rows = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

BLOCK_CELLS = 64
WINDOW_CELLS = 8192

_OF_COPIES = 3


class Sampler(Protocol):
    """The seam between whoever wants cells in some order and whoever brings them."""

    @property
    def seed(self) -> int:
        """What the order is drawn from."""
        ...

    @property
    def batching(self) -> Batching:
        """How cells are cut up."""
        ...

    def epoch(self, number: int, *, rank: int = 0, world_size: int = 1) -> EpochOrder:
        """Return the order of an epoch: pure in (seed, number, rank, world_size)."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a position to mean the same batch."""
        ...


@dataclass(frozen=True)
class _OfCells:
    n_cells: int
    """Of the dataset."""
    batching: Batching
    seed: int = 0
    cells: Rows | None = field(default=None, repr=False, compare=False)
    """int64, distinct global numbers of the cells wanted; None: all. Neighbours are read together: best ascending."""

    def __post_init__(self) -> None:
        if not self._n:
            raise EmptySelectionError("no cell is left to train from", kind="no-cells")
        if self.cells is not None and not (int(self.cells.min()) >= 0 and int(self.cells.max()) < self.n_cells):
            raise ConfigError(f"cells are numbered from 0 to {self.n_cells - 1:,}", kind="row-out-of-range")

    @property
    def _n(self) -> int:
        return self.n_cells if self.cells is None else len(self.cells)

    @cached_property
    def _cells_digest(self) -> str | None:
        if self.cells is None:
            return None
        return hashlib.sha256(np.ascontiguousarray(self.cells, "<i8").tobytes()).hexdigest()[:32]

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a position to mean the same batch."""
        cut = self.batching
        return {
            "sampler": type(self).__name__,
            "n_cells": self.n_cells,
            "cells": self._cells_digest,
            "seed": self.seed,
            "batch_cells": cut.batch_cells,
            "block_cells": cut.block_cells,
            "window_cells": cut.window_cells,
            "drop_last": cut.drop_last,
        }


@dataclass(frozen=True)
class Sequential(_OfCells):
    """Cells in the order in which they are asked for, every epoch."""

    def epoch(self, number: int, *, rank: int = 0, world_size: int = 1) -> EpochOrder:
        """Return the one order; ranks take consecutive parts."""
        blocks = Blocks(self._n, self.batching.block_cells)
        return EpochOrder(blocks, self.batching, self.seed, number, rank, world_size, shuffle=False, cells=self.cells)


@dataclass(frozen=True)
class Shuffled(_OfCells):
    """Every cell once an epoch: blocks of neighbours in random order, cells shuffled within windows of many blocks."""

    def epoch(self, number: int, *, rank: int = 0, world_size: int = 1) -> EpochOrder:
        """Draw the order of an epoch."""
        blocks = Blocks.shuffled(self._n, self.batching.block_cells, self.seed, number)
        return EpochOrder(blocks, self.batching, self.seed, number, rank, world_size, cells=self.cells)


@dataclass(frozen=True)
class Weighted(_OfCells):
    """Cells as often as their weights say, on average: an epoch has `n_draws` of them, some several times.

    A cell of weight w is drawn floor or ceil of ``n_draws * w / sum(w)`` times, which that number is the mean of
    (systematic sampling: Madow, Annals of Mathematical Statistics 20, 1949, 333). Copies of a cell lie a whole round
    apart before blocks are shuffled, so that one window hardly sees two.
    """

    weights: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    """float64 ``(n wanted cells,)``, none negative."""
    n_draws: int | None = None
    """Cells of an epoch; None: as many as there are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights.shape != (self._n,):
            raise ConfigError(f"{self.weights.shape} weights for {self._n:,} cells", kind="bad-weights")
        if not np.isfinite(self.weights).all() or (self.weights < 0).any() or not self.weights.any():
            raise ConfigError("weights are finite, none negative and not all zero", kind="bad-weights")
        if self.n_draws is not None and self.n_draws < 1:
            raise ConfigError(f"an epoch of {self.n_draws:,} cells: at least one", kind="bad-order")

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a position to mean the same batch."""
        weights = hashlib.sha256(np.ascontiguousarray(self.weights, "<f8").tobytes()).hexdigest()[:32]
        return {**super().identity(), "weights": weights, "n_draws": self.n_draws}

    def epoch(self, number: int, *, rank: int = 0, world_size: int = 1) -> EpochOrder:
        """Draw the cells of an epoch and their order."""
        drawn = self._drawn(number)
        blocks = Blocks.shuffled(len(drawn), self.batching.block_cells, self.seed, number)
        return EpochOrder(blocks, self.batching, self.seed, number, rank, world_size, cells=drawn)

    def _drawn(self, number: int) -> Rows:
        total = self._n if self.n_draws is None else self.n_draws
        reach = np.cumsum(self.weights)
        reach *= total / reach[-1]
        reach[-1] = total
        upto = np.floor(reach + uniform(_OF_COPIES, self.seed, number)).astype(np.int64)
        upto[-1] = total
        np.minimum(upto, total, out=upto)
        copies = np.diff(upto, prepend=0)
        rounds = []
        for at in range(int(copies.max())):
            again = np.flatnonzero(copies > at)
            rounds.append(again if self.cells is None else self.cells[again])
        return np.concatenate(rounds)


def balanced_weights(codes: np.ndarray[Any, Any], categories: Sequence[str] = ()) -> Floats:
    """Return weights that give every class the same share of an epoch; cells without a class (-1) get none.

    Parameters
    ----------
    codes
        Whole numbers ``(n_cells,)``: the class of each cell.
    categories
        Of the codes; only says how many there may be.
    """
    has = codes >= 0
    counts = np.bincount(codes[has], minlength=len(categories))
    weights = np.zeros(len(codes))
    weights[has] = 1.0 / counts[codes[has]]
    return weights
