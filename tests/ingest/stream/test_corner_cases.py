"""Files and arguments that are rare: what is written holds, or the error says what is wrong before anything is done."""

from __future__ import annotations

import pickle

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import AlreadyExistsError, IngestError, UnfitError
from ingest.stream import (
    AnnData,
    convert_to_csc,
    get_perturbation_slice,
    iter_matrix_chunks,
    load_obs,
    normalise_perturbation_labels,
    normalize_total_log1p,
    resolve_data_path,
    resolve_output_path,
    sort_by_perturbation,
    write_filtered_subset,
    write_uns_dict_to_h5ad,
)
from ingest.stream.matrix.rewrite import rewrite
from ingest.testing.h5ad_files import sample_counts

N, M = 12, 6


def cells_of(n=N, **uns):
    obs = pd.DataFrame(
        {"guide": [("ctrl", "TP53", "KRAS")[row % 3] for row in range(n)], "kind": pd.Categorical(list("ab" * n)[:n])},
        index=[f"c{row}" for row in range(n)],
    )
    var = pd.DataFrame({"kind": pd.Categorical(list("xyzxyz"))}, index=[f"g{column}" for column in range(M)])
    return anndata.AnnData(sample_counts(n, M, density=0.5), obs=obs, var=var, uns=uns)


@pytest.fixture
def write(tmp_path):
    def call(cells, name="cells.h5ad"):
        cells.write_h5ad(tmp_path / name)
        return tmp_path / name

    return call


@pytest.fixture
def path(write):
    return write(cells_of())


def all_of(n):
    return np.ones(n, bool)


def test_a_handle_means_the_file_it_was_made_of_wherever_the_process_goes(write, tmp_path, monkeypatch):
    for folder, n in (("one", 12), ("other", 5)):
        (tmp_path / folder).mkdir()
        write(cells_of(n), f"{folder}/x.h5ad")
    monkeypatch.chdir(tmp_path / "one")
    handle = AnnData("x.h5ad")
    made = convert_to_csc("x.h5ad", output_path="y.h5ad", verbose=False)
    pickled = pickle.dumps(handle)
    monkeypatch.chdir(tmp_path / "other")
    assert (handle.n_obs, made.n_obs, pickle.loads(pickled).n_obs) == (12, 12, 12)  # noqa: S301 # our own
    assert made.path == tmp_path / "one" / "y.h5ad"


def test_a_home_folder_is_found(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    assert resolve_data_path("~/cells.h5ad") == path
    assert AnnData("~/cells.h5ad").n_obs == N
    assert resolve_data_path("~nobody-of-this-name.h5ad", require_exists=False).name == "~nobody-of-this-name.h5ad"
    with pytest.raises(FileNotFoundError):
        load_obs("~nobody-of-this-name.h5ad")


def test_a_column_may_have_the_name_of_the_index(write):
    cells = cells_of()
    cells.obs.index = pd.Index(cells.obs["guide"] + [f"_{row}" for row in range(N)])
    cells.obs["barcode"] = cells.obs.index
    cells.obs.index.name = "barcode"
    path = write(cells)
    theirs = anndata.read_h5ad(path).obs
    handle = AnnData(path)
    assert handle.obs.shape == theirs.shape
    pd.testing.assert_series_equal(handle.obs["barcode"], theirs["barcode"])
    pd.testing.assert_frame_equal(handle.obs.head(3), theirs.head(3))
    assert len(normalise_perturbation_labels(path, "barcode", inplace=False)) == N
    write_filtered_subset(path, cell_mask=np.arange(N) < 4, gene_mask=all_of(M), output_path=path.with_name("few.h5ad"))
    pd.testing.assert_frame_equal(
        anndata.read_h5ad(path.with_name("few.h5ad")).obs[["barcode"]], theirs.iloc[:4][["barcode"]]
    )


@given(
    st.sampled_from(
        ["", "csr", "ingest", "ingest_csr", "ingest_csr_csr", "x", "ingest_x", "x_csr", "ingest_x_csr.h5ad", "csr_csr"]
    )
)
def test_neither_module_nor_suffix_stands_twice(name):
    words = resolve_output_path("in/a.h5ad", suffix="csr", data_name=name).stem.split("_")
    assert (words[0], words[-1], words.count("ingest"), words.count("csr")) == ("ingest", "csr", 1, 1)
    assert len(words) == 3 if "x" in name else 2


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_impossible_chunk_sizes_are_said_before_anything_is_done(path, chunk_size):
    out = path.with_name("out.h5ad")
    for call in (
        lambda: sort_by_perturbation(path, "guide", output_path=out, chunk_size=chunk_size),
        lambda: rewrite(path, out, chunk_size=chunk_size),
    ):
        with pytest.raises(ValueError, match="chunk_size"):
            call()
    assert not out.exists()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["bool", "int8", "float64"])
