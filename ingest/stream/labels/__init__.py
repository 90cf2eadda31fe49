"""What cells and genes are called: find it, judge it, make it uniform.

::

    annotations     obs and var of a path, a handle or an AnnData, column by column
    terms           known names of columns, words for controls, what ids look like
    control         which label means control
    symbols         gene symbols, told from ids
    detect          which column holds perturbations, which symbols
    normalise       labels of one column, made uniform in place
    gene_names      names of genes likewise; lookup asks MyGene.info
    edit            one column, or the index, of a file's table replaced
    overlap         how many members sets have in common
    thresholds      quality thresholds that a file's own numbers suggest; nonzeros counts for it

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.stream.labels.control import resolve_control_label
    from ingest.stream.labels.detect import detect_gene_symbol_column, detect_perturbation_column, infer_columns
    from ingest.stream.labels.gene_names import standardise_gene_names
    from ingest.stream.labels.normalise import normalise_perturbation_labels
    from ingest.stream.labels.overlap import OverlapResult, compute_overlap
    from ingest.stream.labels.symbols import ensure_gene_symbol_column
    from ingest.stream.labels.thresholds import calculate_adaptive_qc_thresholds

__all__ = [
    "OverlapResult",
    "calculate_adaptive_qc_thresholds",
    "compute_overlap",
    "detect_gene_symbol_column",
    "detect_perturbation_column",
    "ensure_gene_symbol_column",
    "infer_columns",
    "normalise_perturbation_labels",
    "resolve_control_label",
    "standardise_gene_names",
]

_HOMES = {
    "OverlapResult": "overlap",
    "calculate_adaptive_qc_thresholds": "thresholds",
    "compute_overlap": "overlap",
    "detect_gene_symbol_column": "detect",
    "detect_perturbation_column": "detect",
    "ensure_gene_symbol_column": "symbols",
    "infer_columns": "detect",
    "normalise_perturbation_labels": "normalise",
    "resolve_control_label": "control",
    "standardise_gene_names": "gene_names",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
