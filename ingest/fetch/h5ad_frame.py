"""Whole tables of an h5ad file, obs or var, as anndata reads them, whichever anndata wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ingest.fetch.h5ad_table import open_table
from ingest.fetch.h5ad_texts import read_whole

if TYPE_CHECKING:
    import pandas as pd

    from ingest.fetch.h5ad_open import OpenH5ad
    from ingest.fetch.h5ad_table import Column

__all__ = ["check_frame", "read_column", "read_frame"]

_ROWS = 1 << 16
_OBJECTS = ("plain", "string", "empty", "boolean", "integer", "floating", "mixed-integer-float", "bytes")
"""What pandas calls objects that are texts or numbers, all of them."""


def read_frame(file: OpenH5ad, path: str) -> pd.DataFrame:
    """Read obs or var, as anndata reads it.

    Raises
    ------
    HostileFileError
        It is missing or damaged.
    """
    import pandas as pd
    from anndata.io import read_elem

    open_table(file, path)  # checks lengths
    with file.reading(path):
        node = file.file[path]
        is_todays = node.attrs.get("encoding-type") == "dataframe" and node.attrs.get("encoding-version") == "0.2.0"
        # Of older files, which do not say what all their elements are, anndata warns for each.
        frame = read_whole(file, path, lambda: read_elem(node)) if is_todays else None
        return check_frame(frame if isinstance(frame, pd.DataFrame) else _read_old(file, path))


def check_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that was read, after a look at what no table holds and anndata reads all the same.

    Raises
    ------
    ValueError
        Two columns of one name, or one of no plain type: compound, opaque, references, arrays in an array.
    """
    import pandas as pd

    if not frame.columns.is_unique:
        raise ValueError(f"two columns are called {frame.columns[frame.columns.duplicated()][0]!r}")
    for name, values in frame.items():
        numpy_kind = getattr(values.dtype, "kind", "O")
        kind = pd.api.types.infer_dtype(values, skipna=True) if values.dtype == object else "plain"
        if numpy_kind == "V" or kind not in _OBJECTS:
            raise ValueError(f"column {name!r} holds {values.dtype} values ({kind}), which no table has")
    return frame


def read_column(column: Column, n_rows: int) -> pd.Series[Any]:
    """Read a column of a table of so many rows."""
    parts = [column.read(at, min(at + _ROWS, n_rows)) for at in range(0, n_rows, _ROWS)]
    found: pd.Series[Any] = pa.chunked_array(parts, column.type).to_pandas()
    return found


def _read_old(file: OpenH5ad, path: str) -> pd.DataFrame:
    import pandas as pd

    table = open_table(file, path)
    columns = {name: read_column(column, table.n_rows).array for name, column in table.columns.items()}
    name = file.attribute(file.file[path], "_index")
    names = read_column(table.index, table.n_rows).astype(object)
    index = pd.Index(names, name=name if isinstance(name, str) and name != "_index" else None)
    return pd.DataFrame(columns, index=index)
