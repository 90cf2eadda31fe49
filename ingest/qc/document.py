"""qc.json: what was asked, what each rule dropped, how the cells are distributed before and after."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.documents import readable
from ingest.qc.select import quantiles
from ingest.qc.table import mito_pct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ingest.genes import Genes
    from ingest.hvg.find import HvgData
    from ingest.qc.find import QcFound, QcRequest
    from ingest.qc.parameters import QcRules
    from ingest.qc.table import CellTable

__all__ = ["METRICS", "qc_document", "qc_identity"]

Array = np.ndarray[Any, Any]

METRICS: Mapping[str, Callable[[Array], Array]] = {
    "n_genes_by_counts": lambda cells: cells["n_genes"].astype(np.float64),
    "total_counts": lambda cells: cells["total"],
    "pct_counts_mt": mito_pct,
}
"""Metric of a cell, by scanpy's name -> float64 ``(n,)`` from `ingest.qc.table.CELL`."""

_SHARES = {"min": 0.0, "1%": 0.01, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "99%": 0.99}
_SHARES["max"] = 1.0
_NAMED = 50


def qc_identity(data: HvgData, rules: QcRules) -> dict[str, Any]:
    """Return what decides the result: equal identities have equal results, so they need not be found again."""
    return {"rules": rules.document(), "dataset": data.document()}


def qc_document(
    identity: dict[str, Any], request: QcRequest, found: QcFound, genes: Genes, sha256: Mapping[str, str]
) -> bytes:
    """Encode qc.json.

    Parameters
    ----------
    sha256
        Key -> digest of each file beside it.
    """
    n_cells = len(found.table)
    document = {
        **identity,
        "annotations": [asdict(annotation) for annotation in request.annotations],
        "cells": {"n": n_cells, "kept": found.n_kept, "dropped": n_cells - found.n_kept},
        "dropped_by_rule": {rule: asdict(drops) for rule, drops in found.drops.items()},
        "adaptive": {rule: _numbers(asdict(found)) for rule, found in found.deviations.items()},
        "metrics": {
            name: {
                "all": _spread(found.table, metric, kept=False),
                "kept": _spread(found.table, metric, kept=True),
            }
            for name, metric in METRICS.items()
            if name != "pct_counts_mt" or request.mito.any()
        },
        "genes": _genes(request, found, genes),
        **({"leave_out_found": found.n_listed} if request.rules.leave_out else {}),
        "sha256": dict(sha256),
    }
    return readable(document)


def _genes(request: QcRequest, found: QcFound, genes: Genes) -> dict[str, Any]:
    kept = int(found.genes.kept.sum())
    mito = np.flatnonzero(request.mito).tolist()
    return {
        "n": len(genes),
        "kept": kept,
        "dropped": len(genes) - kept,
        "mitochondrial": len(mito),
        "mitochondrial_names": [genes.names[gene] for gene in mito[:_NAMED]],
    }


def _spread(table: CellTable, metric: Callable[[Array], Array], *, kept: bool) -> dict[str, float | None]:
    def values() -> Iterator[Array]:
        for cells in table.pieces():
            found = metric(cells[cells["flags"] == 0] if kept else cells)
            yield found[~np.isnan(found)]

    sums = [(len(piece), math.fsum(piece)) for piece in values()]
    n = sum(length for length, _ in sums)
    mean = math.fsum(total for _, total in sums) / n if n else math.nan
    found = quantiles(values, n, list(_SHARES.values()))
    return _numbers({"mean": mean, **dict(zip(_SHARES, found, strict=True))})


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return what JSON can hold: it has neither NaN nor infinity; whole numbers as such."""
    return {
        name: None if not math.isfinite(value) else int(value) if float(value).is_integer() else value
        for name, value in values.items()
    }
