"""Single keys added and replaced, read back by plain anndata."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ingest.errors import NoFileError, UnfitError
from ingest.stream import (
    AnnData,
    load_obs,
    write_obsm_to_h5ad,
    write_obsp_to_h5ad,
    write_uns_dict_to_h5ad,
    write_varm_to_h5ad,
)
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.h5ad_same import assert_same

# What anndata says of old files is not ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::anndata.OldFormatWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture(params=[None, "0.6", "0.7"])
def path(tmp_path, request):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20), where="raw", legacy=request.param)
    if request.param == "0.6":
        with h5py.File(path, "r+") as file:
            file["obsm"] = np.zeros(30, [("X_old", "f4", (2,)), ("X_one", "f8")])
    return path


@pytest.fixture
def current(tmp_path):
    return write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20))


def test_keys_in_every_encoding(path):
    before = anndata.read_h5ad(path)
    rng = np.random.default_rng(0)
    dense, pairs = rng.random((30, 3)), sparse.random(30, 30, 0.1, "coo", random_state=0)
    for _ in range(2):  # a second time in place of the first
        write_obsm_to_h5ad(path, "X_pca", dense)
        write_obsm_to_h5ad(AnnData(path), "sparse", sample_counts(30, 7).tocsc())
        write_obsm_to_h5ad(path, "table", load_obs(path)[["cell_type", "pct_mito"]])
        write_varm_to_h5ad(path, "PCs", dense[:20].astype(np.float32))
        write_varm_to_h5ad(path, "one", np.arange(20))
        write_obsp_to_h5ad(path, "distances", pairs)
        write_obsp_to_h5ad(path, "dense", pairs.toarray())
        write_uns_dict_to_h5ad(path, "pca", {"variance": dense[0], "params": {"n": 3}})
    after = anndata.read_h5ad(path)
    assert_same(after.obsm["X_pca"], dense)
    assert_same(after.obsm["sparse"], sample_counts(30, 7).tocsc())
    pd.testing.assert_frame_equal(after.obsm["table"], after.obs[["cell_type", "pct_mito"]])
    assert_same(after.varm["PCs"], dense[:20].astype(np.float32))
    assert_same(after.varm["one"], np.arange(20)[:, None])
    assert_same(after.obsp["distances"], pairs.tocsr())
    assert_same(after.obsp["dense"], pairs.toarray())
    assert_same(after.uns["pca"], {"params": {"n": 3}, "variance": dense[0]})
    for key in before.obsm:
        np.testing.assert_array_equal(after.obsm[key], before.obsm[key])
    for name in ("X", "obs", "var"):
        assert_same(getattr(after, name), getattr(before, name))
    assert_same(after.raw.X, before.raw.X)
    assert_same(AnnData(path).to_memory(), after)
    assert_same(anndata.read_h5ad(path, backed="r").to_memory().obsm["X_pca"], dense)


def test_they_are_gzipped(current):
    write_obsm_to_h5ad(current, "X", np.zeros((30, 2000)))
    write_obsp_to_h5ad(current, "d", sparse.eye(30))
    write_uns_dict_to_h5ad(current, "u", {"a": {"b": np.zeros(1000)}})
    with h5py.File(current) as file:
        for name in ("obsm/X", "obsp/d/data", "obsp/d/indices", "uns/u/a/b"):
            assert file[name].compression == "gzip", name


UNS = {
    "numbers": ({"b": True, "f": 1.5, "i": 1, "n": np.float32(2)}, {"b": True, "f": 1.5, "i": 1, "n": 2.0}),
    "texts": ({"e": "", "p": Path("/x"), "t": "é\nü"}, {"e": "", "p": "/x", "t": "é\nü"}),
    "lists": ({"l": [1, 2], "n": [], "t": ("a", "b")}, {"l": [1, 2], "n": [], "t": ["a", "b"]}),
    "nothing": ({"e": {}, "n": None}, {"e": {}, "n": None}),
    "deep": ({"a": {"b": {"c": {"d": np.arange(3)}}}}, {"a": {"b": {"c": {"d": [0, 1, 2]}}}}),
    "records": ({"r": np.array([(1, 2.0)], [("g0", "i4"), ("g1", "f8")])}, {"r": [(1, 2.0)]}),
    "an array": (np.arange(5), [0, 1, 2, 3, 4]),
    "a text": ("text", "text"),
    "empty arrays": ({"a": np.zeros((0, 3)), "b": np.array([], dtype="U1")}, {"a": [], "b": []}),
}


def plain(value):
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("name", UNS)
def test_values_of_uns(current, name):
    value, want = UNS[name]
    write_uns_dict_to_h5ad(current, "u", value)
    read = anndata.read_h5ad(current).uns["u"]
    assert_same(AnnData(current).uns["u"].load(), read)
    assert plain(read) == want
    anndata.read_h5ad(current).write_h5ad(current.with_name("again.h5ad"))


def test_tables_of_uns_keep_missing_values(current):
    frame = pd.DataFrame({"x": ["a", None]}, index=["r", "s"])
    write_uns_dict_to_h5ad(current, "u", {"df": frame, "nan": np.nan})
    assert np.isnan(anndata.read_h5ad(current).uns["u"]["nan"])
    assert anndata.read_h5ad(current).uns["u"]["df"]["x"].isna().tolist() == [False, True]


REFUSED = {
    "rows": (write_obsm_to_h5ad, np.zeros((29, 2)), r"obsm/k: 29 rows where obs of a\.h5ad has 30"),
    "rows-of-var": (write_varm_to_h5ad, np.zeros((30, 2)), r"varm/k: 30 rows where var of a\.h5ad has 20"),
    "pairs": (write_obsp_to_h5ad, np.zeros((30, 29)), r"obsp/k: shape \(30, 29\)"),
    "pairs-of-genes": (write_obsp_to_h5ad, sparse.eye(20), r"obsp/k: shape \(20, 20\)"),
    "scalar": (write_obsm_to_h5ad, 7, r"obsm/k: int is no array"),
    "names": (
        write_obsm_to_h5ad,
        pd.DataFrame({"a": np.arange(30)}, index=[f"x{number}" for number in range(30)]),
        r"obsm/k: a row 'x0' where obs has another",
    ),
    "objects": (write_obsm_to_h5ad, np.array([[{}]] * 30, dtype=object), r"obsm/k: an h5ad cannot hold this ndarray"),
    "object": (write_uns_dict_to_h5ad, {"a": {"b": object()}}, r"uns/k: an h5ad cannot hold this dict"),
    "set": (write_uns_dict_to_h5ad, {"a": {1, 2}}, r"uns/k: an h5ad cannot hold"),
    "mixed": (write_uns_dict_to_h5ad, {"a": [1, {}]}, r"uns/k/a: a list of dict objects and numbers"),
    "ragged": (write_uns_dict_to_h5ad, {"a": [[1], [1, 2]]}, r"uns/k/a: "),
    "number-as-key": (write_uns_dict_to_h5ad, {"a": {7: 1}}, r"uns/k/a: 7 cannot be a key"),
    "slash-below": (write_uns_dict_to_h5ad, {"a/b": 1}, r"uns/k: 'a/b' cannot be a key"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit(current, name):
    write, value, said = REFUSED[name]
    before = current.read_bytes()
    with pytest.raises(UnfitError, match=said) as caught:
        write(current, "k", value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert current.read_bytes() == before
    assert [p.name for p in current.parent.iterdir()] == ["a.h5ad"]


@pytest.mark.parametrize("key", ["", "a/b", "/", ".", "..", "a\0b", 7, None])
@pytest.mark.parametrize(
    ("write", "value"),
    [
        (write_obsm_to_h5ad, np.zeros((30, 2))),
        (write_varm_to_h5ad, np.zeros((20, 2))),
        (write_obsp_to_h5ad, np.zeros((30, 30))),
        (write_uns_dict_to_h5ad, {"a": 1}),
    ],
)
def test_keys_that_are_none(current, key, write, value):
    before = current.read_bytes()
    with pytest.raises(UnfitError, match="cannot be a key"):
        write(current, key, value)
    assert current.read_bytes() == before


def test_no_such_file(tmp_path):
    for write in (write_obsm_to_h5ad, write_varm_to_h5ad, write_obsp_to_h5ad, write_uns_dict_to_h5ad):
        with pytest.raises(NoFileError):
            write(tmp_path / "a.h5ad", "k", np.zeros((3, 3)))
    assert list(tmp_path.iterdir()) == []


def test_through_a_link(current, tmp_path):
    link = tmp_path / "link.h5ad"
    link.symlink_to(current)
    write_uns_dict_to_h5ad(link, "u", {"a": 1})
    assert link.is_symlink()
    assert anndata.read_h5ad(current).uns["u"]["a"] == 1


def test_empty_extents(tmp_path):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(np.zeros((0, 3), np.float32)).write_h5ad(path)
    write_obsm_to_h5ad(path, "X_pca", np.zeros((0, 2)))
    write_obsp_to_h5ad(path, "d", sparse.csr_matrix((0, 0)))
    after = anndata.read_h5ad(path)
    assert (after.obsm["X_pca"].shape, after.obsp["d"].shape) == ((0, 2), (0, 0))
