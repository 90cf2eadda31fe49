"""How many cells or genes to hold at once: the model of `ingest.stream.budget`, by the names and shares of the seed.

All results are ``max(min_chunk, min(max_chunk, what memory allows))``; the formulas are those of the fifth seed
(``crispyx.data``), a gigabyte being 1e9 bytes. An extent of 0 takes no memory, so nothing but the clamps holds.
"""

from __future__ import annotations

from typing import Literal

from ingest.stream.budget import GB, budget_of

__all__ = [
    "calculate_nb_glm_chunk_size",
    "calculate_optimal_chunk_size",
    "calculate_optimal_gene_chunk_size",
    "calculate_pca_chunk_size",
    "calculate_wilcoxon_chunk_size",
]

_FLOAT_BYTES = 8
_GROUP_BYTES = 64
"""A gene takes this for each group of cells: eight results of 8 bytes."""
_RANK_BYTES = 12
"""A value takes this while it is ranked: as float32, sorted as float64."""
_NB_GLM_BYTES = 48
"""A count takes this while it is fitted: six arrays of float64."""
_RANK_SHARE, _WILCOXON_SHARE = 0.05, 0.15
"""Of memory, for what is being ranked."""
_GROUP_BOUNDS = ((10_000, 128), (5_000, 256), (2_000, 384))
_CELL_BOUNDS = ((1_000_000, 32), (500_000, 64), (300_000, 128))
"""Above so many, at most so many genes at once."""
_CELL_BOUNDS_BELOW_GB = 32.0
_COVARIANCE_SHARE = 0.3
_LEAST_PCA_GB, _PCA_PART = 0.1, 0.5

PcaMethod = Literal["sparse_cov", "incremental"]


def calculate_optimal_chunk_size(
    n_obs: int,
    n_vars: int,
    available_memory_gb: float | None = None,
    safety_factor: float = 8.0,
    min_chunk: int = 512,
    max_chunk: int = 4096,
) -> int:
    """Return how many cells to hold at once as dense float64: memory / (n_vars x 8 x safety), clamped.

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes; cells do not matter.
    available_memory_gb
        None: what machine and control groups leave this process.
    safety_factor
        How many copies of a block there may be.
    min_chunk, max_chunk
        The clamps; the lower one wins.

    Raises
    ------
    ValueError
        A negative extent, memory or fraction, or a safety factor that is not positive.
    """
    _check(n_obs, n_vars, safety_factor=safety_factor)
    cell_bytes = n_vars * _FLOAT_BYTES * safety_factor
    return budget_of(available_memory_gb).lines(cell_bytes, least=min_chunk, most=max_chunk)


def calculate_optimal_gene_chunk_size(
    n_obs: int,
    n_vars: int,
    n_groups: int | None = None,
    available_memory_gb: float | None = None,
    safety_factor: float = 8.0,
    memory_fraction: float = 0.5,
    min_chunk: int = 32,
    max_chunk: int = 512,
) -> int:
    """Return how many genes to hold at once for all cells: memory x fraction / ((8 n_obs + 64 n_groups) x safety).

    The upper clamp is 384, 256, 128 at most above 2,000, 5,000, 10,000 groups; below 32 GB also 128, 64, 32 above
    300,000, 500,000, 1,000,000 cells; and never more than 5 % of memory / (12 n_obs).

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes; genes do not matter.
    n_groups
        Of cells, each of which has results of its own.
    available_memory_gb
        None: what machine and control groups leave this process.
    safety_factor
        How many copies of a block there may be.
    memory_fraction
        Of memory, for this.
    min_chunk, max_chunk
        The clamps; the lower one wins.

    Raises
    ------
    ValueError
        A negative extent, memory or fraction, or a safety factor that is not positive.
    """
    _check(n_obs, n_vars, n_groups or 0, safety_factor=safety_factor, memory_fraction=memory_fraction)
    budget = budget_of(available_memory_gb)
    gene_bytes = (n_obs * _FLOAT_BYTES + (n_groups or 0) * _GROUP_BYTES) * safety_factor
    most = min(max_chunk, _bound(_GROUP_BOUNDS, n_groups or 0, max_chunk))
    if budget.memory_gb < _CELL_BOUNDS_BELOW_GB:
        most = min(most, _bound(_CELL_BOUNDS, n_obs, max_chunk))
    most = budget.lines(n_obs * _RANK_BYTES, share=_RANK_SHARE, least=min_chunk, most=most)
    return budget.lines(gene_bytes, share=memory_fraction, least=min_chunk, most=most)


