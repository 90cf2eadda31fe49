"""Columns of obs and var as bionemo-scdl stores them: anndata's own frames, and numpy's arrays of their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ingest.errors import UnfitError
from ingest.fetch.h5ad_frame import read_column, read_frame
from ingest.fetch.h5ad_table import open_table

if TYPE_CHECKING:
    import pandas as pd

    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = ["features_of", "has_same_ids"]


def features_of(frame: pd.DataFrame, index_name: str) -> pa.Table:
    """Return the columns of a frame, or its index as `index_name` where it has none.

    Each is what pyarrow makes of ``numpy.array(column.values)``, but that categories of text stay categories.

    Raises
    ------
    UnfitError
        A column is of no type that Parquet has (kind ``feature-type``): complex numbers.
    """
    names = list(frame.columns)
    if names:
        return pa.table({str(name): _column(frame[name]) for name in names})
    if not len(frame):
        return pa.table({})
    index = frame.index if frame.index.map(type).isin([str]).all() else frame.index.astype(str)
    return pa.table({index_name: _arrow(index.to_numpy())})


def has_same_ids(file: OpenH5ad, path: str, frame: pd.DataFrame) -> bool:
    """Return whether the table at `path` is of the same rows in the same order, of which its index alone is read.

    Raises
    ------
    HostileFileError
        It is missing or damaged.
    """
    table, names = open_table(file, path), frame.index.to_numpy()
    if table.n_rows != len(names):
        return False
    if not pa.types.is_string(table.index.type):  # anndata makes texts of them
        return bool(np.array_equal(names, read_frame(file, path).index.to_numpy()))
    with file.reading(path):
        return bool(np.array_equal(names, read_column(table.index, table.n_rows).to_numpy()))


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
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise UnfitError(
            f"a column of {values.dtype} has no place among an archive's features ({error})",
            kind="feature-type",
            hint="leave it out, or make it text or numbers",
        ) from error
