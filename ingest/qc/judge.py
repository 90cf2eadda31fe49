"""Which cells break which rule: annotations, bounds, then bounds that follow from the cells themselves.

Median absolute deviations are taken as single-cell `best practices`_ do: a cell is an outlier where log1p of its counts
or of its genes, or its mitochondrial share, lies more than N of them below or above the median. All cells count that no
annotation drops, whatever the fixed bounds say of them.

.. _best practices: https://www.sc-best-practices.org/preprocessing_visualization/quality_control.html
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.qc.parameters import CELL_RULES
from ingest.qc.select import median
from ingest.qc.table import flag_of, mito_pct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from ingest.qc.annotations import Annotation
    from ingest.qc.parameters import QcRules
    from ingest.qc.table import CellTable

__all__ = ["Deviation", "Drops", "breaks_bound", "count_drops", "drops_of", "flag_annotated", "flag_by_metrics"]

Array = np.ndarray[Any, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_ANNOTATED = flag_of("leave_out") | flag_of("leave_out_column") | flag_of("control_cells")

_METRIC: Mapping[str, Callable[[Array], Array]] = {
    "mad_counts": lambda cells: np.log1p(cells["total"]),
    "mad_genes": lambda cells: np.log1p(cells["n_genes"].astype(np.float64)),
    "mad_mito": mito_pct,
}


@dataclass(frozen=True, slots=True)
class Deviation:
    """Median and median absolute deviation of one metric, and the range of cells that are no outliers."""

    median: float
    """Of log1p counts, of log1p genes, or of the mitochondrial share in per cent; NaN where no cell has it."""
    mad: float
    low: float
    """Least that stays, in counts, genes or per cent."""
    high: float
    """Most that stays."""


@dataclass(frozen=True, slots=True)
class Drops:
    """How many cells one rule is about."""

    breaking: int
    """Cells that break it."""
    first: int
    """Of these, cells that break none before it: over all rules, the cells dropped."""
    alone: int
    """Of these, cells that break no other: what the rule costs."""


def flag_annotated(table: CellTable, annotations: Sequence[Annotation], batches: Iterator[pa.RecordBatch]) -> None:
    """Flag the cells that annotations drop.

    Parameters
    ----------
    batches
        Columns of obs of the cells of `table`, in their order.
    """
    first = 0
    for batch in batches:
        cells = table.rows(first, first + len(batch))
        for annotation in annotations:
            cells["flags"][annotation.dropped(batch.column(annotation.column))] |= flag_of(annotation.rule)
        first += len(batch)


def breaks_bound(rule: str, bound: float, values: Array) -> Bools:
    """Return which values are outside an inclusive bound, bool ``(n,)``; NaN breaks none."""
    return values < bound if rule.startswith("min_") else values > bound


def flag_by_metrics(table: CellTable, rules: QcRules) -> dict[str, Deviation]:
    """Flag the cells that break a bound; return what the adaptive rules found, by rule."""
    deviations = {rule: _deviation(table, rule, most) for rule, most in rules.most_mads.items()}
    for cells in table.pieces():
        for rule, metric in (("genes", cells["n_genes"]), ("counts", cells["total"])):
            for name in (f"min_{rule}", f"max_{rule}"):
                if (bound := getattr(rules, name)) is not None:
                    cells["flags"][breaks_bound(name, bound, metric)] |= flag_of(name)
        if rules.max_mito_pct is not None:
            cells["flags"][breaks_bound("max_mito_pct", rules.max_mito_pct, mito_pct(cells))] |= flag_of("max_mito_pct")
        for rule, found in deviations.items():
            values, reach = _METRIC[rule](cells), rules.most_mads[rule] * found.mad
            outlier = (values < found.median - reach) | (values > found.median + reach)
            cells["flags"][outlier] |= flag_of(rule)
    return deviations


def _deviation(table: CellTable, rule: str, most: float) -> Deviation:
    def values() -> Iterator[Array]:
        for cells in table.pieces():
            found = _METRIC[rule](cells[cells["flags"] & _ANNOTATED == 0])
            yield found[~np.isnan(found)]

    n = sum(map(len, values()))
    middle = median(values, n)
    mad = median(lambda: (np.abs(piece - middle) for piece in values()), n)
    ends = (middle - most * mad, middle + most * mad)
    low, high = ends if rule == "mad_mito" else (math.expm1(ends[0]), math.expm1(min(ends[1], 700.0)))
    return Deviation(middle, mad, max(0.0, low), high)


def count_drops(table: CellTable) -> dict[str, Drops]:
    """Return for each rule that any cell breaks how many do, in order of the rules."""
    flagged: Counter[int] = Counter()
    for cells in table.pieces():
        values, counts = np.unique(cells["flags"], return_counts=True)
        flagged.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return drops_of(flagged)


def drops_of(flagged: Mapping[int, int]) -> dict[str, Drops]:
    """Return the same, from flags -> cells that have exactly these."""
    breaking, first, alone = (np.zeros(len(CELL_RULES), np.int64) for _ in range(3))
    for flags, n in flagged.items():
        broken = [at for at in range(len(CELL_RULES)) if flags >> at & 1]
        breaking[broken] += n
        first[broken[:1]] += n
        alone[broken if len(broken) == 1 else []] += n
    numbers = zip(breaking.tolist(), first.tolist(), alone.tolist(), strict=True)
    return {rule: Drops(*n) for rule, n in zip(CELL_RULES, numbers, strict=True) if n[0]}