def test_slices_are_of_the_type_that_is_stored(write, axis, dtype):
    cells = cells_of()
    cells.X = cells.X.astype(dtype)
    for dense in (True, False):
        for _, block in iter_matrix_chunks(write(cells), axis=axis, chunk_size=5, convert_to_dense=dense):
            assert block.dtype == np.dtype(dtype)


@pytest.mark.parametrize("noted", [True, "yes", {"base": 2}, np.arange(3)], ids=str)
def test_what_is_logged_is_noted_as_natural_whatever_was_noted(write, noted):
    path = write(cells_of(log1p=noted, other=3))
    made = normalize_total_log1p(path, path.with_name("out.h5ad"), verbose=False).to_memory()
    assert (made.uns["log1p"], made.uns["other"]) == ({}, 3)


def assigned(path, cell_mask=None, gene_mask=None, **columns):
    out = path.with_name("out.h5ad")
    genes = all_of(M) if gene_mask is None else gene_mask
    write_filtered_subset(
        path,
        cell_mask=all_of(N) if cell_mask is None else cell_mask,
        gene_mask=genes,
        output_path=out,
        var_assignments=columns,
    )
    return anndata.read_h5ad(out)


def test_assigned_columns_keep_their_type(path):
    categories = pd.Series(pd.Categorical(list("aabbcc"), categories=list("abc"), ordered=True), index=range(6))
    made = assigned(
        path, c=categories, n=pd.Series([1, None, 3, 4, 5, 6], dtype="Int64"), t=["a", None, *"bcde"], f=np.arange(6.0)
    )
    assert made.var["c"].tolist() == list("aabbcc")
    assert made.var["c"].cat.ordered
    assert (made.var["n"].dtype, made.var["n"].isna().sum()) == ("Int64", 1)
    assert (made.var["t"].isna().tolist(), made.var["t"].iloc[2]) == ([False, True, *[False] * 4], "b")
    assert made.var["f"].tolist() == list(range(6))


def test_an_assigned_column_of_the_index_name(write):
    cells = cells_of()
    cells.var.index.name = "gene"
    made = assigned(write(cells), gene=list("abcdef"))
    assert (made.var["gene"].tolist(), made.var_names.tolist()) == (list("abcdef"), [f"g{n}" for n in range(M)])


@pytest.mark.parametrize("values", [[1, "a", 2.5, 3, 4, 5], pd.date_range("2024", periods=6), [{}] * 6])
def test_assigned_columns_that_no_h5ad_holds_are_named(path, values):
    with pytest.raises(UnfitError, match="var_assignments: column 'x'"):
        assigned(path, x=values)
    assert not path.with_name("out.h5ad").exists()


def test_colours_go_with_categories_also_where_var_is_assigned(write):
    path = write(cells_of(kind_colors=np.array(["#1", "#2"]), tissue_colors=np.array(["#1", "#2", "#3"])))
    with h5py.File(path, "r+") as file:
        file.move("var/kind", "var/tissue")
        file["var"].attrs["column-order"] = ["tissue"]
    made = assigned(path, gene_mask=np.array([True, False, True] * 2), new=np.arange(4))
    assert made.var["tissue"].cat.categories.tolist() == ["x", "z"]
    assert made.uns["tissue_colors"].tolist() == ["#1", "#3"]


