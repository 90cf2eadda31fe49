"""Compiled sampling of counts, and their order in TileDB's tiles.

Kernels release the interpreter lock and start no threads of their own: callers thread over bands. Every cell has its
own random stream, keyed by seed and cell, so that neither threads nor the cutting into bands change a count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

__all__ = ["BandCounts", "Sampler", "expected_genes", "tile_ordered"]

# splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = (np.uint64(bits) for bits in (27, 30, 31, 32))
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class BandCounts:
    """Counts of consecutive cells as CSR, with each cell's statistics."""

    indptr: np.ndarray[Any, np.dtype[np.int64]]
    indices: np.ndarray[Any, np.dtype[np.int32]]
    """Ascending within a cell."""
    data: np.ndarray[Any, np.dtype[np.float32]]
    mean: np.ndarray[Any, np.dtype[np.float64]]
    """Of a cell's non-zero counts."""
    variance: np.ndarray[Any, np.dtype[np.float64]]
    """Of a cell's non-zero counts, with one degree of freedom less; NaN for a single one."""


class Sampler:
    """Draws cells from expression profiles by the alias method: the cost is that of the molecules, not of the genes.

    Parameters
    ----------
    profiles
        Probabilities ``(n_profiles, n_genes)``.
    seed
        Of the cells' random streams.
    """

    def __init__(self, profiles: np.ndarray[Any, np.dtype[np.float32]], seed: int) -> None:
        self._limit = np.empty(profiles.shape, np.uint32)
        self._alias = np.empty(profiles.shape, np.int32)
        self._seed = np.uint64(seed)
        _fill_alias(profiles, self._limit, self._alias)

    def draw(
        self,
        profile: np.ndarray[Any, np.dtype[np.int64]],
        library: np.ndarray[Any, np.dtype[np.int64]],
        identity: np.ndarray[Any, np.dtype[np.int64]],
    ) -> BandCounts:
        """Draw `library` molecules for each cell; arguments are ``(n_cells,)``."""
        n_cells, n_genes = len(profile), self._limit.shape[1]
        room = int(np.minimum(library, n_genes).sum())
        indptr = np.zeros(n_cells + 1, np.int64)
        indices, data = np.empty(room, np.int32), np.empty(room, np.float32)
        mean, variance = np.empty(n_cells), np.empty(n_cells)
        _draw(self._limit, self._alias, self._seed, profile, library, identity, indptr, indices, data, mean, variance)
        return BandCounts(indptr, indices[: indptr[-1]], data[: indptr[-1]], mean, variance)


@njit("void(f4[:,::1], u4[:,::1], i4[:,::1])", cache=True, nogil=True)
def _fill_alias(profiles, limit, alias):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # typed by its signature
    """Build Walker's alias tables by Vose's method, one row a profile; limits are scaled to 2^32."""
    n_profiles, n_genes = profiles.shape
    scaled = np.empty(n_genes)
    small, large = np.empty(n_genes, np.int32), np.empty(n_genes, np.int32)
    for row in range(n_profiles):
        total = 0.0
        for gene in range(n_genes):
            total += profiles[row, gene]
        n_small = n_large = 0
        heaviest = 0
        for gene in range(n_genes):
            scaled[gene] = profiles[row, gene] * n_genes / total
            if profiles[row, gene] > profiles[row, heaviest]:
                heaviest = gene
            if scaled[gene] < 1.0:
                small[n_small] = gene
                n_small += 1
            else:
                large[n_large] = gene
                n_large += 1
        while n_small and n_large:
            n_small -= 1
            less, more = small[n_small], large[n_large - 1]
            limit[row, less] = np.uint32(min(scaled[less] * 4294967296.0, 4294967295.0))
            alias[row, less] = more
            scaled[more] -= 1.0 - scaled[less]
            if scaled[more] < 1.0:
                n_large -= 1
                small[n_small] = more
                n_small += 1
        while n_large:
            n_large -= 1
            limit[row, large[n_large]] = np.uint32(4294967295)
            alias[row, large[n_large]] = large[n_large]
        while n_small:
            # Left over by rounding. A gene that is not measured must still never be drawn: it falls to the heaviest.
            n_small -= 1
            gene = small[n_small]
            limit[row, gene] = np.uint32(4294967295) if profiles[row, gene] > 0 else np.uint32(0)
            alias[row, gene] = gene if profiles[row, gene] > 0 else heaviest


