"""Columns of obs and var as bionemo-scdl stores them: anndata's own frames, and numpy's arrays of their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["features_of", "same_ids"]


def features_of(frame: pd.DataFrame, index_name: str) -> pa.Table:
    """Return the columns of a frame, or its index as `index_name` where it has none.

    Each is what pyarrow makes of ``numpy.array(column.values)``, but that categories of text stay categories.
    """
    names = list(frame.columns)
    if names:
        return pa.table({str(name): _column(frame[name]) for name in names})
    if not len(frame):
        return pa.table({})
    index = frame.index if frame.index.map(type).isin([str]).all() else frame.index.astype(str)
    return pa.table({index_name: _arrow(index.to_numpy())})


def same_ids(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Return whether two frames are of the same rows in the same order."""
    return bool(np.array_equal(one.index.to_numpy(), other.index.to_numpy()))


def _column(column: pd.Series[Any]) -> pa.Array:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        labels = column.dtype.categories
        codes = column.cat.codes.to_numpy()
        if labels.map(type).isin([str]).all() and (codes >= 0).any():
            return pa.DictionaryArray.from_arrays(
                pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(labels.to_numpy(), pa.string())
            )
    return _arrow(np.array(column.values))


def _arrow(values: np.ndarray[Any, Any]) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except pa.ArrowInvalid:
        return pa.array(values, pa.string(), from_pandas=True)
