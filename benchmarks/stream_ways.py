"""One operation on an h5ad file, file to file: ours, anndata and scanpy in memory, and anndata's backed mode by hand.

Backed mode has no operation that writes a file without holding the matrix: what its users write takes slices of a file
opened with ``backed="r"`` and appends them to a sparse dataset on disk, as anndata's own documentation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from benchmarks.stream_data import N_GENES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["OPERATIONS", "WAYS"]

OPERATIONS = {
    "normalize": "csr",
    "filter": "csr",
    "to csc": "csr",
    "to csr": "csc",
    "dense to csr": "dense",
    "sort": "csr",
}
"""What is done, and to which layout."""
_SLICE_CELLS, _SLICE_GENES = 5_000, 500


def _masks(n_cells: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return rng.random(n_cells) < 0.7, rng.random(N_GENES) < 0.8


def _ours(operation: str, path: Path, out: Path) -> None:
    from ingest import stream

    if operation == "normalize":
        stream.normalize_total_log1p(path, out, verbose=False)
    elif operation == "filter":
        cells, genes = _masks(int(path.stem.rpartition("-")[2]))
        stream.write_filtered_subset(path, cell_mask=cells, gene_mask=genes, output_path=out)
    elif operation == "sort":
        stream.sort_by_perturbation(path, output_path=out)
    else:
        convert = stream.convert_to_csc if operation == "to csc" else stream.convert_to_csr
        convert(path, output_path=out, verbose=False)


def _in_memory(operation: str, path: Path, out: Path) -> None:
    import anndata

    cells = anndata.read_h5ad(path)
    if operation == "normalize":
        _normalize(cells)
    elif operation == "filter":
        kept, genes = _masks(cells.n_obs)
        cells = cells[kept, genes].copy()
    elif operation == "sort":
        cells = cells[_sorted_rows(cells)].copy()
    else:
        cells.X = (sparse.csc_matrix if operation == "to csc" else sparse.csr_matrix)(cells.X)
    cells.write_h5ad(out, compression="gzip")


def _normalize(cells: Any) -> None:
    import scanpy

    scanpy.pp.normalize_total(cells, target_sum=1e4)
    scanpy.pp.log1p(cells)


def _sorted_rows(cells: Any) -> np.ndarray[Any, Any]:
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    return np.lexsort((labels, labels != "control"))


def _backed(operation: str, path: Path, out: Path) -> None:
    import anndata

    cells = anndata.read_h5ad(path, backed="r")
    kept, genes = _masks(cells.n_obs)
    if operation == "filter":
        _append(out, cells.obs[kept], cells.var[genes], _filtered(cells, kept, genes))
    elif operation == "sort":
        rows = _sorted_rows(cells)
        slices = (rows[start : start + _SLICE_CELLS] for start in range(0, cells.n_obs, _SLICE_CELLS))
        _append(out, cells.obs.iloc[rows], cells.var, (cells[some].to_memory().X for some in slices))
    elif operation == "to csc":
        columns = (slice(start, start + _SLICE_GENES) for start in range(0, cells.n_vars, _SLICE_GENES))
        _append(out, cells.obs, cells.var, (sparse.csc_matrix(cells.X[:, some]) for some in columns))
    else:
        _append(out, cells.obs, cells.var, _by_rows(cells, operation))
    cells.file.close()


def _filtered(cells: Any, kept: np.ndarray[Any, Any], genes: np.ndarray[Any, Any]) -> Iterable[Any]:
    for start in range(0, cells.n_obs, _SLICE_CELLS):
        some = slice(start, start + _SLICE_CELLS)
        yield cells.X[some][kept[some]][:, genes]


def _by_rows(cells: Any, operation: str) -> Iterable[Any]:
    for start in range(0, cells.n_obs, _SLICE_CELLS):
        part = cells[start : start + _SLICE_CELLS].to_memory()
        if operation == "normalize":
            _normalize(part)
        yield sparse.csr_matrix(part.X)


def _append(out: Path, obs: Any, var: Any, parts: Iterable[Any]) -> None:
    import anndata
    import h5py
    from anndata.io import sparse_dataset, write_elem

    anndata.AnnData(obs=obs, var=var).write_h5ad(out, compression="gzip")
    with h5py.File(out, "r+") as file:
        if "X" in file:
            del file["X"]
        for part in parts:
            if "X" in file:
                sparse_dataset(file["X"]).append(part)
            else:
                write_elem(file, "X", part, dataset_kwargs={"compression": "gzip"})


WAYS = {"ours": _ours, "in memory": _in_memory, "backed": _backed}
