"""Windows of cells for whoever tests a transform: hypothesis strategies, and plain rows to compare with."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from ingest.block import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import DrawFn
    from numpy.typing import DTypeLike

__all__ = ["DTYPES", "fresh", "rows_of", "window_of", "windows"]

DTYPES = (np.float32, np.int32, np.uint16, np.int16, np.float64)
"""What a dataset's values may be stored as."""


def window_of(rows: Sequence[Sequence[float]], dtype: DTypeLike = np.float32, *, stored_zeros: bool = False) -> Counts:
    """Return the cells whose dense rows these are; zeros are stored only where asked for."""
    dense = np.array(rows, np.float64)
    mask = np.ones(dense.shape, bool) if stored_zeros else dense != 0
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    return Counts(indptr, np.nonzero(mask)[1].astype(np.int32), dense[mask].astype(dtype), dense.shape[1])


@st.composite
def windows(draw: DrawFn, *, values: st.SearchStrategy[float] | None = None, least_cells: int = 0) -> Counts:
    """Draw up to 5 cells x 40 genes: no cells, empty rows, stored zeros, ties, huge counts, every dtype.

    Parameters
    ----------
    values
        What is stored, as float32 or float64; otherwise counts, in any type that holds them.
    """
    n_cells, n_genes = draw(st.integers(least_cells, 5)), draw(st.integers(1, 40))
    dtype = np.dtype(draw(st.sampled_from(DTYPES if values is None else (np.float32, np.float64))))
    stored = _counts_of(dtype) if values is None else values
    rows = [draw(st.dictionaries(st.integers(0, n_genes - 1), stored)) for _ in range(n_cells)]
    indptr = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    columns = [column for row in rows for column in sorted(row)]
    data = [row[column] for row in rows for column in sorted(row)]
    return Counts(indptr, np.array(columns, np.int32), np.array(data, dtype), n_genes)


def _counts_of(dtype: np.dtype[Any]) -> st.SearchStrategy[float]:
    most = 2**31 - 129 if dtype.kind == "f" else min(np.iinfo(dtype).max, 2**31 - 1)
    few, some, any_count = st.integers(0, 4), st.integers(250, 260), st.integers(0, most)
    return (few | some | any_count).map(lambda count: int(dtype.type(count)))


def rows_of(counts: Counts) -> list[tuple[list[int], list[Any]]]:
    """Return each cell's (indices, values), as plain numbers."""
    bounds = counts.indptr.tolist()
    cells = [slice(*pair) for pair in pairwise(bounds)]
    return [(counts.indices[cell].tolist(), counts.data[cell].tolist()) for cell in cells]


def fresh(counts: Counts) -> Counts:
    """Return a copy: a transform may write into what it is given."""
    return replace(counts, indptr=counts.indptr.copy(), indices=counts.indices.copy(), data=counts.data.copy())
