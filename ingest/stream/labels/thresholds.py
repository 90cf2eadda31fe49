"""Thresholds of quality control that a file's own numbers suggest, from a sample of its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.stream.labels.annotations import annotated
from ingest.stream.labels.nonzeros import count_in_file, count_in_memory
from ingest.stream.sizes import calculate_optimal_chunk_size
from ingest.stream.storage import open_data

if TYPE_CHECKING:
    import pandas as pd

    from ingest.stream.labels.annotations import Annotations

__all__ = ["calculate_adaptive_qc_thresholds"]

Array = np.ndarray[Any, Any]

_PERCENTILES = {"conservative": 10, "aggressive": 5}
_SEED = 0


def calculate_adaptive_qc_thresholds(
    adata: Any,
    perturbation_column: str,
    mode: Literal["conservative", "aggressive"] = "conservative",
    sample_size: int = 10_000,
    chunk_size: int | None = None,
) -> dict[str, int]:
    """Return thresholds of quality control that suit these data, and how many cells to handle at once.

    ============================ ============================================================ ==========
    min_genes                    median of genes per cell, of the sample, over 10 (floor)     5 to 50
    min_cells_per_perturbation   percentile of the sizes of groups, of all cells              5 to 50
    min_cells_per_gene           percentile of cells per gene, of the sample                  5 to 100
    chunk_size                   as given, or `ingest.stream.calculate_optimal_chunk_size`
    ============================ ============================================================ ==========

    The percentile is the 10th, of ``aggressive`` the 5th, between neighbours by proportion and then without its
    fraction. Genes are counted where X is not zero. Cells of the sample are drawn at random, the same at every call;
    all are in it where there are no more. A matrix in a file is read by pieces of 64 MB; by columns (CSC) all of it,
    otherwise the rows of the sample.

    Parameters
    ----------
    adata
        Path, URL, handle, or AnnData in memory or backed; X of any layout. That of a view of a backed one is read into
        memory, as anndata does it.
    perturbation_column
        Of obs: the groups. Cells without a label are in none.
    mode
        ``conservative`` or ``aggressive``.
    sample_size
        Cells of the sample.
    chunk_size
        Handed through, if given.

    Raises
    ------
    ValueError
        `mode` is none of these, or `sample_size` is not positive.
    NoColumnError
        A KeyError: there is no such column.
    NoMatrixError
        A ValueError: there is no X.
    TypeError, NoFileError, SourceError, ConfigError
        `adata` is nothing to read from, or damaged.
    """
    if mode not in _PERCENTILES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(_PERCENTILES)}")
    if sample_size < 1:
        raise ValueError(f"a sample of {sample_size} cells")
    with annotated(adata) as given:
        sizes = given.obs.column(perturbation_column).value_counts()
        rows = _sample(given.obs.n_rows, sample_size)
        per_cell, per_gene = _count(given, adata, rows)
        shape = (given.obs.n_rows, given.var.n_rows)
    share = _PERCENTILES[mode]
    return {
        "min_genes": _clamped((int(np.median(per_cell)) if len(per_cell) else 0) // 10, 5, 50),
        "min_cells_per_perturbation": _clamped(_percentile(sizes[sizes > 0], share), 5, 50),
        "min_cells_per_gene": _clamped(_percentile(per_gene, share), 5, 100),
        "chunk_size": calculate_optimal_chunk_size(*shape) if chunk_size is None else chunk_size,
    }


def _sample(n_obs: int, sample_size: int) -> Array:
    """Return ascending numbers of at most `sample_size` rows."""
    if n_obs <= sample_size:
        return np.arange(n_obs)
    return np.sort(np.random.default_rng(_SEED).choice(n_obs, sample_size, replace=False))


def _percentile(values: Array | pd.Series[Any], share: int) -> int:
    return int(np.percentile(np.asarray(values), share)) if len(values) else 0


def _clamped(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


def _count(given: Annotations, adata: Any, rows: Array) -> tuple[Array, Array]:
    if given.file is not None:
        return count_in_file(given.file, rows)
    if getattr(adata, "isbacked", False) and not adata.is_view:  # a view's rows are not the file's
        with open_data(adata) as file:
            return count_in_file(file, rows)
    return count_in_memory(adata.X, rows, given.label)
