"""What a person does to one large h5ad before or after ingestion, in memory that does not grow with the file.

::

    handle, lazy_table, lazy_uns      a file as an object: tables and entries read when they are wanted
    storage, tables, keys             what a file is; its tables and keys, read and replaced
    files, editing                    how an output comes to be, and how a file is changed without risk to it
    matrix/                           blocks of rows and columns of any matrix, read ahead; writers of them
    convert, normalize, subset, …     new files out of old ones
    labels/, perturbation, sorting    what a screen's annotations mean
    sizes, memory                     how much to hold at once

Importing this package imports none of anndata, pandas and h5py; each name below brings what it needs when it is first
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.stream.convert import convert_to_csc, convert_to_csr
    from ingest.stream.files import resolve_output_path
    from ingest.stream.handle import AnnData, read_backed, read_h5ad_ondisk
    from ingest.stream.iterate import iter_matrix_chunks
    from ingest.stream.keys import (
        write_obsm_to_h5ad,
        write_obsp_to_h5ad,
        write_uns_dict_to_h5ad,
        write_varm_to_h5ad,
    )
    from ingest.stream.labels import (
        OverlapResult,
        calculate_adaptive_qc_thresholds,
        compute_overlap,
        detect_gene_symbol_column,
        detect_perturbation_column,
        ensure_gene_symbol_column,
        infer_columns,
        normalise_perturbation_labels,
        resolve_control_label,
        standardise_gene_names,
    )
    from ingest.stream.normalize import normalize_total_block, normalize_total_log1p
    from ingest.stream.perturbation import get_perturbation_slice
    from ingest.stream.sizes import (
        calculate_nb_glm_chunk_size,
        calculate_optimal_chunk_size,
        calculate_optimal_gene_chunk_size,
        calculate_pca_chunk_size,
        calculate_wilcoxon_chunk_size,
    )
    from ingest.stream.sorting import needs_sorting_for_nbglm, sort_by_perturbation
    from ingest.stream.standardize import standardize_dataset
    from ingest.stream.storage import (
        drop_file_cache,
        get_matrix_storage_format,
        is_dense_storage,
        resolve_data_path,
    )
    from ingest.stream.subset import write_filtered_subset
    from ingest.stream.tables import load_obs, load_var, write_obs, write_var

__all__ = [
    "AnnData",
    "OverlapResult",
    "calculate_adaptive_qc_thresholds",
    "calculate_nb_glm_chunk_size",
    "calculate_optimal_chunk_size",
    "calculate_optimal_gene_chunk_size",
    "calculate_pca_chunk_size",
    "calculate_wilcoxon_chunk_size",
    "compute_overlap",
    "convert_to_csc",
    "convert_to_csr",
    "detect_gene_symbol_column",
    "detect_perturbation_column",
    "drop_file_cache",
    "ensure_gene_symbol_column",
    "get_matrix_storage_format",
    "get_perturbation_slice",
    "infer_columns",
    "is_dense_storage",
    "iter_matrix_chunks",
    "load_obs",
    "load_var",
    "needs_sorting_for_nbglm",
    "normalise_perturbation_labels",
    "normalize_total_block",
    "normalize_total_log1p",
    "read_backed",
    "read_h5ad_ondisk",
    "resolve_control_label",
    "resolve_data_path",
    "resolve_output_path",
    "sort_by_perturbation",
    "standardise_gene_names",
    "standardize_dataset",
    "write_filtered_subset",
    "write_obs",
    "write_obsm_to_h5ad",
    "write_obsp_to_h5ad",
    "write_uns_dict_to_h5ad",
    "write_var",
    "write_varm_to_h5ad",
]

_HOMES = {
    "AnnData": "handle",
    "OverlapResult": "labels",
    "calculate_adaptive_qc_thresholds": "labels",
    "calculate_nb_glm_chunk_size": "sizes",
    "calculate_optimal_chunk_size": "sizes",
    "calculate_optimal_gene_chunk_size": "sizes",
    "calculate_pca_chunk_size": "sizes",
    "calculate_wilcoxon_chunk_size": "sizes",
    "compute_overlap": "labels",
    "convert_to_csc": "convert",
    "convert_to_csr": "convert",
    "detect_gene_symbol_column": "labels",
    "detect_perturbation_column": "labels",
    "drop_file_cache": "storage",
    "ensure_gene_symbol_column": "labels",
    "get_matrix_storage_format": "storage",
    "get_perturbation_slice": "perturbation",
    "infer_columns": "labels",
    "is_dense_storage": "storage",
    "iter_matrix_chunks": "iterate",
    "load_obs": "tables",
    "load_var": "tables",
    "needs_sorting_for_nbglm": "sorting",
    "normalise_perturbation_labels": "labels",
    "normalize_total_block": "normalize",
    "normalize_total_log1p": "normalize",
    "read_backed": "handle",
    "read_h5ad_ondisk": "handle",
    "resolve_control_label": "labels",
    "resolve_data_path": "storage",
    "resolve_output_path": "files",
    "sort_by_perturbation": "sorting",
    "standardise_gene_names": "labels",
    "standardize_dataset": "standardize",
    "write_filtered_subset": "subset",
    "write_obs": "tables",
    "write_obsm_to_h5ad": "keys",
    "write_obsp_to_h5ad": "keys",
    "write_uns_dict_to_h5ad": "keys",
    "write_var": "tables",
    "write_varm_to_h5ad": "keys",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
