"""obs, var and obsp of h5ad files: what bionemo-scdl has of them once its archive is read again."""

from __future__ import annotations

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

from ingest.errors import HostileFileError, NoMatrixError
from ingest.load.memmap.convert import h5ad
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.load.memmap.convert.h5ad_features import read_frame
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

N = 40


def every_type() -> pd.DataFrame:
    rng, places = np.random.default_rng(0), np.arange(N)
    some = places % 5 > 0
    return pd.DataFrame(
        {
            "category": pd.Categorical(rng.choice(["b", "a", "ö"], N)),
            "ordered": pd.Categorical(rng.choice(["lo", "hi"], N), ["lo", "hi", "never"], ordered=True),
            "holes": pd.Categorical(np.where(some, "there", None)),
            "all missing": pd.Categorical([None] * N, ["x"]),
            "whole categories": pd.Categorical(places % 3),
            "whole categories with holes": pd.Categorical.from_codes(np.where(some, 1, -1), pd.Index([5, 7])),
            "fractions": pd.Categorical(places % 3 / 2),
            "flags": pd.Categorical(places % 2 == 0),
            "flags with holes": pd.Categorical.from_codes(np.where(some, 1, -1), pd.Index([False, True])),
            "text": [f"t{i}" for i in places],
            "bool": places % 3 == 0,
            "nullable bool": pd.array(np.where(some, places % 2 == 0, None), "boolean"),
            "nullable whole": pd.array(np.where(some, places, None), "Int32"),
            "nullable, none missing": pd.array(places, "UInt8"),
            **{kind: places.astype(kind) for kind in ("int8", "int64", "uint16", "float32", "float64")},
            "nan": np.where(some, 1.5, np.nan),
            "only nan": np.full(N, np.nan),
        },
        index=[f"cell {i}" for i in places],
    )