def test_of_two_columns_of_one_name_colours_are_those_of_the_cells(write):
    path = write(cells_of(kind_colors=np.array(["#a", "#b"])))
    out = path.with_name("out.h5ad")
    write_filtered_subset(path, cell_mask=np.arange(N) % 2 == 1, gene_mask=np.arange(M) % 3 != 1, output_path=out)
    made = anndata.read_h5ad(out)
    assert (made.obs["kind"].cat.categories.tolist(), made.var["kind"].cat.categories.tolist()) == (["b"], ["x", "z"])
    assert made.uns["kind_colors"].tolist() == ["#b"]
    write_filtered_subset(path, cell_mask=all_of(N), gene_mask=np.arange(M) % 3 == 0, output_path=out)
    assert anndata.read_h5ad(out).uns["kind_colors"].tolist() == ["#a", "#b"]


@pytest.mark.parametrize(
    "dtype", [object, "S3", "datetime64[s]", "no such type", np.complex64, str, np.longdouble], ids=str
)
def test_types_that_are_no_numbers_are_said_before_anything_is_done(path, dtype):
    out = path.with_name("out.h5ad")
    with pytest.raises(ValueError, match=r"data_dtype .* a type of numbers is wanted"):
        write_filtered_subset(path, cell_mask=all_of(N), gene_mask=all_of(M), output_path=out, data_dtype=dtype)
    assert not out.exists()


@pytest.mark.parametrize("dtype", [float, "f8", ">f4", bool, np.int16])
def test_types_of_numbers(path, dtype):
    out = path.with_name("out.h5ad")
    write_filtered_subset(path, cell_mask=all_of(N), gene_mask=all_of(M), output_path=out, data_dtype=dtype)
    made, native = anndata.read_h5ad(out).X, np.dtype(dtype).newbyteorder("=")
    expected = anndata.read_h5ad(path).X.astype(native)
    assert made.dtype == native
    np.testing.assert_array_equal(made.toarray(), expected.toarray())


def test_nothing_of_nothing(write):
    path = write(cells_of(0))
    out = path.with_name("out.h5ad")
    write_filtered_subset(path, cell_mask=[], gene_mask=all_of(M), output_path=out)
    assert anndata.read_h5ad(out).shape == (0, M)
    with pytest.raises(ValueError, match="cell_mask holds float64"):
        write_filtered_subset(write(cells_of(1)), cell_mask=[0.0], gene_mask=all_of(M), output_path=out)


