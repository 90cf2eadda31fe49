"""The rows of a committed plan, all in order or those around one chunk, in memory that does not grow with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingest.errors import CorruptError
from ingest.unit_rows import UnitRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from ingest.opened import OpenPlan

__all__ = ["PlanBatch", "plan_batches", "plan_rows"]

_GROUP_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class PlanBatch:
    """Consecutive rows of a plan; no chunk is in two batches."""

    first: int
    """The plan row of the first."""
    table: pa.Table
    rows: UnitRows

    @property
    def codes(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """int32 ``(n,)``: which of the plan's sources."""
        return self.rows.codes(self.first, self.first + len(self.table))

    @property
    def coordinates(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 ``(n,)``: joinid or row within the source."""
        return self.rows.coordinates(self.first, self.first + len(self.table))


def plan_batches(opened: OpenPlan, columns: Sequence[str] = ()) -> Iterator[PlanBatch]:
    """Yield all rows of the plan in order.

    Parameters
    ----------
    columns
        Decode only these, the coordinates among them; none stands for all.

    Raises
    ------
    CorruptError
        The index is damaged.
    """
    first = 0
    for batch in opened.index.batches(opened.plan.n_cells, columns):
        table = pa.Table.from_batches([batch])
        try:
            rows = UnitRows(opened, first, table)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # a coordinate that is gone, or no number
            key = opened.plan.files["index"]
            said = f"{opened.store.url}/{key} is damaged ({error!r})"
            raise CorruptError(said, kind="plan-damaged", key=key) from error
        yield PlanBatch(first, table, rows)
        first += len(batch)


def plan_rows(opened: OpenPlan) -> Callable[[int], UnitRows]:
    """Return a function that gives plan rows, at least those of one chunk; neighbours share one read."""
    plan = opened.plan
    per_group = max(1, _GROUP_ROWS // plan.identity.cells_per_chunk)
    held: tuple[int, UnitRows] | None = None

    def rows(chunk: int) -> UnitRows:
        nonlocal held
        group = chunk // per_group
        if held is None or held[0] != group:
            first = plan.rows(group * per_group)[0]
            last = plan.rows(min((group + 1) * per_group, plan.n_chunks) - 1)[1]
            held = group, UnitRows(opened, first, opened.index.rows(first, last))
        return held[1]

    return rows
