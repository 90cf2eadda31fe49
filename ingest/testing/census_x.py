"""The counts of a made-up Census, band after band, drawn ahead in threads."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.testing.census_counts import BandCounts, Sampler, tile_ordered

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from ingest.testing.census_model import OrganismModel

__all__ = ["EXTENT", "Band", "draw_bands"]

EXTENT = 2048
"""Cells and genes of one tile of Census X."""

_AHEAD = 2


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Cells ``[start, stop)``: one row of tiles, entries in TileDB's global order."""

    start: int
    stop: int
    counts: BandCounts
    """The same entries as CSR."""
    rows: np.ndarray[Any, np.dtype[np.int64]]
    """Joinids of the cells, ``(nnz,)``."""
    columns: np.ndarray[Any, np.dtype[np.int64]]
    """Joinids of the genes, ``(nnz,)``."""
    values: np.ndarray[Any, np.dtype[np.float32]]
    """``(nnz,)``."""


def draw_bands(model: OrganismModel, seed: int) -> Iterator[Band]:
    """Yield all bands of `model` in order, a few of them drawn ahead."""
    sampler = Sampler(model.profiles, seed)
    ahead: deque[Any] = deque()
    with ThreadPoolExecutor(_AHEAD) as threads:
        for start in range(0, len(model.dataset), EXTENT):
            ahead.append(threads.submit(_draw_band, sampler, model, start))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _draw_band(sampler: Sampler, model: OrganismModel, start: int) -> Band:
    stop = min(start + EXTENT, len(model.dataset))
    counts = sampler.draw(model.profile[start:stop], model.library[start:stop], model.identity[start:stop])
    return Band(start, stop, counts, *tile_ordered(counts, start, model.profiles.shape[1], EXTENT))
