"""The flavours choose scanpy's genes, by scanpy's numbers; everything goes through chunks on the way."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest

from ingest.hvg.find import check_request, find_hvgs, read_data
from ingest.hvg.parameters import HvgParameters
from ingest.settings import DataSettings, WorkSettings
from ingest.testing.datasets import make_dataset, open_serial_pool, write_h5ad_index
from ingest.testing.h5ad_files import sample_obs, write_h5ad_variant
from ingest.testing.hvg_data import trying_counts, varied_counts

if TYPE_CHECKING:
    from ingest.hvg.find import Found, HvgData

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scanpy

pytestmark = [
    # scanpy on its own dependencies, and on data that try it.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

N_TOP = 150


class Nobody:
    def reached(self, n_cells):
        pass

    def troubled(self, failure, retried):
        raise AssertionError(failure, retried)


@dataclass(frozen=True)
class Case:
    data: HvgData
    cells: anndata.AnnData

    def ours(self, flavour, *, batch_key=None, n_hvgs=N_TOP, target_sum=None) -> Found:
        parameters = HvgParameters.of(flavour, n_hvgs=n_hvgs, batch_key=batch_key, target_sum=target_sum)
        request = check_request(self.data, parameters, memory_bytes=1 << 30)
        settings = WorkSettings(workers=1, pool="serial")
        return find_hvgs(request, settings, open_serial_pool, lambda _word: Nobody())

    def scanpys(self, flavour, *, batch_key=None, n_hvgs=N_TOP, target_sum=None, dtype=np.float64) -> pd.DataFrame:
        cells = self.cells.copy()
        cells.X = cells.X.astype(dtype)
        if flavour != "seurat_v3":
            scanpy.pp.normalize_total(cells, target_sum=target_sum)
            scanpy.pp.log1p(cells)
        frame = scanpy.pp.highly_variable_genes(
            cells, n_top_genes=n_hvgs, flavor=flavour, batch_key=batch_key, inplace=False
        )
        return frame.set_axis(cells.var_names, axis=0)


def make_case(folder, counts) -> Case:
    n_cells = counts.shape[0]
    obs = sample_obs(n_cells)
    write_h5ad_variant(folder / "cells.h5ad", counts, obs=obs)
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    table = pd.read_feather(index)
    # Blocks of cells as well as single ones: batches that end inside chunks, and chunks without some batch.
    table["batch"] = np.where(np.arange(n_cells) < n_cells // 3, "early", [f"b{n % 2}" for n in range(n_cells)])
    table["number"] = np.arange(n_cells) % 3
    table.to_feather(index)
    data = DataSettings(cells_per_chunk=97)
    read = read_data(make_dataset(str(folder / "dest"), index, data=data).opened)
    chunks = [anndata.read_h5ad(path) for path in sorted((folder / "dest" / "chunks").iterdir())]
    cells = anndata.concat(chunks)
    cells.obs["number"] = pd.Categorical(cells.obs["number"].astype(str))
    assert (counts != cells.X).nnz == 0
    return Case(read, cells)


@pytest.fixture(scope="module", params=["varied", "trying", "few genes"])
def case(request, tmp_path_factory) -> Case:
    counts = {
        "varied": lambda: varied_counts(400, 900, seed=1, n_batches=3),
        "trying": lambda: trying_counts(300, 1_200, seed=2, n_batches=2),
        "few genes": lambda: varied_counts(250, 160, seed=3),
    }[request.param]
    return make_case(tmp_path_factory.mktemp("scanpy"), counts())


def selected(frame: pd.DataFrame) -> set[int]:
    return set(np.flatnonzero(frame["highly_variable"]))


@pytest.mark.parametrize("batch_key", [None, "batch", "number"])
@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger"])
@pytest.mark.sampled(3)
def test_normalised_dispersions_are_scanpys(case, flavour, batch_key):
    ours, theirs = case.ours(flavour, batch_key=batch_key), case.scanpys(flavour, batch_key=batch_key)
    assert set(ours.choice.genes.tolist()) == selected(theirs)
    expected = theirs["dispersions_norm"].to_numpy()
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(ours.choice.score), finite)
    assert ours.choice.score[finite] == pytest.approx(expected[finite], rel=1e-9, abs=1e-9)
    if batch_key is not None:
        assert ours.choice.n_batches.tolist() == theirs["highly_variable_nbatches"].tolist()
    elif flavour == "cell_ranger":
        seen = ours.moments.detected > 0
        assert ours.moments.mean[seen] == pytest.approx(theirs["means"].to_numpy()[seen], rel=1e-12)
        assert ours.moments.dispersion[seen] == pytest.approx(theirs["dispersions"].to_numpy()[seen], rel=1e-9)


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger"])
def test_scanpy_in_its_usual_float32_chooses_the_same(case, flavour):
    theirs = case.scanpys(flavour, dtype=np.float32)
    assert set(case.ours(flavour).choice.genes.tolist()) == selected(theirs)


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger"])
def test_another_target_sum(case, flavour):
    ours = case.ours(flavour, target_sum=1e4)
    assert ours.target_sum == 1e4
    assert set(ours.choice.genes.tolist()) == selected(case.scanpys(flavour, target_sum=1e4))


def test_the_target_is_scanpys_median(case):
    cells = case.cells.copy()
    assert case.ours("seurat").target_sum == np.median(np.asarray(cells.X.sum(axis=1)))


@pytest.mark.parametrize("batch_key", [None, "batch", "number"])
def test_seurat_v3_is_scanpys(case, batch_key, monkeypatch):
    sort = np.argsort

    def stable(values, axis=-1, kind=None, **options):
        """Order ties as they stand: scanpy leaves them to a sort that differs between CPUs."""
        return sort(values, axis=axis, kind=kind or "stable", **options)

    ours = case.ours("seurat_v3", batch_key=batch_key)
    monkeypatch.setattr(np, "argsort", stable)
    theirs = case.scanpys("seurat_v3", batch_key=batch_key)
    monkeypatch.undo()
    assert ours.choice.score == pytest.approx(theirs["variances_norm"].to_numpy(), rel=1e-9, abs=1e-9)
    assert ours.moments.mean == pytest.approx(theirs["means"].to_numpy(), rel=1e-12)
    assert ours.moments.variance == pytest.approx(theirs["variances"].to_numpy(), rel=1e-9)
    assert set(ours.choice.genes.tolist()) == selected(theirs)
    rank = theirs["highly_variable_rank"].to_numpy()
    assert np.array_equal(np.nan_to_num(ours.choice.rank, nan=-1), np.nan_to_num(rank, nan=-1))


@pytest.mark.parametrize("flavour", ["seurat", "cell_ranger", "seurat_v3"])
def test_more_genes_than_there_are(case, flavour):
    ours = case.ours(flavour, n_hvgs=10_000)
    assert set(ours.choice.genes.tolist()) == selected(case.scanpys(flavour, n_hvgs=10_000))


def test_dispersion_is_variance_over_mean_of_the_genes_seen_enough(case):
    ours = case.ours("dispersion")
    dense = case.cells.X.toarray().astype(np.longdouble)
    mean, variance = dense.mean(axis=0), dense.var(axis=0, ddof=1)
    enough = (dense > 0).sum(axis=0) * 100 >= 0.1 * len(dense)
    expected = np.where(enough & (mean > 0), variance / np.where(mean > 0, mean, 1), np.nan).astype(np.float64)
    assert ours.choice.score == pytest.approx(expected, rel=1e-12, nan_ok=True)
    order = sorted(np.flatnonzero(~np.isnan(expected)), key=lambda gene: (-ours.choice.score[gene], gene))
    assert ours.choice.genes.tolist() == order[:N_TOP]
