"""hvg_info.json: the genes chosen as every program reads them, and what they were chosen from and by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.documents import readable

if TYPE_CHECKING:
    from ingest.genes import Genes
    from ingest.hvg.find import Found, HvgData
    from ingest.hvg.parameters import HvgParameters

__all__ = ["hvg_document", "hvg_identity"]

_TOP = 10


def hvg_identity(data: HvgData, parameters: HvgParameters) -> dict[str, Any]:
    """Return what decides the genes: equal identities have equal genes, so they need not be found again."""
    return {
        "flavour": parameters.flavour,
        "parameters": parameters.document(),
        "dataset": data.document(),
    }


def hvg_document(identity: dict[str, Any], found: Found, genes: Genes, plot_sha256: str | None) -> bytes:
    """Encode hvg_info.json.

    Parameters
    ----------
    plot_sha256
        Of the plot beside it; None where none was drawn.
    """
    choice, moments = found.choice, found.moments
    chosen = choice.genes.tolist()
    document = {
        **identity,
        "hvg_indices": chosen,
        "hvg_names": [genes.ids[gene] for gene in chosen],
        "hvg_symbols": [genes.names[gene] for gene in chosen],
        "gene_to_hvg_idx": {str(gene): at for at, gene in enumerate(chosen)},
        "score": choice.score_name,
        "hvg_scores": _numbers(choice.score[choice.genes]),
        "hvg_means": _numbers(moments.mean[choice.genes]),
        "hvg_variances": _numbers(moments.variance[choice.genes]),
        "hvg_pct_cells": _numbers(_pct_cells(found)[choice.genes]),
        **({} if choice.n_batches is None else {"hvg_n_batches": choice.n_batches[choice.genes].tolist()}),
        **({} if found.batches is None else {"batches": dict(found.batches)}),
        **({} if found.target_sum is None else {"target_sum": found.target_sum}),
        "statistics": _statistics(found, genes),
        "plot_sha256": plot_sha256,
    }
    return readable(document)


def _statistics(found: Found, genes: Genes) -> dict[str, Any]:
    """Return the seed's entries: of variance over mean, whatever the flavour ranks by."""
    chosen = found.choice.genes
    dispersions = found.moments.dispersion[chosen]
    known = dispersions[~np.isnan(dispersions)]
    top = chosen[:_TOP]
    return {
        "total_cells_analyzed": found.moments.n_cells,
        "mean_dispersion": float(known.mean()) if len(known) else None,
        "min_dispersion": float(known.min()) if len(known) else None,
        "max_dispersion": float(known.max()) if len(known) else None,
        "top_10_hvgs": [genes.ids[gene] for gene in top.tolist()],
        "top_10_dispersions": _numbers(dispersions[:_TOP]),
        "top_10_pct_cells": _numbers(_pct_cells(found)[top]),
    }


def _pct_cells(found: Found) -> np.ndarray[Any, np.dtype[np.float64]]:
    pct: np.ndarray[Any, np.dtype[np.float64]] = 100.0 * found.moments.detected / found.moments.n_cells
    return pct


def _numbers(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float | None]:
    """Return what JSON can hold: it has neither NaN nor infinity."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
