"""Blocks for tests: hypothesis strategies over every kind of column, and seeded ones of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from ingest.block import Block, Counts
from ingest.genes import Genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hypothesis.strategies import DrawFn
    from numpy.typing import DTypeLike

__all__ = ["blocks", "dictionary", "seeded_block"]

_TEXTS = st.sampled_from(["T cell", "B cell", "é", "", "a b", "\U0001d538", "T"])
_COLUMNS = ("n", "x", "flag", "cell type", "ö")


def dictionary(texts: Sequence[str | None], values: Sequence[str] | None = None) -> pa.DictionaryArray:
    """Return `texts` as a dictionary column over `values`, by default those that occur, as they first do."""
    known = list(dict.fromkeys(text for text in texts if text is not None)) if values is None else list(values)
    codes = pa.array([None if text is None else known.index(text) for text in texts], pa.int32())
    return pa.DictionaryArray.from_arrays(codes, pa.array(known, pa.string()))


@st.composite
def blocks(draw: DrawFn, *, least_columns: int = 0) -> Block:
    """Draw a block of up to 6 cells x 6 genes: empty rows, no entries, no columns, NaN, missing values, any dtype."""
    n_cells, n_genes = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    names = draw(st.lists(st.sampled_from(_COLUMNS), min_size=least_columns, unique=True, max_size=len(_COLUMNS)))
    columns = {name: draw(_column(name, n_cells)) for name in names}
    table = pa.table(columns) if columns else pa.table({"": pa.nulls(n_cells)}).select([])
    genes = Genes(
        tuple(f"ENSG{at}" for at in range(n_genes)),
        tuple("é" * at for at in range(n_genes)),
        tuple(range(n_genes)),
    )
    obs_names = pa.array([f"s:é{at}" for at in range(n_cells)], pa.string())
    return Block(draw(_counts(n_cells, n_genes)), table, obs_names, genes)


@st.composite
def _counts(draw: DrawFn, n_cells: int, n_genes: int) -> Counts:
    size = n_cells * n_genes
    mask = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(n_cells, n_genes)
    nnz = int(mask.sum())
    dtype = draw(st.sampled_from([np.float32, np.int32, np.uint16, np.int16, np.float64]))
    most = 30_000 if dtype == np.int16 else 60_000
    values = draw(st.lists(st.integers(1, most), min_size=nnz, max_size=nnz))
    return _counts_of(mask, np.array(values, dtype))


def _counts_of(mask: np.ndarray[Any, np.dtype[np.bool_]], values: np.ndarray[Any, Any]) -> Counts:
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    return Counts(indptr, np.nonzero(mask)[1].astype(np.int32), values, mask.shape[1])


@st.composite
def _column(draw: DrawFn, name: str, n_cells: int) -> pa.Array:
    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n_cells, max_size=n_cells))

    if name == "n":
        return pa.array(column(st.integers(-5, 2**60)), pa.int64())
    if name == "x":
        return pa.array(np.array(column(st.floats(width=32) | st.just(float("nan"))), np.float32))
    if name == "flag":
        return pa.array(column(st.booleans()), pa.bool_())
    return dictionary(column(st.none() | _TEXTS))


def seeded_block(
    n_cells: int,
    n_genes: int,
    obs: Mapping[str, pa.Array] | None = None,
    *,
    density: float = 0.3,
    dtype: DTypeLike = np.float32,
    seed: int = 0,
) -> Block:
    """Return a block of small counts ``(n_cells, n_genes)`` with `obs`, by default one column of numbers."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n_cells, n_genes)) < density
    counts = _counts_of(mask, rng.integers(1, 9, int(mask.sum())).astype(dtype))
    genes = tuple(f"ENSG{at:011d}" for at in range(n_genes))
    names = pa.array([f"c{at}" for at in range(n_cells)], pa.string())
    table = pa.table(dict(obs or {"soma_joinid": pa.array(np.arange(n_cells))}))
    return Block(counts, table, names, Genes(genes, genes, (0,) * n_genes))