def calculate_wilcoxon_chunk_size(
    n_obs: int,
    n_vars: int,
    *,
    available_memory_gb: float | None = None,
    min_chunk: int = 32,
    max_chunk: int = 4096,
) -> int:
    """Return how many genes to rank at once over all cells: 15 % of memory / (12 n_obs), clamped.

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes; genes do not matter.
    available_memory_gb
        None: what machine and control groups leave this process.
    min_chunk, max_chunk
        The clamps; the lower one wins.

    Raises
    ------
    ValueError
        A negative extent or memory.
    """
    _check(n_obs, n_vars)
    budget = budget_of(available_memory_gb)
    return budget.lines(n_obs * _RANK_BYTES, share=_WILCOXON_SHARE, least=min_chunk, most=max_chunk)


def calculate_nb_glm_chunk_size(
    n_obs: int,
    n_vars: int,
    n_groups: int | None = None,
    available_memory_gb: float | None = None,
    memory_limit_gb: float | None = None,
    safety_factor: float = 8.0,
    memory_fraction: float = 0.5,
    min_chunk: int = 32,
    max_chunk: int = 256,
) -> int:
    """Return how many genes to fit at once: memory x fraction / ((48 n_obs + 64 n_groups) x safety), clamped.

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes; genes do not matter.
    n_groups
        Of cells, each of which has results of its own.
    available_memory_gb
        None: what machine and control groups leave this process.
    memory_limit_gb
        At most so much of it.
    safety_factor
        How many copies of a block there may be.
    memory_fraction
        Of memory, for this.
    min_chunk, max_chunk
        The clamps; the lower one wins.

    Raises
    ------
    ValueError
        A negative extent, memory or fraction, or a safety factor that is not positive.
    """
    _check(n_obs, n_vars, n_groups or 0, safety_factor=safety_factor, memory_fraction=memory_fraction)
    budget = budget_of(available_memory_gb).at_most(memory_limit_gb)
    gene_bytes = (n_obs * _NB_GLM_BYTES + (n_groups or 0) * _GROUP_BYTES) * safety_factor
    return budget.lines(gene_bytes, share=memory_fraction, least=min_chunk, most=max_chunk)


def calculate_pca_chunk_size(
    n_obs: int,
    n_vars: int,
    n_comps: int = 50,
    available_memory_gb: float | None = None,
    method: PcaMethod | Literal["auto"] = "auto",
    memory_fraction: float = 0.5,
    min_chunk: int = 256,
    max_chunk: int = 4096,
) -> tuple[int, PcaMethod]:
    """Return how many cells to hold at once for principal components, and by which method.

    Usable is memory x fraction. What is held throughout is taken from it first: the covariance, or the mean and
    2 n_comps rows of the incremental method; at least 0.1 GB are taken as left. A block gets half of the rest, at
    8 n_vars bytes a cell.

    Parameters
    ----------
    n_obs, n_vars
        Cells and genes; cells do not matter.
    n_comps
        Components wanted.
    available_memory_gb
        None: what machine and control groups leave this process.
    method
        ``auto``: ``sparse_cov`` where the covariance, n_vars² x 8 bytes, takes under 30 % of what is usable, else
        ``incremental``.
    memory_fraction
        Of memory, for this.
    min_chunk, max_chunk
        The clamps; the lower one wins.

    Raises
    ------
    ValueError
        Another method; a negative extent, memory or fraction.
    """
    _check(n_obs, n_vars, n_comps, memory_fraction=memory_fraction)
    budget = budget_of(available_memory_gb)
    covariance_gb = n_vars * n_vars * _FLOAT_BYTES / GB
    chosen = _pca_method(method, covariance_gb, budget.memory_gb * memory_fraction)
    cell_bytes = n_vars * _FLOAT_BYTES
    held_gb = covariance_gb if chosen == "sparse_cov" else (1 + 2 * n_comps) * cell_bytes / GB
    n_cells = budget.lines(
        cell_bytes,
        share=memory_fraction,
        held_gb=held_gb,
        least_left_gb=_LEAST_PCA_GB,
        part=_PCA_PART,
        least=min_chunk,
        most=max_chunk,
    )
    return n_cells, chosen


def _pca_method(method: str, covariance_gb: float, usable_gb: float) -> PcaMethod:
    if method == "auto":
        return "sparse_cov" if covariance_gb < usable_gb * _COVARIANCE_SHARE else "incremental"
    if method == "sparse_cov":
        return "sparse_cov"
    if method == "incremental":
        return "incremental"
    raise ValueError(f"no method {method!r} of principal components: auto, sparse_cov or incremental")


def _bound(bounds: tuple[tuple[int, int], ...], count: int, otherwise: int) -> int:
    return next((most for above, most in bounds if count > above), otherwise)


def _check(*extents: int, safety_factor: float = 1.0, memory_fraction: float = 1.0) -> None:
    if min(extents) < 0:
        raise ValueError(f"there cannot be {min(extents):,} cells, genes or groups")
    if not safety_factor > 0:
        raise ValueError(f"a safety factor of {safety_factor}; it is positive")
    if not 0 <= memory_fraction <= 1:
        raise ValueError(f"{memory_fraction} of memory; it is a fraction")
