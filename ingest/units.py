"""Cutting the missing chunks into units and units into slabs. Pure: numbers in, ranges out.

A *band* is what the source decodes together (`ingest.profile`). Cutting a unit inside a band makes two
workers read it, so cuts are few (at most a tenth of the bands) and fall between bands where they can.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ingest.profile import Profile

__all__ = [
    "OVERREAD",
    "Unit",
    "cut_slabs",
    "cut_units",
    "read_bytes",
    "stored_bytes",
]

OVERREAD = 0.08
"""Share of the bands that unit boundaries may split. With what slabs read twice, a tile at each seam, a tenth."""

_LEAST_BANDS = 20
"""Bands in a unit, if the plan has as many: splitting its two ends costs 5 % then."""

_MOST_BANDS = 100
"""A unit's beginning and end wait for the network, which long units make rare; what is committed outlives a worker."""

_UNITS_PER_WORKER = 4
"""At most, for plans too small for units of `_LEAST_BANDS`."""

_EVEN_ENOUGH = 1.1
"""What the busiest worker may have to do, against an equal share."""

_UNEVEN = 0.05
"""How much longer than another equal unit one may take; the more units there are, the less it matters."""

_ROUNDING = 1e-9

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
    budget = int(OVERREAD * n_bands)
    # Units of one run are as equal as can be, so that their number decides how evenly they fall to the workers.
    even = workers if len(runs) == 1 else 1
    units: list[Unit] = []
    for run, span in zip(runs, spans.tolist(), strict=True):
        share = span / n_bands
        cuts = _choose_cuts(profile, run, _goals(span, share, workers), int(budget * share), n_bands=span, workers=even)
        units += [Unit(tuple(part.tolist())) for part in (np.split(run, cuts) if len(cuts) else (run,))]
    return units


def _goals(n_bands: int, share: float, workers: int) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
    """Yield where one might cut, as shares of the work before each cut, best first.

    Long units first and short ones last, so that workers come to an end together (Hummel, Schonberg and Flynn,
    "Factoring", CACM 35(8), 1992: each round hands out half of what is left); where there are few bands, equal parts.
    """
    if n_bands >= _LEAST_BANDS * _UNITS_PER_WORKER * workers * share:
        sizes: list[float] = []
        left = float(n_bands)
        while left >= 2 * _LEAST_BANDS:
            # A run with less than half a worker's share is still handed out: no part is larger than what is left.
            size = min(max(left / (2 * max(workers * share, 0.5)), _LEAST_BANDS), _MOST_BANDS)
            # A round gives every worker one; this run has its share of the rounds.
            sizes += [size] * min(max(1, round(workers * share)), int(left // size))
            left = n_bands - sum(sizes)
        # What is left is the last unit, or belongs to it.
        yield np.cumsum(sizes if left >= _LEAST_BANDS / 2 else sizes[:-1]) / n_bands
    at_once = max(1, round(workers * share))
    for parts in (*range(_UNITS_PER_WORKER * at_once, at_once, -at_once), *range(at_once + 1, 1, -1)):
        yield np.arange(1, parts) / parts


def _choose_cuts(
    profile: Profile,
    run: _Int64,
    candidates: Iterable[np.ndarray[Any, np.dtype[np.float64]]],
    split_budget: int,
    *,
    n_bands: int,
    workers: int,
) -> list[int]:
    """Return positions in `run` before which to cut: near even shares of the non-zeros, free cuts preferred.

    Of the candidates that the budget allows, one that leaves no worker waiting for the others' last part.
    """
    if len(run) == 1 or profile.uncut[run[1:]].all():
        return []
    allowed = np.flatnonzero(~profile.uncut[run[1:]]) + 1
    free = allowed[profile.last_band[run[allowed] - 1] != profile.first_band[run[allowed]]]
    weight = np.cumsum(profile.nnz[run] + 1).astype(np.float64)
    share_before = weight[:-1] / weight[-1]
    best: list[int] = []
    least = np.inf
    for goals in candidates:
        sizes = np.diff([0.0, *goals, 1.0])
        near = _nearest(free, share_before, goals, within=0.25 * sizes.min())
        costly = goals[near < 0]
        if len(costly) > split_budget:
            continue
        chosen = {*near[near >= 0].tolist(), *_nearest(allowed, share_before, costly, within=1.0).tolist()}
        cuts = sorted(chosen - {-1})
        # Units are handed out in order, each to the first worker that is free; a split band is read by two.
        longest = _makespan(np.diff([0.0, *share_before[np.array(cuts, np.int64) - 1], 1.0]), workers)
        if np.ptp(sizes) > _ROUNDING and longest <= _EVEN_ENOUGH / workers:
            return cuts  # long ones first
        cost = longest * (1 + _UNEVEN * workers / (len(cuts) + 1)) + len(costly) / n_bands / workers
        if cost < least:
            best, least = cuts, cost
    return best


def _makespan(sizes: np.ndarray[Any, np.dtype[np.float64]], workers: int) -> float:
    """Return when the last of `workers` ends that take the next unit whenever they are free."""
    busy = [0.0] * workers
    for size in sizes.tolist():
        heapq.heapreplace(busy, busy[0] + size)
    return max(busy)


def _nearest(
    positions: _Int64, share_before: np.ndarray[Any, Any], goals: np.ndarray[Any, Any], *, within: float
) -> _Int64:
    """Return for each goal the cut position whose share of the work before it is nearest, -1 where none is `within`."""
    if not len(positions):
        return np.full(len(goals), -1, np.int64)
    shares = share_before[positions - 1]
    after = np.searchsorted(shares, goals).clip(0, len(shares) - 1)
    before = (after - 1).clip(0)
    best = np.where(np.abs(shares[before] - goals) <= np.abs(shares[after] - goals), before, after)
    return np.where(np.abs(shares[best] - goals) <= within, positions[best], -1)


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
