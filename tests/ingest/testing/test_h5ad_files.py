import itertools

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import OldFormatWarning

from ingest.testing.h5ad_files import hostile_files, sample_counts, sample_obs, write_h5ad_variant
from ingest.testing.h5ad_hostile import ACCEPTED

# anndata warns that files of 0.6 are old, which is the point of them.
pytestmark = pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")

_READ = {"X": lambda file: file.X, "raw": lambda file: file.raw.X, "layer:counts": lambda file: file.layers["counts"]}


@pytest.mark.parametrize(
    ("layout", "where", "legacy"),
    list(itertools.product(["csr", "csc", "dense"], ["X", "raw", "layer:counts"], [None, "0.6", "0.7"])),
)
def test_anndata_reads_back_counts_names_and_annotations(tmp_path, layout, where, legacy):
    counts, obs, ids = sample_counts(13, 21), sample_obs(13), [f"ENSG{number:011d}" for number in range(21)]
    path = write_h5ad_variant(
        tmp_path / "a.h5ad", counts, layout=layout, where=where, legacy=legacy, obs=obs, var_ids=ids, compression="gzip"
    )
    file = anndata.read_h5ad(path)
    matrix = _READ[where](file)
    np.testing.assert_array_equal(matrix if layout == "dense" else matrix.toarray(), counts.toarray())
    assert layout == "dense" or matrix.format == layout
    assert list(file.var_names) == ids
    pd.testing.assert_index_equal(file.obs_names, obs.index, check_names=False)
    for column in obs:
        assert file.obs[column].astype("string").equals(obs[column].astype("string")), column
    assert isinstance(file.obs["condition"].dtype, pd.CategoricalDtype)
    if where != "X":
        other = file.X if layout == "dense" else file.X.toarray()
        assert not np.array_equal(other, np.round(other))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
def test_dtype_and_id_column(tmp_path, dtype, legacy):
    counts = sample_counts(5, 7)
    path = write_h5ad_variant(tmp_path / "a.h5ad", counts, dtype=dtype, legacy=legacy, var_column="ensembl_id")
    file = anndata.read_h5ad(path)
    assert file.X.dtype == dtype
    assert list(file.var_names) == [str(number) for number in range(7)]
    assert file.var["ensembl_id"].iloc[0].startswith("ENSG")


def test_legacy_encodings_are_what_the_old_versions_wrote(tmp_path):
    old = write_h5ad_variant(tmp_path / "06.h5ad", sample_counts(5, 7), where="raw", legacy="0.6")
    with h5py.File(old) as file:
        assert isinstance(file["obs"], h5py.Dataset)
        assert "cell_type_categories" in file["uns"]
        assert file["raw.X"].attrs["h5sparse_format"] == "csr"
    with pytest.warns(OldFormatWarning):
        anndata.read_h5ad(old)
    newer = write_h5ad_variant(tmp_path / "07.h5ad", sample_counts(5, 7), where="raw", legacy="0.7")
    with h5py.File(newer) as file:
        assert file[file["obs/cell_type"].attrs["categories"]].name == "/obs/__categories/cell_type"


def test_unknown_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layer:<name>"):
        write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(2, 2), where="obsm")


@pytest.fixture(scope="module", params=["csr", "csc"])
def corpus(request, tmp_path_factory):
    return hostile_files(tmp_path_factory.mktemp("hostile"), layout=request.param, bomb_bytes=1 << 26)


def test_corpus_covers_every_rule_with_small_files(corpus):
    rules = {file.rule for file in corpus.values()}
    assert rules >= {
        *("external-link", "external-storage", "virtual-dataset", "declared-size", "decoded-size", "link-cycle"),
        *("indptr-start", "indptr-order", "indptr-end", "index-range", "index-dtype", "duplicate-entry"),
        *("not-finite", "negative", "fractional", "duplicate-gene", "not-utf8", "truncated", "not-hdf5", "not-h5ad"),
        ACCEPTED,
    }
    assert max(file.path.stat().st_size for file in corpus.values()) < 1 << 20


@pytest.mark.parametrize("name", ["external-link", "external-storage", "virtual-dataset"])
def test_plain_h5py_follows_the_corpus_into_other_files(corpus, name):
    with h5py.File(corpus[name].path) as file:
        assert len(file["X/data"][:16]) == 16


def test_bombs_decode_to_what_they_promise(corpus):
    for name, dataset in {"bomb-entries": "X/data", "bomb-column": "obs/score"}.items():
        with h5py.File(corpus[name].path) as file:
            assert file[dataset].nbytes == 1 << 26
            assert not file[dataset][-10:].any()
    with h5py.File(corpus["bomb-chunk"].path) as file:
        assert np.prod(file["X"].chunks) * 4 == 1 << 26
        assert file["X"][3].sum() == 0


def test_the_declared_giant_is_nine_petabytes(corpus):
    with h5py.File(corpus["huge-dense"].path) as file:
        assert file["X"].nbytes == 9_000_000_000_000_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("damaged-chunk", "filter returned failure"),
        ("missing-filter", "filter|plugin"),
        ("zeroed-header", "header"),
        ("truncated", "truncated"),
        ("truncated-header", "truncated"),
        ("text", "signature"),
        ("empty", "signature"),
    ],
)
def test_h5py_cannot_read_the_unreadable(corpus, name, message):
    with pytest.raises(OSError, match=message), h5py.File(corpus[name].path) as file:
        file["X/data"][()]


def test_each_mutation_spoils_what_its_rule_says(corpus):
    def matrix(name):
        with h5py.File(corpus[name].path) as file:
            return {part: file["X"][part][()] for part in ("indptr", "indices", "data")} | {
                "shape": file["X"].attrs["shape"]
            }

    assert matrix("indptr-start")["indptr"][0] == 1
    assert (np.diff(matrix("indptr-order")["indptr"]) < 0).any()
    assert matrix("indptr-end")["indptr"][-1] != len(matrix("indptr-end")["data"])
    assert matrix("index-negative")["indices"].min() < 0
    assert matrix("index-beyond")["indices"].max() >= 40
    assert (matrix("index-wraps")["indices"].astype(np.int32) < 40).all(), "harmless once cut to 32 bits"
    double = matrix("duplicate-entry")
    assert double["indices"][0] == double["indices"][1]
    assert double["indptr"][1] >= 2
    assert not np.isfinite(matrix("nan")["data"]).all()
    assert (matrix("fractional")["data"] % 1).any()


def test_the_accepted_file_equals_the_good_one_once_sorted(corpus):
    path, rule = corpus["unsorted"]
    assert rule == ACCEPTED
    changed, good = anndata.read_h5ad(path).X, anndata.read_h5ad(path.with_name("good.h5ad")).X
    assert not changed.has_sorted_indices
    assert (changed != good).nnz == 0
