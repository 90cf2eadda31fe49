"""A new file of some rows and columns of another, in any order, everything else carried along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ingest.stream.files import new_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

__all__ = ["rewrite"]

Int64 = np.ndarray[Any, np.dtype[np.int64]]


def rewrite(
    source: Path,
    output: Path,
    *,
    rows: Int64 | None = None,
    genes: Int64 | None = None,
    layout: Literal["csr", "csc", "dense"] | None = None,
    obs: pd.DataFrame | None = None,
    var: pd.DataFrame | None = None,
    uns: Mapping[str, Any] | None = None,
    chunk_size: int | None = None,
) -> None:
    """Write the rows and columns asked for, in their order, to a new file.

    Parameters
    ----------
    rows, genes
        int64: numbers of rows and of columns of the source; None: all, in its order.
    layout
        Of X in the output; None: as it is.
    obs, var
        Tables of the output, instead of the source's: rows as in the output.
    uns
        Entries of uns that replace or join those of the source.
    chunk_size
        Rows handled together; None: as many as fit.
    """
    del chunk_size
    import anndata
    from scipy import sparse

    cells = anndata.read_h5ad(source)
    rows = np.arange(cells.n_obs) if rows is None else rows
    genes = np.arange(cells.n_vars) if genes is None else genes
    chosen = cells[rows, genes].copy()
    if obs is not None:
        chosen.obs = obs
    if var is not None:
        chosen.var = var
    chosen.uns.update(uns or {})
    if layout == "dense" and sparse.issparse(chosen.X):
        chosen.X = chosen.X.toarray()
    elif layout in ("csr", "csc"):
        chosen.X = getattr(sparse, f"{layout}_matrix")(chosen.X)
    with new_file(output) as path:
        chosen.write_h5ad(path, compression="gzip")
