"""Which of its planned rows a chunk holds: all of them, but for those that amendments let it lack."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ingest.ledger.receipts import ChunkReceipt
    from ingest.opened import OpenPlan
    from ingest.unit_rows import UnitRows

__all__ = ["ChunkRows", "committed_rows", "rows_to_make"]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRows:
    """The rows of one chunk; arrays are ``(n_cells,)``."""

    places: np.ndarray[Any, np.dtype[np.int64]]
    """Rows of the plan, ascending."""
    codes: np.ndarray[Any, np.dtype[np.int32]]
    """Sources."""
    coordinates: np.ndarray[Any, np.dtype[np.int64]]
    """Joinids or rows within the sources."""
    obs: pa.Table
    dropped: Mapping[str, int]
    """Rule -> planned rows that are not among these because of it."""

    def __len__(self) -> int:
        return len(self.places)


def rows_to_make(opened: OpenPlan, rows: UnitRows, chunk: int) -> ChunkRows:
    """Return the rows that a worker puts into chunk number `chunk`.

    Parameters
    ----------
    rows
        At least the chunk's own planned rows.
    """
    return _without(opened, rows, chunk, opened.amendments.rules(chunk).keys())


def committed_rows(opened: OpenPlan, rows: UnitRows, entry: ChunkReceipt) -> ChunkRows:
    """Return the rows that a receipt says its chunk holds.

    Parameters
    ----------
    rows
        At least the chunk's own planned rows.

    Raises
    ------
    CorruptError
        ``receipt-disagrees``: it lacks rows that no amendment lets it lack.
    """
    start, stop = opened.plan.rows(entry.chunk)
    if not entry.dropped and entry.n_cells == stop - start:
        return _without(opened, rows, entry.chunk, ())
    has = {number for number, _ in entry.sources}
    lacking = {number for number in np.unique(rows.codes(start, stop)).tolist() if number not in has}
    found = _without(opened, rows, entry.chunk, lacking)
    if not lacking <= opened.amendments.rules(entry.chunk).keys() or dict(found.dropped) != dict(entry.dropped):
        raise CorruptError(
            f"the receipt of chunk {entry.chunk} lacks cells that nothing allows it to lack",
            kind="receipt-disagrees",
            hint=f"`repair {opened.store.url}` makes it again",
            chunk=entry.chunk,
        )
    return found


def _without(opened: OpenPlan, rows: UnitRows, chunk: int, sources: Collection[int]) -> ChunkRows:
    start, stop = opened.plan.rows(chunk)
    places, codes = np.arange(start, stop), rows.codes(start, stop)
    coordinates, obs = rows.coordinates(start, stop), rows.obs(start, stop)
    lacking = np.isin(codes, list(sources)) if sources else None
    if lacking is None or not lacking.any():
        return ChunkRows(places, codes, coordinates, obs, {})
    rules = opened.amendments.rules(chunk)
    dropped = Counter(rules.get(code, "") for code in codes[lacking].tolist())
    kept = ~lacking
    left = obs.take(pa.array(np.flatnonzero(kept)))
    return ChunkRows(places[kept], codes[kept], coordinates[kept], left, dict(sorted(dropped.items())))