def convert(path, folder, **options):
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

    with warnings.catch_warnings():
        for kind in (FutureWarning, anndata.OldFormatWarning):  # of calls and of files that are not today's
            warnings.simplefilter("ignore", kind)
        SingleCellMemMapDataset(str(folder), str(path), use_X_not_raw=True, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Neighbor loading was requested")
        return SingleCellMemMapDataset(str(folder), load_neighbors="load_neighbors" in options)


def same(table: pa.Table, theirs: dict[str, np.ndarray]) -> None:
    """Compare columns as they are once written and read: categories of text as text."""
    assert table.column_names == list(theirs)
    for name, want in theirs.items():
        column = table[name]
        if pa.types.is_dictionary(column.type):
            assert pa.types.is_string(column.type.value_type)
            column = column.cast(pa.string())
        got = column.to_numpy()
        assert got.dtype == want.dtype, name
        np.testing.assert_array_equal(got, want, err_msg=name)
        assert list(map(type, got.tolist())) == list(map(type, want.tolist())), name


@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
def test_columns_of_every_type(tmp_path, legacy):
    path = tmp_path / "a.h5ad"
    if legacy is None:
        anndata.AnnData(sample_counts(N, 7), obs=every_type()).write_h5ad(path)
    else:
        write_h5ad_variant(path, sample_counts(N, 7), legacy=legacy, obs=sample_obs(N))
    theirs = convert(path, tmp_path / "theirs")
    rows = H5adRows(path, use_X_not_raw=True)
    same(rows.obs_features(), theirs.obs_features()._feature_arr[0])
    same(rows.var_features(), theirs.var_features()._feature_arr[0])
    rows.close()


def test_categories_of_text_stay_categories(tmp_path):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(sample_counts(N, 7), obs=every_type()).write_h5ad(path)
    rows = H5adRows(path, use_X_not_raw=True)
    table = rows.obs_features()
    rows.close()
    coded = [name for name in table.column_names if pa.types.is_dictionary(table[name].type)]
    assert coded == ["category", "ordered", "holes"]


def test_without_columns_there_are_names(tmp_path):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(sample_counts(N, 7)).write_h5ad(path)
    theirs = convert(path, tmp_path / "theirs", var_feature_index_name="gene", obs_feature_index_name="cell")
    rows = H5adRows(path, use_X_not_raw=True)
    same(rows.obs_features("cell"), theirs.obs_features()._feature_arr[0])
    same(rows.var_features("gene"), theirs.var_features()._feature_arr[0])
    assert rows.obs_features().column_names == ["obs_feature_id"]
    assert rows.var_features().column_names == ["var_feature_id"]
    rows.close()


def _number(path, table, n_rows):
    """Let rows be called by numbers, which no anndata writes."""
    with h5py.File(path, "r+") as file:
        attributes = dict(file[f"{table}/_index"].attrs)
        del file[f"{table}/_index"]
        names = file.create_dataset(f"{table}/_index", data=np.arange(n_rows))
        names.attrs.update(attributes, **{"encoding-type": "array"})


def test_names_that_are_numbers(tmp_path):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(sample_counts(N, 7)).write_h5ad(path)
    _number(path, "obs", N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, that names become texts
        theirs = convert(path, tmp_path / "theirs")
    rows = H5adRows(path, use_X_not_raw=True)
    same(rows.obs_features(), theirs.obs_features()._feature_arr[0])
    rows.close()


def test_of_raw_genes_names_alone_are_read_where_they_are_the_same(tmp_path, monkeypatch):
    counts, path = sample_counts(N, 7), tmp_path / "a.h5ad"
    made = anndata.AnnData(counts, var=pd.DataFrame({"of": ["raw"] * 7}, index=[f"g{i}" for i in range(7)]))
    made.raw = made
    made.write_h5ad(path)
    read = []
    monkeypatch.setattr(h5ad, "read_frame", lambda file, path: read.append(path) or read_frame(file, path))
    rows = H5adRows(path)
    assert rows.var_features().to_pydict() == {"of": ["raw"] * 7}
    assert read == ["var"]
    rows.close()


@pytest.mark.parametrize("change", ["none", "subset", "order", "numbers"])
def test_genes_of_raw(tmp_path, change):
    """Of var where it is of the same genes; theirs takes var even where raw has others."""
    counts, path = sample_counts(N, 7), tmp_path / "a.h5ad"
    ids = [f"g{i}" for i in range(7)]
    whole = anndata.AnnData(counts, var=pd.DataFrame({"of": ["raw"] * 7, "n": range(7)}, index=ids))
    keep = {"subset": ids[1:4], "order": ids[::-1]}.get(change, ids)
    made = whole[:, keep].copy()
    made.var = pd.DataFrame({"of": ["var"] * len(keep)}, index=keep)
    made.raw = whole
    made.write_h5ad(path)
    if change == "numbers":
        _number(path, "var", 7)
        _number(path, "raw/var", 7)
    rows = H5adRows(path)
    table = rows.var_features()
    assert (rows.n_columns, len(table)) == (7, 7)
    same = change in ("none", "numbers")
    assert table.to_pydict() == ({"of": ["var"] * 7} if same else {"of": ["raw"] * 7, "n": list(range(7))})
    rows.close()
    rows = H5adRows(path, use_X_not_raw=True)
    assert rows.var_features().to_pydict() == {"of": ["var"] * len(keep)}
    rows.close()


def neighbours(layout="csr", dtype=np.float64):
    made = sparse.random(N, N, 0.2, layout, random_state=0)
    made.data = (made.data * 9).astype(dtype)
    return made


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("cutoff", [10_000, 0])
def test_neighbours(tmp_path, monkeypatch, layout, dtype, cutoff):
    monkeypatch.setattr("ingest.load.memmap.convert.h5ad_csr._POINTERS", 7)
    path, made = tmp_path / "a.h5ad", neighbours(layout, dtype)
    anndata.AnnData(sample_counts(N, 7), obsp={"next": made}).write_h5ad(path)
    rows = H5adRows(path, use_X_not_raw=True)
    got = rows.neighbors("next")
    rows.close()
    assert [array.dtype.name for array in got] == ["uint64", "uint32", "float32"]
    if layout == "csr":  # theirs takes columns for rows
        theirs = convert(path, tmp_path / "t", load_neighbors=True, neighbor_key="next", paginated_load_cutoff=cutoff)
        want = theirs._neighbor_indptr, theirs._neighbor_indices, theirs._neighbor_data
    else:
        by_rows = made.tocsr()
        want = by_rows.indptr, by_rows.indices, by_rows.data.astype(np.float32)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_cells_without_neighbours(tmp_path):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(sample_counts(N, 7), obsp={"next": sparse.csr_matrix((N, N))}).write_h5ad(path)
    rows = H5adRows(path, use_X_not_raw=True)
    assert [array.tolist() for array in rows.neighbors("next")] == [[0] * (N + 1), [], []]
    rows.close()


@pytest.mark.parametrize("key", ["other", "next/data", "."])
def test_no_such_neighbours(tmp_path, key):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(sample_counts(N, 7), obsp={"next": neighbours()}).write_h5ad(path)
    with pytest.warns(UserWarning, match="Neighbor key") as theirs:
        convert(path, tmp_path / "theirs", load_neighbors=True, neighbor_key=key)
    rows = H5adRows(path, use_X_not_raw=True)
    with pytest.warns(UserWarning, match="Neighbor key") as ours:
        assert rows.neighbors(key) is None
    rows.close()
    assert str(ours[0].message) == str(theirs[0].message)
    assert ours[0].filename == __file__


@pytest.mark.parametrize("kind", ["dense", "table"])
def test_neighbours_that_are_not_sparse(tmp_path, kind):
    path = tmp_path / "a.h5ad"
    adata = anndata.AnnData(sample_counts(N, 7), obs=pd.DataFrame(index=[f"c{i}" for i in range(N)]))
    dense = neighbours().toarray()
    adata.obsp["next"] = dense if kind == "dense" else pd.DataFrame(dense, adata.obs_names, adata.obs_names)
    adata.write_h5ad(path)
    with pytest.raises(ValueError, match="sparse") as theirs:
        convert(path, tmp_path / "theirs", load_neighbors=True, neighbor_key="next")
    rows = H5adRows(path, use_X_not_raw=True)
    with pytest.raises(NoMatrixError) as ours:
        rows.neighbors("next")
    rows.close()
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("name", "at", "value", "kind"),
    [
        ("indices", 3, N, "index-range"),
        ("indices", 3, -1, "index-range"),
        ("indptr", 0, 1, "indptr-start"),
        ("indptr", 5, 10_000, "indptr-order"),
        ("indptr", N, 7, "indptr-order"),
    ],
)
def test_neighbours_that_are_damaged(tmp_path, name, at, value, kind):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(sample_counts(N, 7), obsp={"next": neighbours()}).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file[f"obsp/next/{name}"][at] = value
    rows = H5adRows(path, use_X_not_raw=True)
    with pytest.raises(HostileFileError) as caught:
        rows.neighbors("next")
    assert caught.value.kind == kind
    rows.close()
