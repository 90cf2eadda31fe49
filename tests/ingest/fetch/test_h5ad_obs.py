"""Annotations and names, compared with plain anndata, and streamed in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError, HostileFileError, SourceError
from ingest.fetch import h5ad_obs
from ingest.fetch.h5ad_obs import iter_obs, names_unique, obs_columns, obs_names
from ingest.fetch.h5ad_open import open_h5ad
from ingest.testing.examples import examples
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout"),
]
# anndata warns about the age of old files when it reads them for comparison.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:anndata", "ignore:Element:Warning", "ignore::FutureWarning")


def whole(file, batch_rows=7):
    return pa.Table.from_batches(list(iter_obs(file, list(obs_columns(file)), batch_rows)))


def assert_same(table, frame):
    assert set(table.column_names) == set(frame.columns)
    for name in frame.columns:
        ours = table[name].to_pandas().astype(object)
        theirs = frame[name].astype(object).reset_index(drop=True)
        missing = theirs.isna()
        np.testing.assert_array_equal(ours.isna(), missing, err_msg=name)
        np.testing.assert_array_equal(ours[~missing], theirs[~missing], err_msg=name)


@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
def test_every_encoding_equals_plain_anndata(tmp_path, legacy):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(40, 5), legacy=legacy)
    with open_h5ad(str(path)) as file:
        assert_same(whole(file), anndata.read_h5ad(path).obs)
        assert obs_columns(file)["cell_type"] == pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    "name", [pytest.param(path, marks=realdata) for path in sorted(p.name for p in REAL.glob("*.h5ad")) or ["none"]]
)
def test_every_real_file_equals_plain_anndata(name):
    frame = anndata.read_h5ad(REAL / name).obs
    with open_h5ad(str(REAL / name)) as file:
        assert_same(whole(file, 333), frame)
        rows = np.random.default_rng(0).permutation(len(frame))[:200]
        assert obs_names(file, rows).to_pylist() == frame.index[rows].astype(str).tolist()
        assert names_unique(file) == frame.index.is_unique


def test_nullable_and_odd_types_keep_values_and_gaps(tmp_path):
    index = [f"c{number}" for number in range(4)]
    obs = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3, -4], "Int32"),
            "flag": pd.array([True, None, False, True], "boolean"),
            "text": pd.array(["a", "ß", "", "雪"], dtype=object),
            "number label": pd.Categorical([3, 1, None, 3]),
            "single": np.array([1.5, np.nan, 3, 4], np.float32),
            "byte": np.array([1, 2, 3, 255], np.uint8),
        },
        index=index,
    )
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(4, 3), obs=obs)
    with h5py.File(path, "r+") as file:
        file["obs/half"] = np.array([1, 2, 3, 4], np.float16)
        file["obs/big-endian"] = np.array([1, 2, 3, 70000], ">i4")
        file["obs/square"] = np.zeros((4, 4))
        file["obs/complex"] = np.zeros(4, np.complex64)
        file["obs"].attrs["column-order"] = [*obs.columns, "half", "big-endian", "square", "complex", "nowhere"]
    with open_h5ad(str(path)) as file:
        table = whole(file, 3)
    assert table["whole"].to_pylist() == [1, None, 3, -4]
    assert table["flag"].to_pylist() == [True, None, False, True]
    assert table["text"].to_pylist() == ["a", "ß", "", "雪"]
    assert table["number label"].to_pylist() == [3, 1, None, 3]
    assert table["byte"].to_pylist() == [1, 2, 3, 255]
    assert table["half"].to_pylist() == [1, 2, 3, 4]
    assert table["big-endian"].to_pylist() == [1, 2, 3, 70000]
    assert "square" not in table.column_names
    assert "complex" not in table.column_names


def test_batches_share_one_dictionary_and_keep_row_order(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(25, 3))
    with open_h5ad(str(path)) as file:
        batches = list(iter_obs(file, ["condition", "note"], 10))
        assert [len(batch) for batch in batches] == [10, 10, 5]
        first = batches[0].column("condition").dictionary
        assert all(batch.column("condition").dictionary.equals(first) for batch in batches)
        assert sum(len(batch) for batch in iter_obs(file, [], 10)) == 25


def test_an_unknown_column_is_named_with_its_neighbours(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(5, 3))
    with open_h5ad(str(path)) as file, pytest.raises(ConfigError) as caught:
        next(iter_obs(file, ["cel_type"], 10))
    assert caught.value.kind == "unknown-column"
    assert "cell_type" in str(caught.value.hint)


def test_codes_beyond_the_labels_and_lengths_that_differ_are_refused(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(5, 3))
    for value in (99, -2):
        with h5py.File(path, "r+") as file:
            file["obs/cell_type/codes"][3] = value
        with open_h5ad(str(path)) as file, pytest.raises(HostileFileError) as caught:
            whole(file)
        assert caught.value.kind == "code-range"
    with h5py.File(path, "r+") as file:
        del file["obs/note"]
        file["obs/note"] = ["x"] * 6
    with open_h5ad(str(path)) as file, pytest.raises(HostileFileError) as caught:
        obs_columns(file)
    assert caught.value.kind == "shape"


def write_names(path, names):
    with h5py.File(path, "w") as file:
        for table, values in (("obs", names), ("var", ["g"])):
            file.create_group(table).attrs["_index"] = "_index"
            file[table].create_dataset(
                "_index", data=values, dtype=h5py.string_dtype(), chunks=(min(len(values), 512),)
            )
    return str(path)


@settings(max_examples=examples(10), deadline=None)
@given(n_rows=st.integers(1, 70), rows=st.lists(st.integers(0, 10**6), max_size=60))
def test_names_come_in_the_order_asked_whatever_the_blocks(tmp_path_factory, n_rows, rows):
    rows = np.array([row % n_rows for row in rows], np.int64)
    path = write_names(tmp_path_factory.mktemp("names") / "a.h5ad", [f"cell {row}" for row in range(n_rows)])
    with pytest.MonkeyPatch.context() as patch, open_h5ad(path) as file:
        patch.setattr(h5ad_obs, "_NAME_ROWS", 8)
        patch.setattr(h5ad_obs, "_NAME_BLOCKS", 2)
        assert obs_names(file, rows).to_pylist() == [f"cell {row}" for row in rows]
        assert len(file.name_blocks) <= 2


def test_rows_beyond_the_file_have_no_name(tmp_path):
    with open_h5ad(write_names(tmp_path / "a.h5ad", ["a", "b"])) as file:
        for rows in ([2], [-1]):
            with pytest.raises(SourceError) as caught:
                obs_names(file, np.array(rows))
            assert caught.value.kind == "row-range"


def test_a_double_name_is_found_across_blocks_and_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(h5ad_obs, "_NAME_ROWS", 16)
    monkeypatch.setattr(h5ad_obs, "_HASHES_AT_ONCE", 40)
    names = [f"cell {row}" for row in range(200)]
    with open_h5ad(write_names(tmp_path / "a.h5ad", names)) as file:
        assert names_unique(file)
    names[199] = names[3]
    with open_h5ad(write_names(tmp_path / "b.h5ad", names)) as file:
        assert not names_unique(file)


def test_equal_hashes_are_compared_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(h5ad_obs.pd.util, "hash_array", lambda names, **_: np.zeros(len(names), np.uint64))
    with open_h5ad(write_names(tmp_path / "a.h5ad", ["a", "b", "c"])) as file:
        assert names_unique(file)
    with open_h5ad(write_names(tmp_path / "b.h5ad", ["a", "b", "a"])) as file:
        assert not names_unique(file)


def test_an_index_of_numbers_becomes_text(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(3, 2))
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
        file["obs/_index"] = np.array([5, 6, 7])
    with open_h5ad(str(path)) as file:
        assert obs_names(file, np.array([2, 0])).to_pylist() == ["7", "5"]


def test_memory_does_not_grow_with_the_cells(tmp_path):
    peaks = []
    for n_rows in (20_000, 160_000):
        path = tmp_path / f"{n_rows}.h5ad"
        write_names(path, [f"cell {row}" for row in range(n_rows)])
        with h5py.File(path, "r+") as file:
            codes = file.create_group("obs/kind")
            codes["codes"], codes["categories"] = np.zeros(n_rows, np.int8), ["only"]
            file["obs/score"] = np.zeros(n_rows)
        with open_h5ad(str(path)) as file:
            tracemalloc.start()
            for batch in iter_obs(file, ["kind", "score"], 1000):
                obs_names(file, np.arange(len(batch)))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_sample_obs_has_what_these_tests_need():
    assert sample_obs(30)["condition"].isna().any()
