from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from ingest.errors import NoColumnError, NoMatrixError
from ingest.stream import calculate_adaptive_qc_thresholds, calculate_optimal_chunk_size
from ingest.stream.labels import nonzeros
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

REAL = Path(__file__).parents[4] / ".." / "shared" / "data"


def wanted(cells, column, share):
    """The same from scanpy's metrics, of all cells."""
    data = anndata.AnnData(cells.X, var=cells.var[[]])
    per_cell, per_gene = sc.pp.calculate_qc_metrics(data, percent_top=None, log1p=False)
    sizes = cells.obs[column].value_counts()
    return {
        "min_genes": int(np.clip(int(per_cell["n_genes_by_counts"].median()) // 10, 5, 50)),
        "min_cells_per_perturbation": int(np.clip(int(np.percentile(sizes[sizes > 0], share)), 5, 50)),
        "min_cells_per_gene": int(np.clip(int(np.percentile(per_gene["n_cells_by_counts"], share)), 5, 100)),
        "chunk_size": 77,
    }


def wide(n_cells=300, n_genes=200):
    counts = sample_counts(n_cells, n_genes, density=0.5)
    groups = np.resize(np.repeat(["a", "b", "c", None], [240, 40, 15, 5]), n_cells)
    obs = pd.DataFrame({"guide": pd.Categorical(groups)}, index=[f"c{number}" for number in range(n_cells)])
    return anndata.AnnData(counts, obs=obs)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.int64, *(pytest.param(dtype, marks=pytest.mark.long) for dtype in (np.float64, np.uint8))]
)
@pytest.mark.sampled(3)
def test_every_layout_in_a_file_and_in_memory_equals_scanpy(tmp_path, layout, dtype, monkeypatch):
    monkeypatch.setattr(nonzeros, "_SLAB_BYTES", 1 << 12)  # many pieces
    cells = wide()
    path = write_h5ad_variant(
        tmp_path / "a.h5ad", cells.X, layout=layout, dtype=dtype, obs=cells.obs, compression="gzip"
    )
    for mode, share in (("conservative", 10), ("aggressive", 5)):
        expected = wanted(cells, "guide", share)
        assert expected["min_genes"] == 10
        for given in (path, anndata.read_h5ad(path), anndata.read_h5ad(path, backed="r")):
            assert calculate_adaptive_qc_thresholds(given, "guide", mode, chunk_size=77) == expected


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("genes", [slice(None), slice(0, 60, 2)])
def test_a_view_of_a_file_has_the_numbers_of_its_own_rows(tmp_path, layout, genes):
    cells = wide()
    cells.X[100:] = cells.X[100:].multiply(cells.X[100:] > 2)  # other rows have other numbers
    path = write_h5ad_variant(tmp_path / "a.h5ad", cells.X, layout=layout, obs=cells.obs)
    backed = anndata.read_h5ad(path, backed="r")
    for rows in (slice(100, None), np.arange(40, 300, 2)):
        part = cells[rows].copy()[:, genes].copy()
        found = calculate_adaptive_qc_thresholds(backed[rows, genes], "guide", chunk_size=77)
        assert found == wanted(part, "guide", 10)
        few = [
            calculate_adaptive_qc_thresholds(data, "guide", sample_size=30, chunk_size=1)
            for data in (backed[rows, genes], part)
        ]
        assert few[0] == few[1]
    backed.file.close()


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_a_sample_is_the_same_however_the_matrix_lies(tmp_path, layout):
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix((rng.random((500, 40)) < rng.random(40)).astype(np.float32))
    cells = anndata.AnnData(counts, obs=pd.DataFrame({"g": ["a"] * 500}, index=[str(n) for n in range(500)]))
    path = write_h5ad_variant(tmp_path / "a.h5ad", counts, layout=layout, obs=cells.obs)
    found = calculate_adaptive_qc_thresholds(path, "g", sample_size=90, chunk_size=1)
    assert found == calculate_adaptive_qc_thresholds(cells, "g", sample_size=90, chunk_size=1)
    assert (
        found["min_cells_per_gene"] < calculate_adaptive_qc_thresholds(cells, "g", chunk_size=1)["min_cells_per_gene"]
    )


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_zeros_that_are_stored_do_not_count(tmp_path, layout):
    cells = wide()
    stored = cells.X.copy()
    stored.data[::2] = 0
    path = write_h5ad_variant(tmp_path / "a.h5ad", stored, layout=layout, obs=cells.obs)
    stored.eliminate_zeros()
    cells.X = stored
    assert calculate_adaptive_qc_thresholds(path, "guide", chunk_size=77) == wanted(cells, "guide", 10)


def test_bounds_hold_and_the_chunk_size_is_the_calculators():
    few = anndata.AnnData(np.zeros((3, 2)), obs=pd.DataFrame({"g": ["a", "b", None]}, index=list("abc")))
    found = calculate_adaptive_qc_thresholds(few, "g")
    assert found == {
        "min_genes": 5,
        "min_cells_per_perturbation": 5,
        "min_cells_per_gene": 5,
        "chunk_size": calculate_optimal_chunk_size(3, 2),
    }
    many = anndata.AnnData(
        np.ones((200, 700), np.float32), obs=pd.DataFrame({"g": ["a"] * 200}, index=map(str, range(200)))
    )
    found = calculate_adaptive_qc_thresholds(many, "g")
    assert list(found.values())[:3] == [50, 50, 100]
    assert all(type(value) is int for value in found.values())


def test_no_cells():
    empty = anndata.AnnData(np.zeros((0, 4)), obs=pd.DataFrame({"g": []}, index=pd.Index([], dtype=str)))
    assert list(calculate_adaptive_qc_thresholds(empty, "g").values())[:3] == [5, 5, 5]


def test_wrong_arguments(tmp_path):
    cells = wide(30, 5)
    with pytest.raises(NoColumnError, match="no column 'guid' in obs"):
        calculate_adaptive_qc_thresholds(cells, "guid")
    with pytest.raises(ValueError, match="none of conservative, aggressive"):
        calculate_adaptive_qc_thresholds(cells, "guide", "bold")
    with pytest.raises(ValueError, match="a sample of 0 cells"):
        calculate_adaptive_qc_thresholds(cells, "guide", sample_size=0)
    del cells.X
    with pytest.raises(NoMatrixError, match="there is no X"):
        calculate_adaptive_qc_thresholds(cells, "guide")
    cells.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(NoMatrixError, match="there is no X") as caught:
        calculate_adaptive_qc_thresholds(tmp_path / "a.h5ad", "guide")
    assert isinstance(caught.value, ValueError)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.filterwarnings("ignore::Warning")
def test_real_files():
    for path in sorted(REAL.glob("*.h5ad")):
        cells = anndata.read_h5ad(path)
        column = next(
            name for name in cells.obs if isinstance(cells.obs[name].dtype, pd.CategoricalDtype) or name == "n_genes"
        )
        assert calculate_adaptive_qc_thresholds(path, column, chunk_size=77) == wanted(cells, column, 10), path
