"""A small perturbation screen with everything an h5ad can carry, and a comparison of all of it."""

# ruff: noqa: S101  # assert is how pytest speaks

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from ingest.testing.h5ad_files import sample_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ingest.testing.h5ad_files import MatrixLayout

__all__ = ["SCREEN_LABELS", "assert_same_cells", "make_screen", "write_screen"]

SCREEN_LABELS = ("NTC", "TP53_1", "KRAS", "NKX2-1", "A/B", "HLA-A")
"""Labels of ``obs["guide"]``; one of them HDF5 takes for a path."""

_N_CELLS, _N_GENES = 60, 12


def make_screen(layout: MatrixLayout = "csr", *, seed: int = 0) -> anndata.AnnData:
    """Draw a screen of 60 cells x 12 genes.

    obs has ``guide`` (categorical, some missing), ``text`` (the same as text, none missing), ``dose`` (ordered),
    ``plate`` (int) and ``score`` (float, some missing); var is indexed by Ensembl ids with versions and has
    ``feature_name`` (categorical, every symbol twice) and ``gene_type``.
    """
    rng = np.random.default_rng(seed)
    counts = sample_counts(_N_CELLS, _N_GENES, density=0.4, seed=seed)
    matrix = counts.toarray() if layout == "dense" else counts.asformat(layout)
    cells = anndata.AnnData(matrix, obs=_obs(rng), var=_var())
    cells.layers["double"] = counts * 2
    cells.obsm["X_pca"] = rng.random((_N_CELLS, 3)).astype(np.float32)
    cells.varm["loadings"] = rng.random((_N_GENES, 2))
    cells.obsp["near"] = sparse.random(_N_CELLS, _N_CELLS, 0.05, "csr", random_state=seed)
    cells.uns["colours"] = np.array(["#fff", "#000"], dtype=object)
    cells.uns["deep"] = {"er": {"number": 3, "text": "x"}}
    cells.raw = anndata.AnnData(counts.copy(), obs=cells.obs.copy(), var=cells.var.copy())
    return cells


def write_screen(
    path: Path, layout: MatrixLayout = "csr", *, change: Callable[[anndata.AnnData], Any] | None = None
) -> Path:
    """Write `make_screen` to `path`, after `change` to it; text stays text."""
    cells = make_screen(layout)
    if change is not None:
        change(cells)
    cells.write_h5ad(path, convert_strings_to_categoricals=False)
    return path


def assert_same_cells(
    found: anndata.AnnData, wanted: anndata.AnnData, *, rows: Any = None, but: Sequence[str] = ()
) -> None:
    """Assert that all of `found` is what is in `rows` of `wanted`.

    Parameters
    ----------
    but
        What may differ: ``obs.<column>``, ``var.index``, ``uns.<key>``, ….
    """
    wanted = wanted if rows is None else wanted[rows]
    for table in ("obs", "var"):
        _assert_same_table(getattr(found, table), getattr(wanted, table), table, but)
    np.testing.assert_array_equal(_dense(found.X), _dense(wanted.X))
    for place in ("layers", "obsm", "varm", "obsp"):
        one, other = getattr(found, place), getattr(wanted, place)
        assert set(one) == set(other), place
        for name in other:
            np.testing.assert_array_equal(_dense(one[name]), _dense(other[name]))
    if wanted.raw is not None:
        np.testing.assert_array_equal(_dense(found.raw.X), _dense(wanted.raw.X))
        pd.testing.assert_frame_equal(found.raw.var, wanted.raw.var)
    for name, value in wanted.uns.items():
        assert f"uns.{name}" in but or str(found.uns[name]) == str(value), name


def _obs(rng: np.random.Generator) -> pd.DataFrame:
    codes = rng.integers(-1, len(SCREEN_LABELS), _N_CELLS)
    return pd.DataFrame(
        {
            "guide": pd.Categorical.from_codes(codes, pd.Index(SCREEN_LABELS)),
            "text": [SCREEN_LABELS[max(code, 0)] for code in codes],
            "dose": pd.Categorical(rng.choice(["low", "mid", "high"], _N_CELLS), ["low", "mid", "high"], ordered=True),
            "plate": rng.integers(0, 4, _N_CELLS),
            "score": np.where(rng.random(_N_CELLS) < 0.1, np.nan, rng.random(_N_CELLS)),
        },
        index=[f"cell{number}" for number in range(_N_CELLS)],
    )


def _var() -> pd.DataFrame:
    numbers = range(_N_GENES)
    return pd.DataFrame(
        {
            "feature_name": pd.Categorical([f"GENE{number // 2}" for number in numbers]),
            "gene_type": ["protein_coding" for _ in numbers],
        },
        index=[f"ENSG{number:011d}.{number % 3 + 1}" for number in numbers],
    )


def _assert_same_table(found: pd.DataFrame, wanted: pd.DataFrame, table: str, but: Sequence[str]) -> None:
    skipped = [name.removeprefix(f"{table}.") for name in but if name.startswith(f"{table}.")]
    if "index" not in skipped:
        assert list(found.index) == list(wanted.index)
    pd.testing.assert_frame_equal(
        found.drop(columns=skipped, errors="ignore").reset_index(drop=True),
        wanted.drop(columns=skipped, errors="ignore").reset_index(drop=True),
    )


def _dense(matrix: Any) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return values
