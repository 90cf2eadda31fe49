"""h5ad files as SCDL archives are made of: raw.X or X, obs and var of many kinds, neighbours in obsp."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ScdlFile", "write_scdl_file"]


@dataclass(frozen=True, slots=True)
class ScdlFile:
    """What is in a file."""

    n_cells: int = 12
    n_genes: int = 40
    density: float = 0.3
    dtype: str = "float32"
    index_dtype: str = "int32"
    largest: int = 40
    """Values are whole numbers from 1 to this."""
    in_raw: bool = True
    codec: Literal["gzip", "lzf"] | None = None
    obs_columns: tuple[str, ...] = ("cell_line", "n_counts")
    var_columns: tuple[str, ...] = ("feature_id",)
    neighbors: bool = False
    unsorted: bool = False
    """Columns do not ascend, and some entries are zero."""
    seed: int = 0


def write_scdl_file(path: Path, file: ScdlFile) -> Path:
    """Write one, and return where."""
    rng = np.random.default_rng(file.seed)
    adata = anndata.AnnData(
        _matrix(file, rng),
        obs=_frame(file.n_cells, file.obs_columns, "cell", rng),
        var=_frame(file.n_genes, file.var_columns, f"g{file.seed % 2}_", rng),
    )
    if file.in_raw:
        adata.raw = adata
    if file.neighbors:
        found = rng.random((file.n_cells, file.n_cells)).astype(np.float32)
        found[rng.random(found.shape) < 0.8] = 0
        found[-1, 0] = 0.5  # bionemo-scdl cannot open an archive in which no cell has any
        adata.obsp["next_cell_ids"] = sparse.csr_matrix(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are numbers, and the like
        adata.write_h5ad(path, compression=file.codec)
    return path


def _matrix(file: ScdlFile, rng: np.random.Generator) -> Any:
    mask = rng.random((file.n_cells, file.n_genes)) < file.density
    mask[rng.integers(file.n_cells), rng.integers(file.n_genes)] = True  # an archive of nothing is refused
    rows, columns = np.nonzero(mask)
    values = rng.integers(1, file.largest + 1, len(rows)).astype(file.dtype)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=file.n_cells))])
    if file.unsorted:
        values[:: max(1, len(values) // 3)] = 0
        order = np.lexsort((rng.random(len(rows)), rows))
        values, columns = values[order], columns[order]
    parts = (values, columns.astype(file.index_dtype), indptr.astype(file.index_dtype))
    return sparse.csr_matrix(parts, shape=(file.n_cells, file.n_genes))


def _frame(n: int, columns: tuple[str, ...], prefix: str, rng: np.random.Generator) -> pd.DataFrame:
    kinds: dict[str, Any] = {
        "cell_line": lambda: pd.Categorical(rng.choice(["A549", "HeLa", "K562"], n)),
        "missing": lambda: pd.Categorical.from_codes(rng.integers(-1, 2, n), pd.Index(["no", "yes"])),
        "n_counts": lambda: rng.integers(0, 10_000, n),
        "score": lambda: np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
        "is_primary": lambda: rng.random(n) < 0.5,
        "batch": lambda: pd.Categorical(rng.integers(0, 3, n)),
        "note": lambda: [f"note {number}" for number in range(n)],
        "feature_id": lambda: [f"ENSG{prefix}{number:08d}" for number in range(n)],
        "length": lambda: rng.integers(1, 5_000, n).astype(np.int32),
    }
    return pd.DataFrame({name: kinds[name]() for name in columns}, index=[f"{prefix}{number}" for number in range(n)])
