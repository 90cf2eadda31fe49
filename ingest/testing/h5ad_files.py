"""h5ad files in the layouts that occur: CSR, CSC and dense; X, raw or a layer; current and legacy encodings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from ingest.testing.h5ad_hostile import HostileFile, hostile_files
from ingest.testing.h5ad_legacy import LegacyVersion, write_legacy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import DTypeLike

__all__ = ["HostileFile", "MatrixLayout", "hostile_files", "sample_counts", "sample_obs", "write_h5ad_variant"]

MatrixLayout = Literal["csr", "csc", "dense"]

# SciPy's stubs make the class generic, SciPy itself does not.
Csr: TypeAlias = "sparse.csr_matrix[Any]"


def sample_counts(n_cells: int, n_genes: int, *, density: float = 0.2, seed: int = 0) -> Csr:
    """Draw a canonical CSR matrix of small whole numbers, float32 ``(n_cells, n_genes)``; rows may be empty."""
    rng = np.random.default_rng(seed)
    dense = rng.geometric(0.4, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < density)
    return sparse.csr_matrix(dense.astype(np.float32))


def sample_obs(n_cells: int, *, seed: int = 0) -> pd.DataFrame:
    """Draw annotations for `n_cells`: two categoricals (one with missing values), a number, a flag and a text."""
    rng = np.random.default_rng(seed)
    cell_type = rng.choice(["B cell", "T cell", "natural killer cell"], n_cells)
    condition = pd.Categorical.from_codes(rng.integers(-1, 2, n_cells), pd.Index(["control", "stimulated, 6 h"]))
    return pd.DataFrame(
        {
            "cell_type": pd.Categorical(cell_type),
            "condition": condition,
            "pct_mito": rng.random(n_cells),
            "doublet": rng.random(n_cells) < 0.1,
            "note": [f"well {number % 96:02d}" for number in range(n_cells)],
        },
        index=[f"{''.join(rng.choice(list('ACGT'), 16))}-{number}" for number in range(n_cells)],
    )


def write_h5ad_variant(
    path: Path,
    matrix: Csr,
    *,
    layout: MatrixLayout = "csr",
    where: str = "X",
    dtype: DTypeLike = np.float32,
    compression: Literal["gzip", "lzf"] | None = None,
    legacy: LegacyVersion | None = None,
    obs: pd.DataFrame | None = None,
    var_ids: Sequence[str] | None = None,
    var_column: str | None = None,
) -> Path:
    """Write counts and their annotations as one h5ad file that plain ``anndata.read_h5ad`` opens.

    Parameters
    ----------
    path
        File to create.
    matrix
        Counts ``(n_cells, n_genes)``.
    layout
        How the counts lie: by rows, by columns, or dense.
    where
        ``X``, ``raw`` or ``layer:<name>``. Unless it is ``X``, X holds log-normalised values in the same layout.
    dtype
        Type of the stored counts.
    compression
        HDF5 filter of the matrices, or ``None``.
    legacy
        Encoding of anndata 0.6 or 0.7 instead of the current one.
    obs
        Annotations indexed by cell name; :func:`sample_obs` by default.
    var_ids
        Gene ids; made up by default.
    var_column
        Column of var that holds the ids, its index then being 0, 1, 2, …; by default the ids are the index.

    Raises
    ------
    ValueError
        `where` is none of the above.
    """
    if where not in ("X", "raw") and not where.startswith("layer:"):
        raise ValueError(f"counts cannot stand in {where!r}: X, raw or layer:<name>")
    n_cells, n_genes = matrix.shape
    obs = sample_obs(n_cells) if obs is None else obs
    var = _var(var_ids or [f"ENSG{number * 37 % 299_993:011d}" for number in range(1, n_genes + 1)], var_column)
    matrices = {where: _lay(matrix.astype(dtype), layout)}
    if where != "X":
        matrices["X"] = _lay(_log_normalised(matrix), layout)
    if legacy is not None:
        write_legacy(path, legacy, matrices=matrices, obs=obs, var=var, compression=compression)
    else:
        _write_current(path, matrices, obs, var, compression)
    return path


def _var(ids: Sequence[str], column: str | None) -> pd.DataFrame:
    names = [f"GENE{number}" for number in range(len(ids))]
    if column is None:
        return pd.DataFrame({"feature_name": names}, index=list(ids))
    return pd.DataFrame({column: list(ids), "feature_name": names}, index=[str(number) for number in range(len(ids))])


def _lay(matrix: Any, layout: MatrixLayout) -> Any:
    return matrix.toarray() if layout == "dense" else matrix.asformat(layout)


def _log_normalised(matrix: Csr) -> Csr:
    totals = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1)
    scaled: Csr = (sparse.diags(1e4 / totals) @ matrix).tocsr()
    return scaled.log1p().astype(np.float32)


def _write_current(
    path: Path,
    matrices: dict[str, Any],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    compression: Literal["gzip", "lzf"] | None,
) -> None:
    layers = {name.removeprefix("layer:"): matrix for name, matrix in matrices.items() if name.startswith("layer:")}
    file = anndata.AnnData(matrices["X"], obs=obs.copy(), var=var.copy(), layers=layers)
    if "raw" in matrices:
        file.raw = anndata.AnnData(matrices["raw"], obs=obs.copy(), var=var.copy())
    # Text columns stay text: readers must handle both.
    file.write_h5ad(path, convert_strings_to_categoricals=False, compression=compression)
