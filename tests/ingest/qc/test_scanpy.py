"""Every number beside scanpy's and scipy's, on the same cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.feather
import pytest
from scipy.stats import median_abs_deviation

from ingest.cli.qc import judge_dataset
from ingest.hvg.find import read_data
from ingest.qc.parameters import QcRules
from ingest.settings import DataSettings, WorkSettings
from ingest.store.open import open_store
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.qc_data import N_MITO, write_qc_source

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scanpy

pytestmark = pytest.mark.filterwarnings("ignore")  # scanpy has much to say
SETTINGS = WorkSettings(workers=1, pool="serial")


@pytest.fixture(scope="module", params=["h5ad", "h5"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qc")
    write_qc_source(folder / "cells.h5ad", seed=3)
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    data = DataSettings(cells_per_chunk=37, format=request.param, dtype="int16" if request.param == "h5" else "float32")
    return make_dataset(str(folder / "dest"), index, data=data).opened


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> anndata.AnnData:
    """scanpy's metrics; in float64, or its log1p of float32 totals is off in the seventh digit."""
    found = write_qc_source(tmp_path_factory.mktemp("theirs") / "cells.h5ad", seed=3)
    found.X = found.X.astype(np.float64)
    scanpy.pp.calculate_qc_metrics(found, qc_vars=["mt"], percent_top=None, inplace=True)
    return found


def judged(finished, folder: Path, **rules):
    document, cached = judge_dataset(read_data(finished), QcRules.of(rules), open_store(str(folder)), SETTINGS)
    assert not cached
    tables = (pyarrow.feather.read_table(folder / f"qc_{name}.feather").to_pandas() for name in ("cells", "genes"))
    return document, *tables


def test_metrics_are_scanpys(finished, theirs, tmp_path):
    document, cells, genes = judged(finished, tmp_path / "out")
    for name in ("n_genes_by_counts", "total_counts", "total_counts_mt", "pct_counts_mt"):
        np.testing.assert_array_equal(cells[name], theirs.obs[name], err_msg=name)
    for name in ("n_cells_by_counts", "total_counts", "mt"):
        np.testing.assert_array_equal(genes[name], theirs.var[name], err_msg=name)
    for name in ("mean_counts", "pct_dropout_by_counts"):
        np.testing.assert_allclose(genes[name], theirs.var[name], rtol=1e-12, err_msg=name)
    assert genes["gene_id"].tolist() == theirs.var_names.tolist()
    assert cells["kept"].all()
    assert genes["kept"].all()
    assert document["genes"]["mitochondrial"] == N_MITO
    for name in ("n_genes_by_counts", "total_counts", "pct_counts_mt"):
        values = theirs.obs[name].dropna()
        spread = document["metrics"][name]["all"]
        shares = {"min": 0, "1%": 0.01, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "99%": 0.99}
        wanted = {"mean": values.mean(), "max": values.max()} | {k: values.quantile(s) for k, s in shares.items()}
        assert spread == pytest.approx(wanted, rel=1e-12)


def outliers(metric: pd.Series, n: float) -> pd.Series:
    """The rule of single-cell best practices."""
    known = metric.dropna()
    middle, spread = np.median(known), median_abs_deviation(known)
    return (metric < middle - n * spread) | (middle + n * spread < metric)


@pytest.mark.parametrize(("mad", "mad_mito"), [(2, None), (3, 1.5), (5, 3), (None, 2)])
def test_outliers_are_those_of_best_practices(finished, theirs, tmp_path, mad, mad_mito):
    document, cells, _ = judged(finished, tmp_path / "out", mad=mad, mad_mito=mad_mito)
    gone = outliers(theirs.obs["pct_counts_mt"], mad if mad_mito is None else mad_mito)
    if mad is not None:
        gone |= outliers(theirs.obs["log1p_total_counts"], mad) | outliers(theirs.obs["log1p_n_genes_by_counts"], mad)
    assert gone.any()
    np.testing.assert_array_equal(cells["kept"], ~gone)
    deviation = document["adaptive"]["mad_mito"]
    assert deviation["mad"] == median_abs_deviation(theirs.obs["pct_counts_mt"].dropna())


@pytest.mark.parametrize(
    "rules",
    [
        {"min_genes": 30, "min_cells": 5},
        {"max_genes": 60, "min_counts": 100, "max_counts": 2000, "min_cells_pct": 12.5},
        {"max_mito_pct": 8.0, "min_cells": 20},
    ],
)
def test_cells_and_genes_are_those_of_scanpys_filters(finished, theirs, tmp_path, rules):
    document, cells, genes = judged(finished, tmp_path / "out", **rules)
    left = theirs.copy()
    for name in ("min_genes", "max_genes", "min_counts", "max_counts"):
        if name in rules:
            scanpy.pp.filter_cells(left, **{name: rules[name]})
    if "max_mito_pct" in rules:
        left = left[~(left.obs["pct_counts_mt"] > rules["max_mito_pct"])].copy()
    scanpy.pp.filter_genes(left, min_cells=rules.get("min_cells", rules.get("min_cells_pct", 0) / 100 * left.n_obs))
    assert 0 < left.n_obs < theirs.n_obs
    assert 0 < left.n_vars < theirs.n_vars
    np.testing.assert_array_equal(theirs.obs_names[cells["kept"].to_numpy()], left.obs_names)
    np.testing.assert_array_equal(theirs.var_names[genes["kept"].to_numpy()], left.var_names)
    np.testing.assert_array_equal(genes["n_cells_kept"][genes["kept"]], left.var["n_cells"])
    assert (document["cells"]["kept"], document["genes"]["kept"]) == left.shape
