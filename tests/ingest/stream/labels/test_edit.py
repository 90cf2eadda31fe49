"""Columns and names of rows replaced in files whose index shares a dataset with a column, or is repeated in tables."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from ingest.errors import UnfitError
from ingest.stream import standardise_gene_names, standardize_dataset
from ingest.stream.labels.annotations import annotated
from ingest.stream.labels.edit import editing


def edit(path):
    with annotated(path) as given:
        version = given.version
    return editing(path, version=version)


def with_tables(cells):
    cells.varm["table"] = pd.DataFrame({"weight": np.arange(cells.n_vars)}, index=cells.var_names)
    cells.varm["named"] = pd.DataFrame({"w": np.ones(cells.n_vars)}, index=cells.var_names.rename("id"))
    cells.obsm["table"] = pd.DataFrame({"x": np.arange(cells.n_obs)}, index=cells.obs_names)


def shared(cells):
    """An index that is a column too: anndata writes one dataset for both."""
    cells.var.index.name = "gene_id"
    cells.var["gene_id"] = cells.var_names.to_numpy(object)
    cells.obs.index.name = "guide_id"
    cells.obs["guide_id"] = cells.obs_names.to_numpy(object)


@pytest.mark.parametrize("call", ["gene names", "standardised"])
def test_tables_of_varm_take_the_new_names_of_genes(screen, call):
    path = screen(change=with_tables)
    before = anndata.read_h5ad(path)
    if call == "gene names":
        standardise_gene_names(path)
    else:
        path = standardize_dataset(path, "guide", None, "feature_name", path.parent)
    after = anndata.read_h5ad(path)
    assert after.var_names.tolist() != before.var_names.tolist()
    for name in ("table", "named"):
        pd.testing.assert_frame_equal(after.varm[name].reset_index(drop=True), before.varm[name].reset_index(drop=True))
        assert after.varm[name].index.tolist() == after.var_names.tolist()
    pd.testing.assert_frame_equal(after.obsm["table"], before.obsm["table"])


def test_a_table_that_does_not_name_its_columns_takes_them_too(screen):
    path = screen(change=with_tables)
    with h5py.File(path, "r+") as file:
        del file["varm/table"].attrs["column-order"]
    standardise_gene_names(path)
    with h5py.File(path) as file:
        assert file["varm/table/_index"].asstr()[:].tolist() == file["var/_index"].asstr()[:].tolist()


def test_tables_of_obsm_take_the_new_names_of_cells(screen):
    path = screen(change=with_tables)
    with edit(path) as file:
        file.put_index("obs", pd.Index([f"new{number}" for number in range(60)]))
    after = anndata.read_h5ad(path)
    assert after.obs_names[59] == after.obsm["table"].index[59] == "new59"


def test_a_column_that_shares_the_indexs_dataset_stays_as_it_was(screen):
    path = screen(change=shared)
    before = anndata.read_h5ad(path)
    with h5py.File(path) as file:
        assert "_index" not in file["var"]  # or the test is about nothing
    standardise_gene_names(path)
    after = anndata.read_h5ad(path)
    assert after.var["gene_id"].tolist() == before.var_names.tolist()
    assert after.var_names.tolist() == [name.partition(".")[0] for name in before.var_names]
    assert list(after.var) == list(before.var)
    pd.testing.assert_frame_equal(after.obs, before.obs)
    standardise_gene_names(path)  # again: names have a place of their own now
    assert anndata.read_h5ad(path).var["gene_id"].tolist() == before.var_names.tolist()


def test_a_column_that_takes_the_indexs_name_does_not_take_its_values(screen):
    path = screen(change=lambda cells: setattr(cells.obs.index, "name", "perturbation"))
    before = anndata.read_h5ad(path)
    after = anndata.read_h5ad(standardize_dataset(path, "guide", None, "feature_name", path.parent))
    assert after.obs_names.tolist() == before.obs_names.tolist()
    assert set(after.obs["perturbation"].dropna()) >= {"control"}


@pytest.mark.parametrize("how", ["put", "rename"])
def test_a_shared_column_replaced_or_renamed_leaves_the_index(screen, how):
    path = screen(change=shared)
    before = anndata.read_h5ad(path)
    with edit(path) as file:
        if how == "put":
            file.put_column("obs", "guide_id", pd.Series(["x"] * 60))
        else:
            file.rename_column("obs", "guide_id", "was")
    after = anndata.read_h5ad(path)
    assert after.obs_names.tolist() == before.obs_names.tolist()
    wanted = ["x"] * 60 if how == "put" else before.obs["guide_id"].tolist()
    assert after.obs["guide_id" if how == "put" else "was"].tolist() == wanted


@pytest.mark.parametrize("n_rows", [10, 61])
def test_another_number_of_rows_is_refused(screen, n_rows):
    path = screen()
    content = path.read_bytes()
    with pytest.raises(UnfitError, match=f"{n_rows} rows where there are 60"), edit(path) as file:
        file.put_column("obs", "guide", pd.Series(["x"] * n_rows))
    with pytest.raises(UnfitError, match=f"{n_rows} rows where there are 12"), edit(path) as file:
        file.put_index("var", pd.Index(["x"] * n_rows))
    assert path.read_bytes() == content
