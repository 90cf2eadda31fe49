"""Every operation of `ingest.stream` that opens a file, as calls that a test can make of any file and any address.

They are of files of 24 cells x 40 genes with the columns of `ingest.testing.h5ad_hostile`: those of the corpus, and
`write_everything`, which has one of all that an h5ad can carry. So what must hold for all operations, whatever the
file, is tested by going through three dicts; `PURE` names those that open none.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from ingest import stream
from ingest.testing.h5ad_files import sample_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.testing.h5ad_files import MatrixLayout

__all__ = ["ANNOTATIONS", "COLUMN", "CONTROL", "EDIT", "MAKE", "N_CELLS", "N_GENES", "PURE", "READ", "write_everything"]

N_CELLS, N_GENES = 24, 40
COLUMN, CONTROL, SYMBOLS = "cell_type", "B cell", "feature_name"

PURE = frozenset(
    {
        "OverlapResult",
        "calculate_nb_glm_chunk_size",
        "calculate_optimal_chunk_size",
        "calculate_optimal_gene_chunk_size",
        "calculate_pca_chunk_size",
        "calculate_wilcoxon_chunk_size",
        "compute_overlap",
        "drop_file_cache",
        "normalize_total_block",
        "resolve_control_label",
        "resolve_data_path",
        "resolve_output_path",
    }
)
"""Names of `ingest.stream` that look into no file."""


def _backed(path: Any) -> Any:
    cells = stream.read_backed(path)
    try:
        return None if cells.X is None else cells.X[:]
    finally:
        if cells.isbacked:
            cells.file.close()


def _of_handle(question: Callable[[stream.AnnData], Any]) -> Callable[[Any], Any]:
    def ask(path: Any) -> Any:
        with stream.AnnData(path) as handle:
            return question(handle)

    return ask


def _uns(handle: stream.AnnData) -> dict[str, Any]:
    return {key: entry.load() for key, entry in handle.uns.items()}


def _looked_at(path: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        stream.read_h5ad_ondisk(path).close()
    return said.getvalue()


def _slices(**how: Any) -> Callable[[Any], Any]:
    return lambda path: [block for _, block in stream.iter_matrix_chunks(path, chunk_size=7, **how)]


ANNOTATIONS: dict[str, Callable[[Any], Any]] = {
    "load_obs": stream.load_obs,
    "load_var": stream.load_var,
    "AnnData.obs": _of_handle(lambda handle: handle.obs.load()),
    "AnnData.obs column": _of_handle(lambda handle: handle.obs["score"]),
    "AnnData.var head": _of_handle(lambda handle: handle.var.head(N_GENES)),
    "AnnData.uns": _of_handle(_uns),
    "AnnData.uns preview": _of_handle(lambda handle: [entry.preview() for entry in handle.uns.values()]),
    "AnnData shape": _of_handle(lambda handle: handle.shape),
    "is_dense_storage": stream.is_dense_storage,
    "get_matrix_storage_format": stream.get_matrix_storage_format,
    "detect_perturbation_column": lambda path: stream.detect_perturbation_column(path, verbose=False),
    "detect_gene_symbol_column": lambda path: stream.detect_gene_symbol_column(path, verbose=False),
    "infer_columns": lambda path: stream.infer_columns(path, verbose=False),
    "ensure_gene_symbol_column": lambda path: stream.ensure_gene_symbol_column(path, SYMBOLS),
    "get_perturbation_slice": lambda path: stream.get_perturbation_slice(path, CONTROL, COLUMN),
    "needs_sorting_for_nbglm": lambda path: stream.needs_sorting_for_nbglm(
        path, COLUMN, min_cells=1, min_perturbations=1
    ),
    "normalise_perturbation_labels": lambda path: stream.normalise_perturbation_labels(
        path, COLUMN, strip_suffixes=[" cell"], inplace=False
    ),
    "standardise_gene_names": lambda path: stream.standardise_gene_names(path, inplace=False),
}
"""What reads obs, var, uns or headers, and no matrix: of a path, a URL or a handle."""

READ: dict[str, Callable[[Any], Any]] = ANNOTATIONS | {
    "AnnData.to_memory": _of_handle(lambda handle: handle.to_memory()),
    "AnnData.X": _of_handle(lambda handle: None if handle.X is None else handle.X[:]),
    "AnnData repr": _of_handle(repr),
    "read_backed": _backed,
    "read_h5ad_ondisk": _looked_at,
    "iter_matrix_chunks of rows": _slices(axis=0),
    "iter_matrix_chunks of genes": _slices(axis=1),
    "iter_matrix_chunks sparse": _slices(axis=0, convert_to_dense=False),
    "calculate_adaptive_qc_thresholds": lambda path: stream.calculate_adaptive_qc_thresholds(path, COLUMN),
}
"""What reads and writes nothing."""

EDIT: dict[str, Callable[[Path], Any]] = {
    "write_obs": lambda path: stream.write_obs(path, pd.DataFrame({COLUMN: ["x"] * N_CELLS}, index=range(N_CELLS))),
    "write_var": lambda path: stream.write_var(path, pd.DataFrame({"n": range(N_GENES)}, index=range(N_GENES))),
    "write_obsm_to_h5ad": lambda path: stream.write_obsm_to_h5ad(path, "k", np.ones((N_CELLS, 2))),
    "write_varm_to_h5ad": lambda path: stream.write_varm_to_h5ad(path, "k", np.ones((N_GENES, 2))),
    "write_obsp_to_h5ad": lambda path: stream.write_obsp_to_h5ad(path, "k", sparse.eye(N_CELLS, format="csr")),
    "write_uns_dict_to_h5ad": lambda path: stream.write_uns_dict_to_h5ad(path, "k", {"a": 1, "b": {"c": "x"}}),
    "normalise_perturbation_labels": lambda path: stream.normalise_perturbation_labels(
        path, COLUMN, strip_suffixes=[" cell"]
    ),
    "standardise_gene_names": lambda path: stream.standardise_gene_names(path),
    "standardise_gene_names of a column": lambda path: stream.standardise_gene_names(path, column=SYMBOLS),
}
"""What changes a local file in place."""


def _made(call: Callable[..., stream.AnnData], **how: Any) -> Callable[[Any, Path], Path]:
    return lambda data, folder: Path(call(data, output_path=folder / "out.h5ad", verbose=False, **how).path)


def _subset(data: Any, folder: Path) -> Path:
    cells, genes = np.arange(N_CELLS) != N_CELLS // 2, np.arange(N_GENES) != N_GENES // 2
    out = folder / "out.h5ad"
    stream.write_filtered_subset(data, cell_mask=cells, gene_mask=genes, output_path=out, chunk_size=5)
    return out


def _sorted(data: Any, folder: Path) -> Path:
    return stream.sort_by_perturbation(data, COLUMN, CONTROL, output_path=folder / "out.h5ad")


def _standardised(data: Any, folder: Path) -> Path:
    return stream.standardize_dataset(data, COLUMN, CONTROL, SYMBOLS, folder)


MAKE: dict[str, Callable[[Any, Path], Path]] = {
    "convert_to_csc": _made(stream.convert_to_csc),
    "convert_to_csr": _made(stream.convert_to_csr),
    "normalize_total_log1p": _made(stream.normalize_total_log1p),
    "write_filtered_subset": _subset,
    "sort_by_perturbation": _sorted,
    "standardize_dataset": _standardised,
}
"""What makes a file in a folder, and returns its path; data that lie as asked are returned as they are."""


def write_everything(path: Path, layout: MatrixLayout = "csr") -> Path:
    """Write 24 cells x 40 genes with one of each kind of element that an h5ad can carry."""
    rng = np.random.default_rng(5)
    counts = sample_counts(N_CELLS, N_GENES, density=0.3, seed=5)
    obs, var = _obs(rng), _var()
    matrix = counts.toarray() if layout == "dense" else counts.asformat(layout)
    cells = anndata.AnnData(matrix, obs=obs, var=var)
    cells.raw = anndata.AnnData(
        sample_counts(N_CELLS, 50, seed=6),
        obs=obs,
        var=pd.DataFrame({"n": range(50)}, index=[f"R{n}" for n in range(50)]),
    )
    cells.layers["csr"], cells.layers["csc"] = counts.astype(np.int64), counts.tocsc().astype(np.float64)
    cells.layers["dense"] = counts.toarray().astype(np.uint16)
    cells.obsm["X_pca"], cells.obsm["sparse"] = rng.random((N_CELLS, 3)), sample_counts(N_CELLS, 4)
    cells.obsm["table"] = pd.DataFrame({"a": rng.random(N_CELLS), "b": list("xyz") * 8}, index=obs.index)
    cells.varm["loadings"], cells.varp["near"] = rng.random((N_GENES, 3)), sample_counts(N_GENES, N_GENES, seed=7)
    cells.obsp["near"], cells.obsp["dense"] = sample_counts(N_CELLS, N_CELLS, seed=8), rng.random((N_CELLS, N_CELLS))
    cells.uns = {
        "text": "x",
        f"{COLUMN}_colors": np.array(["#000", "#111"], dtype=object),
        "nested": {"deep": {"numbers": np.arange(3)}, "flag": np.True_, "graph": sample_counts(3, 4)},
        "table": pd.DataFrame({"p": [0.5, 1.0]}, index=["r", "s"]),
        "records": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    }
    cells.write_h5ad(path, convert_strings_to_categoricals=False, compression="gzip")
    return path


def _obs(rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        {
            COLUMN: pd.Categorical(rng.choice([CONTROL, "T cell"], N_CELLS)),
            "score": np.where(rng.random(N_CELLS) < 0.2, np.nan, rng.random(N_CELLS)),
            "stage": pd.Categorical.from_codes(
                rng.integers(-1, 2, N_CELLS), pd.Index(["early", "late", "never"]), ordered=True
            ),
            "whole": pd.array([None, *range(N_CELLS - 1)], dtype="Int64"),
            "maybe": pd.array([True, False, None] * (N_CELLS // 3), dtype="boolean"),
            "flag": rng.random(N_CELLS) < 0.5,
            "small": rng.integers(0, 9, N_CELLS).astype(np.int8),
            "note": [f"well {number}" for number in range(N_CELLS)],
        },
        index=pd.Index([f"cell{number}" for number in range(N_CELLS)], name="barcode"),
    )


def _var() -> pd.DataFrame:
    return pd.DataFrame(
        {SYMBOLS: [f"mt-GENE{number}" for number in range(N_GENES)], "kind": pd.Categorical(list("ab") * 20)},
        index=[f"ENSG{number:011d}.2" for number in range(1, N_GENES + 1)],
    )