@njit("u8(u8)", cache=True, nogil=True, inline="always")
def _mix(state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # typed by its signature
    state = (state ^ (state >> _S30)) * _MIX_1
    state = (state ^ (state >> _S27)) * _MIX_2
    return state ^ (state >> _S31)


@njit(
    "void(u4[:,::1], i4[:,::1], u8, i8[::1], i8[::1], i8[::1], i8[::1], i4[::1], f4[::1], f8[::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _draw(limit, alias, seed, profile, library, identity, indptr, indices, data, mean, variance):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # typed by its signature
    n_genes = limit.shape[1]
    width = np.uint64(n_genes)
    counts = np.zeros(n_genes, np.int32)
    end = 0
    for cell in range(len(profile)):
        row = profile[cell]
        state = _mix(_mix(seed + _GAMMA) ^ (np.uint64(identity[cell]) * _GAMMA))
        for _ in range(library[cell]):
            state += _GAMMA
            bits = _mix(state)
            drawn = np.int64(((bits >> _S32) * width) >> _S32)
            # Strictly below: a limit of 0 is never taken, which keeps genes that were not measured at zero.
            if (bits & _LOW) >= np.uint64(limit[row, drawn]):
                drawn = np.int64(alias[row, drawn])
            counts[drawn] += 1
        start = end
        squares = 0.0
        for gene in range(n_genes):
            count = counts[gene]
            if count:
                indices[end] = gene
                data[end] = count
                squares += np.float64(count) * count
                counts[gene] = 0
                end += 1
        nnz, total = end - start, np.float64(library[cell])
        indptr[cell + 1] = end
        mean[cell] = total / nnz
        variance[cell] = (squares - total * total / nnz) / (nnz - 1) if nnz > 1 else np.nan


def tile_ordered(
    counts: BandCounts, first_row: int, n_genes: int, extent: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return joinids of cells and genes (int64) and values (float32) in TileDB's global order.

    That is tile by tile along the genes, row-major within each tile; the cells must lie in one row of tiles.
    """
    nnz = len(counts.data)
    rows, columns, values = np.empty(nnz, np.int64), np.empty(nnz, np.int64), np.empty(nnz, np.float32)
    _tile(counts.indptr, counts.indices, counts.data, first_row, n_genes, extent, rows, columns, values)
    return rows, columns, values


@njit("void(i8[::1], i4[::1], f4[::1], i8, i8, i8, i8[::1], i8[::1], f4[::1])", cache=True, nogil=True)
def _tile(indptr, indices, data, first_row, n_genes, extent, rows, columns, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  # typed by its signature
    place = np.zeros(n_genes // extent + 2, np.int64)
    for entry in range(len(indices)):
        place[indices[entry] // extent + 1] += 1
    for tile in range(1, len(place)):
        place[tile] += place[tile - 1]
    for cell in range(len(indptr) - 1):
        for entry in range(indptr[cell], indptr[cell + 1]):
            tile = indices[entry] // extent
            at = place[tile]
            place[tile] = at + 1
            rows[at] = first_row + cell
            columns[at] = indices[entry]
            values[at] = data[entry]


def expected_genes(profiles: np.ndarray[Any, np.dtype[np.float32]], library: float) -> float:
    """Return the expected number of genes seen in `library` molecules, mean over the rows of `profiles`."""
    return float((-np.expm1(-library * profiles)).sum(axis=1).mean())
