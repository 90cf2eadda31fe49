"""Which cells are trained with, which say when to stop, and which are looked at in the end. Pure, but for reading obs.

Cells of one donor resemble each other, so a model that has seen some of them is not tested by the rest: ``by="donor"``
and ``by="sample"`` keep together what belongs together.

A cell's part follows from the seed and the cells of the dataset, never from which of them are selected: a split is made
over all, then cut down. So two trainings from different selections do not test on what the other one learned from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ingest.errors import ConfigError, EmptySelectionError
from ingest.grammar import unknown_column
from ingest.load.order.draws import draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.cells import Cells

__all__ = ["PARTS", "Part", "Split", "SplitRule", "split", "split_cells", "split_groups"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]
Int8 = np.ndarray[Any, np.dtype[np.int8]]
Part = Literal["train", "val", "test"]

PARTS: tuple[Part, ...] = get_args(Part)

_COLUMNS = {
    "donor": ("donor_id", "donor"),
    "sample": ("SRX_accession", "sample_id", "sample", "dataset_id", "source"),
}
"""What donors and samples are called, the first that is there."""
_STREAM = 0x5B117
"""Name of the stream of numbers: what decides a cell's part says nothing about its place in an epoch."""
_PIECE_CELLS = 1 << 20


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How cells are divided.

    Raises
    ------
    ConfigError
        ``bad-split``: shares that are negative, or leave nothing to train with.
    """

    by: str = "cell"
    """``cell``, ``donor``, ``sample`` or an obs column whose values are kept together."""
    val: float = 0.1
    """Share of the cells to validate with; 0: none."""
    test: float = 0.1
    """Share of the cells to test with; 0: none."""
    seed: int = 0
    """Another seed is another split."""

    def __post_init__(self) -> None:
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise ConfigError(
                f"val={self.val:g} and test={self.test:g}: shares from 0 on are wanted, less than 1 together",
                kind="bad-split",
            )

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of train, val and test; their sum is 1."""
        return 1 - self.val - self.test, self.val, self.test


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The part of every cell of a dataset."""

    parts: Int8
    """int8 ``(n_cells,)``: place in `PARTS`."""

    def rows(self, part: Part, within: Int64 | None = None) -> Int64:
        """Return the cells of a part, int64, ascending, or those of `within`, in its order.

        Raises
        ------
        EmptySelectionError
            There are none.
        """
        wanted = PARTS.index(part)
        rows = np.flatnonzero(self.parts == wanted) if within is None else within[self.parts[within] == wanted]
        if not len(rows):
            raise EmptySelectionError(
                f"no cell is left for {part}", kind="empty-part", hint=f"{part}=0 does without; or select more cells"
            )
        return rows


def split(cells: Cells, rule: SplitRule) -> Split:
    """Divide the cells of a dataset.

    Raises
    ------
    ConfigError
        There is no such column, or it has too few values.
    """
    if rule.by == "cell":
        return Split(split_cells(cells.n_cells, rule))
    name = _column(cells.obs.columns, rule.by, repr(cells))
    column = cells.obs.take(name, np.arange(cells.n_cells))
    if column.categories is not None:
        return Split(split_groups(column.values, column.categories, rule))
    values, codes = np.unique(column.values, return_inverse=True)
    return Split(split_groups(codes, [str(value) for value in values.tolist()], rule))


def split_cells(n_cells: int, rule: SplitRule) -> Int8:
    """Draw the part of each cell, independently of all others: int8 ``(n_cells,)``. Shares are kept on average."""
    edges = np.cumsum([rule.val, rule.test])
    parts = np.empty(n_cells, np.int8)
    for piece, start in enumerate(range(0, n_cells, _PIECE_CELLS)):
        numbers = draws(min(_PIECE_CELLS, n_cells - start), _STREAM, rule.seed, piece)
        place = np.searchsorted(edges, (numbers >> np.uint64(11)) / 2.0**53, side="right")
        parts[start : start + len(place)] = np.array([1, 2, 0], np.int8)[place]
    return parts


def split_groups(codes: np.ndarray[Any, Any], names: Sequence[str], rule: SplitRule) -> Int8:
    """Deal whole groups in an order drawn from the seed and their names, each to the part that lacks most cells.

    Cells without a group (code -1) are kept together as one, whose name is empty. Every part that has a share gets a
    group, so that with few groups shares are kept as far as their sizes let them.

    Parameters
    ----------
    codes
        Whole numbers ``(n_cells,)``: group of each cell.
    names
        Of the codes, distinct.

    Returns
    -------
    Int8
        int8 ``(n_cells,)``: the part of each cell.

    Raises
    ------
    ConfigError
        ``few-groups``: fewer groups with cells than parts.
    """
    sizes = np.bincount(codes + 1, minlength=len(names) + 1)
    present = np.flatnonzero(sizes).tolist()
    present.sort(key=lambda group: _lot(rule.seed, names[group - 1] if group else ""))
    shares = np.array(rule.shares)
    if len(present) < np.count_nonzero(shares):
        raise ConfigError(
            f"{len(present)} different {rule.by} cannot be divided into {np.count_nonzero(shares)} parts",
            kind="few-groups",
            hint="val=0 or test=0 does without one; by='cell' divides the cells of each",
        )
    part_of = _dealt(present, sizes, shares)
    found: Int8 = part_of[codes + 1]
    return found


def _dealt(groups: list[int], sizes: Int64, shares: np.ndarray[Any, np.dtype[np.float64]]) -> Int8:
    """Return the part of each group, int8 ``(len(sizes),)``: at least one to each part that has a share."""
    lacking, part_of = shares * sizes.sum(), np.zeros(len(sizes), np.int8)
    empty = shares > 0
    while groups:
        if scarce := len(groups) <= np.count_nonzero(empty):
            groups.sort(key=lambda group: -sizes[group])  # one to each that has none, the largest to the largest share
        group = groups.pop(0)
        part = int(np.argmax(np.where(empty if scarce else shares > 0, lacking, -np.inf)))
        part_of[group], empty[part] = part, False
        lacking[part] -= sizes[group]
    return part_of


def _lot(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def _column(columns: Sequence[str], by: str, where: str) -> str:
    candidates = _COLUMNS.get(by, (by,))
    found = next((column for column in candidates if column in columns), None)
    if found is None:
        raise unknown_column(candidates[0], columns, where)
    return found
