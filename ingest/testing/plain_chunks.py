"""Chunks as anybody reads them, with anndata, h5py and scipy alone: what our loaders are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PlainCells", "read_plainly"]

Csr: TypeAlias = "sparse.csr_matrix[Any]"


@dataclass(frozen=True, slots=True, eq=False)
class PlainCells:
    """All cells of a dataset, in order."""

    matrix: Csr
    """float64 ``(n_cells, n_genes)``: whatever type the chunks have, the same numbers."""
    obs: pd.DataFrame
    """Indexed by the chunks' ``obs_names``; texts as objects, missing ones None."""
    genes: tuple[str, ...]
    """Ids of the columns."""

    @property
    def names(self) -> list[str]:
        """Names of the cells."""
        return list(self.obs.index)


def read_plainly(dest: Path) -> PlainCells:
    """Read every chunk of the dataset in folder `dest`."""
    import hdf5plugin  # noqa: F401 # zstd and lz4, for whoever opens files with them

    parts = [_sparse(path) if path.suffix == ".h5ad" else _dense(path) for path in sorted((dest / "chunks").iterdir())]
    matrices, tables, genes = zip(*parts, strict=True)
    if len(set(genes)) != 1:
        raise ValueError(f"{dest}: chunks of different genes")
    matrix: Csr = sparse.csr_matrix(sparse.vstack(matrices, format="csr"))
    return PlainCells(matrix, pd.concat([_as_objects(table) for table in tables]), genes[0])


def _sparse(path: Path) -> tuple[Csr, pd.DataFrame, tuple[str, ...]]:
    file = anndata.read_h5ad(path)
    matrix: Csr = sparse.csr_matrix(file.X).astype(np.float64)
    return matrix, file.obs, tuple(file.var_names)


def _dense(path: Path) -> tuple[Csr, pd.DataFrame, tuple[str, ...]]:
    with h5py.File(path) as file:
        names = file["cells"].asstr()[()].tolist()
        table = pd.DataFrame({name: _column(file["obs"][name]) for name in file["obs"]}, index=names)
        matrix: Csr = sparse.csr_matrix(file["X"][()].astype(np.float64))
        return matrix, table, tuple(file["genes"].asstr()[()].tolist())


def _column(node: Any) -> Any:
    if isinstance(node, h5py.Dataset):
        if not h5py.check_string_dtype(node.dtype):
            return node[()]
        return [None if text == node.attrs.get("missing") else text for text in node.asstr()[()]]
    categories, codes = node["categories"].asstr()[()], node["codes"][()]
    return pd.Categorical.from_codes(codes, categories)


def _as_objects(table: pd.DataFrame) -> pd.DataFrame:
    texts = {
        name: table[name].astype(object).where(table[name].notna(), None)
        for name in table.columns
        if table[name].dtype.kind not in "biuf"
    }
    return table.assign(**texts)