@pytest.mark.parametrize("values", ["numbers", "texts", "categories"])
def test_a_column_whose_name_has_a_slash(write, values):
    """As anndata wrote them before it warned of it."""
    cells = cells_of()
    made = {
        "numbers": np.arange(N),
        "texts": [f"t{row}" for row in range(N)],
        "categories": pd.Categorical(list("ab") * 6),
    }
    cells.obs["plain"] = made[values]
    path, out = write(cells), write(cells).with_name("out.h5ad")
    with h5py.File(path, "r+") as file:
        file.create_group("obs/pct")
        file.move("obs/plain", "obs/pct/mt")
        order = file["obs"].attrs["column-order"]
        file["obs"].attrs["column-order"] = ["pct/mt" if name == "plain" else name for name in order]
    theirs = anndata.read_h5ad(path).obs
    assert "pct/mt" in theirs
    pd.testing.assert_series_equal(AnnData(path).obs["pct/mt"], theirs["pct/mt"])
    write_filtered_subset(path, cell_mask=np.arange(N) < 3, gene_mask=all_of(M), output_path=out)
    found = anndata.read_h5ad(out).obs["pct/mt"]
    assert found.tolist() == theirs["pct/mt"].tolist()[:3]
    sort_by_perturbation(path, "guide", output_path=path.with_name("sorted.h5ad"))
    assert (
        anndata.read_h5ad(path.with_name("sorted.h5ad")).obs["pct/mt"].tolist()
        == theirs["pct/mt"].iloc[[0, 3, 6, 9, 2, 5, 8, 11, 1, 4, 7, 10]].tolist()
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "a", 2.5], "numbers and texts"),
        ((True, "x"), "flags and texts"),
        ([1, True], "flags and numbers"),
        ([[1, 2], ["a", "b"]], "numbers and texts"),
        ([None, 1], "NoneType objects and numbers"),
        ({"deep": [b"x", "y"]}, "bytes and texts"),
    ],
    ids=str,
)
def test_lists_of_several_kinds_are_not_made_one(path, values, said):
    before = path.read_bytes()
    with pytest.raises(UnfitError, match=said):
        write_uns_dict_to_h5ad(path, "k", values)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "values",
    [[], [1, 2.5], ["a", "bc"], [True, False], [[1, 2], [3, 4]], (np.int8(3), 4), [np.arange(2), [3, 4]]],
    ids=str,
)
def test_lists_of_one_kind_are_arrays(path, values):
    write_uns_dict_to_h5ad(path, "k", values)
    np.testing.assert_array_equal(anndata.read_h5ad(path).uns["k"], np.array(values))


@pytest.mark.parametrize(
    "item",
    [
        slice(5),
        slice(2, 7),
        slice(None),
        slice(-3, None),
        slice(1, 9, 3),
        slice(7, 2),
        slice(None, None, -1),
        slice("c2", "c4"),
    ],
    ids=str,
)
def test_slices_of_a_table_are_those_of_the_frame(path, item):
    for name in ("obs", "var"):
        if name == "obs" or item.start != "c2":
            pd.testing.assert_frame_equal(
                getattr(AnnData(path), name)[item], getattr(anndata.read_h5ad(path), name)[item]
            )


def test_a_slice_reads_no_more_than_it_shows(path, monkeypatch):
    from ingest.stream import elements

    def whole(*_):
        raise AssertionError("all of it was read")

    monkeypatch.setattr(elements, "read_table", whole)
    assert len(AnnData(path).obs[:5]) == 5


def test_a_folder_that_is_named_is_made(path, tmp_path):
    made = convert_to_csc(path, output_dir=tmp_path / "deep" / "er", verbose=False)
    assert made.path == tmp_path / "deep" / "er" / "ingest_csc.h5ad"
    with pytest.raises(IngestError, match="there is no such folder"):  # a path that is given may be a slip
        convert_to_csc(path, output_path=tmp_path / "deeep" / "x.h5ad", verbose=False)


def test_sorting_replaces_what_was_made_of_the_same_file_and_nothing_else(path, write):
    out = path.with_name("out.h5ad")
    convert_to_csc(path, output_path=out, verbose=False)
    assert get_perturbation_slice(sort_by_perturbation(path, "guide", output_path=out), "ctrl", "guide") == (
        slice(0, 4),
        True,
    )
    other = write(cells_of(5), "other.h5ad")
    with pytest.raises(AlreadyExistsError):
        sort_by_perturbation(path, "guide", output_path=other)


def test_categories_of_a_column_whose_name_has_a_slash_where_anndata_0_7_put_them(path):
    with h5py.File(path, "r+") as file:
        labels = file.create_dataset("obs/__categories/pct/mt", data=np.array(["low", "high"], object))
        codes = file.create_dataset("obs/pct/mt", data=np.arange(N, dtype=np.int8) % 2)
        codes.attrs["categories"] = labels.ref
        file["obs"].attrs["column-order"] = ["pct/mt"]
    column = AnnData(path).obs["pct/mt"]
    assert (column.dtype, column.tolist()) == ("category", ["low", "high"] * (N // 2))
