"""Cutting the missing chunks into units and units into slabs. Pure: numbers in, ranges out.

A *band* is what the source decodes together (`ingest.profile`). Cutting a unit inside a band makes two
workers read it, so cuts are few (at most a tenth of the bands) and fall between bands where they can.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.profile import Profile

__all__ = [
    "OVERREAD",
    "Unit",
    "cut_slabs",
    "cut_units",
    "read_bytes",
    "stored_bytes",
]

OVERREAD = 0.1
"""Share of the bands that unit boundaries may split."""

_MOST_BANDS = 20
"""Bands in one unit: enough that splitting its two ends costs 5 %, little enough to lose with a worker."""

_UNITS_PER_WORKER = 4
"""So that the last worker to finish leaves the others idle for a quarter of their time at most."""

_Int64 = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive missing chunks that one worker makes."""

    chunks: tuple[int, ...]


def cut_units(profile: Profile, missing: Sequence[int], *, workers: int) -> list[Unit]:
    """Cut the missing chunks, ascending, into units for `workers`.

    Every missing chunk is in exactly one unit, units are consecutive chunks, and cuts inside a run of consecutive
    chunks split at most a tenth of the bands.
    """
    chunks = np.asarray(missing, np.int64)
    if not len(chunks):
        return []
    runs = np.split(chunks, np.flatnonzero(np.diff(chunks) != 1) + 1)
    firsts, lasts = np.array([run[0] for run in runs]), np.array([run[-1] for run in runs])
    spans = profile.last_band[lasts] - profile.first_band[firsts] + 1
    n_bands = int(spans.sum())
    wanted = max(-(-n_bands // _MOST_BANDS), workers * _UNITS_PER_WORKER)
    budget = int(OVERREAD * n_bands)
    units: list[Unit] = []
    for run, span in zip(runs, spans.tolist(), strict=True):
        share = span / n_bands
        cuts = _choose_cuts(profile, run, max(1, round(wanted * share)), int(budget * share))
        units += [Unit(tuple(part.tolist())) for part in (np.split(run, cuts) if len(cuts) else (run,))]
    return units


def _choose_cuts(profile: Profile, run: _Int64, parts: int, split_budget: int) -> _Int64:
    """Return positions in `run` before which to cut: near even shares of the non-zeros, free cuts preferred."""
    nowhere: _Int64 = np.empty(0, np.int64)
    if parts <= 1:
        return nowhere
    allowed = np.flatnonzero(~profile.uncut[run[1:]]) + 1
    if not len(allowed):
        return nowhere
    free = allowed[profile.last_band[run[allowed] - 1] != profile.first_band[run[allowed]]]
    weight = np.cumsum(profile.nnz[run] + 1).astype(np.float64)
    share_before = weight[:-1] / weight[-1]
    goals = np.arange(1, parts) / parts
    chosen, distance = _nearest(free, share_before, goals)
    cheap = distance <= 0.25 / parts
    costly = goals[~cheap]
    # Cuts that split a band are rationed; the ration is spread evenly over the run.
    ration = min(len(costly), split_budget)
    rationed = costly[np.arange(1, ration + 1) * (len(costly) + 1) // (ration + 1) - 1]
    return np.union1d(chosen[cheap], _nearest(allowed, share_before, rationed)[0])


def _nearest(
    positions: _Int64, share_before: np.ndarray[Any, Any], goals: np.ndarray[Any, Any]
) -> tuple[_Int64, np.ndarray[Any, Any]]:
    """Return for each goal, ascending, the cut position whose share of the work before it is nearest, and how near."""
    if not len(positions):
        return np.zeros(len(goals), np.int64), np.full(len(goals), np.inf)
    shares = share_before[positions - 1]
    right = np.minimum(np.searchsorted(shares, goals), len(positions) - 1)
    left = np.maximum(right - 1, 0)
    best = np.where(np.abs(shares[left] - goals) <= np.abs(shares[right] - goals), left, right)
    return positions[best], np.abs(shares[best] - goals)


def stored_bytes(profile: Profile, units: Sequence[Sequence[int]]) -> list[float]:
    """Return the stored bytes of the bands from the first to the last chunk of each unit."""
    return [float(profile.read_to[unit[-1]] - profile.read_from[unit[0]]) for unit in units]


def read_bytes(profile: Profile, units: Sequence[Unit]) -> tuple[float, float]:
    """Return the stored bytes that the units read, and the least that anyone could read for the same chunks.

    Parameters
    ----------
    units
        In order of chunks, as `cut_units` returns them.
    """
    if not units:
        return 0.0, 0.0
    start = profile.read_from[[unit.chunks[0] for unit in units]]
    end = profile.read_to[[unit.chunks[-1] for unit in units]]
    # What an earlier unit has read already is not needed a second time.
    before = np.concatenate([[0.0], np.maximum.accumulate(end)[:-1]])
    least = np.maximum(end - np.maximum(start, before), 0.0)
    return float((end - start).sum()), float(least.sum())


def cut_slabs(
    codes: np.ndarray[Any, np.dtype[np.int32]],
    bands: _Int64,
    weights: _Int64,
    *,
    limit: int,
) -> list[tuple[int, int]]:
    """Cut the rows of a unit into slabs that are read in one go.

    Parameters
    ----------
    codes, bands
        Source and band of every row, in plan order.
    weights
        Cost of every row (bytes, or non-zeros), in the unit of `limit`.
    limit
        Most that a slab may cost. A band is never split, so a slab of one band may cost more; rows whose band
        costs more than the limit by themselves still make one slab.

    Returns
    -------
    Half-open row ranges that cover all rows in order; none crosses a source.
    """
    if not len(codes):
        return []
    source_edge = np.flatnonzero(codes[1:] != codes[:-1]) + 1
    band_edge = np.flatnonzero((bands[1:] != bands[:-1]) | (codes[1:] != codes[:-1])) + 1
    edges = np.concatenate([[0], band_edge, [len(codes)]])
    cost = np.concatenate([[0], np.cumsum(weights)])
    must = set(source_edge.tolist())
    slabs: list[tuple[int, int]] = []
    start = 0
    for low, high in pairwise(edges.tolist()):
        if low > start and (low in must or cost[high] - cost[start] > limit):
            slabs.append((start, low))
            start = low
    slabs.append((start, len(codes)))
    return slabs
