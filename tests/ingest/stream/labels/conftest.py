"""A small screen as a file in every layout, with everything an h5ad can carry."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ingest.testing.h5ad_files import sample_counts

REAL = Path(__file__).parents[4] / ".." / "shared" / "data"
N_CELLS, N_GENES = 60, 12
LABELS = ["NTC", "TP53_1", "KRAS", "NKX2-1", "A/B", "HLA-A"]


def make_screen(layout="csr", *, seed=0):
    rng = np.random.default_rng(seed)
    counts = sample_counts(N_CELLS, N_GENES, density=0.4, seed=seed)
    codes = rng.integers(-1, len(LABELS), N_CELLS)
    obs = pd.DataFrame(
        {
            "guide": pd.Categorical.from_codes(codes, pd.Index(LABELS)),
            "text": [LABELS[code] for code in np.maximum(codes, 0)],
            "dose": pd.Categorical(rng.choice(["low", "mid", "high"], N_CELLS), ["low", "mid", "high"], ordered=True),
            "plate": rng.integers(0, 4, N_CELLS),
            "score": np.where(rng.random(N_CELLS) < 0.1, np.nan, rng.random(N_CELLS)),
        },
        index=[f"cell{number}" for number in range(N_CELLS)],
    )
    var = pd.DataFrame(
        {
            "feature_name": pd.Categorical([f"GENE{number // 2}" for number in range(N_GENES)]),
            "gene_type": ["protein_coding"] * N_GENES,
        },
        index=[f"ENSG{number:011d}.{number % 3 + 1}" for number in range(N_GENES)],
    )
    cells = anndata.AnnData(counts.toarray() if layout == "dense" else counts.asformat(layout), obs=obs, var=var)
    cells.layers["double"] = counts * 2
    cells.obsm["X_pca"] = rng.random((N_CELLS, 3)).astype(np.float32)
    cells.varm["loadings"] = rng.random((N_GENES, 2))
    cells.obsp["near"] = sparse.random(N_CELLS, N_CELLS, 0.05, "csr", random_state=seed)
    cells.uns["colours"] = np.array(["#fff", "#000"], dtype=object)
    cells.uns["deep"] = {"er": {"number": 3, "text": "x"}}
    cells.raw = anndata.AnnData(counts.copy(), obs=obs.copy(), var=var.copy())
    return cells


@pytest.fixture
def screen(tmp_path):
    """Return a function that writes a screen of a layout and returns its path."""

    def write(layout="csr", *, change=lambda cells: None, name="screen.h5ad"):
        cells = make_screen(layout)
        change(cells)
        path = tmp_path / name
        cells.write_h5ad(path, convert_strings_to_categoricals=False)
        return path

    return write


def dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def assert_same_cells(found, wanted, *, rows=None, but=()):
    """Compare all of two AnnData; `rows` of the wanted one; `but` names parts that differ, such as ``obs.guide``."""
    wanted = wanted if rows is None else wanted[rows]
    for table in ("obs", "var"):
        one, other = getattr(found, table), getattr(wanted, table)
        skipped = [name.removeprefix(f"{table}.") for name in but if name.startswith(f"{table}.")]
        if f"{table}.index" not in but:
            assert list(one.index) == list(other.index)
        pd.testing.assert_frame_equal(
            one.drop(columns=skipped, errors="ignore").reset_index(drop=True),
            other.drop(columns=skipped, errors="ignore").reset_index(drop=True),
        )
    np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
    for place in ("layers", "obsm", "varm", "obsp"):
        assert set(getattr(found, place)) == set(getattr(wanted, place))
        for name, value in getattr(wanted, place).items():
            np.testing.assert_array_equal(dense(getattr(found, place)[name]), dense(value))
    if wanted.raw is not None:
        np.testing.assert_array_equal(dense(found.raw.X), dense(wanted.raw.X))
        assert list(found.raw.var_names) == list(wanted.raw.var_names)
    for name, value in wanted.uns.items():
        if f"uns.{name}" not in but:
            assert str(found.uns[name]) == str(value)
