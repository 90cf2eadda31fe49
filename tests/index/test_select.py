"""Filtering and sampling index files, ours and those made by hand in pandas; counting what they hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather

from index.build import SelectOptions, select_cells
from index.read import IndexFile
from index.sample import Sampling
from index.show import describe
from ingest.errors import ConfigError, EmptySelectionError


def _frame(n_cells: int = 1000) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    tissue = rng.choice(["lung", "blood", "eye"], n_cells, p=[0.6, 0.3, 0.1])
    return pd.DataFrame(
        {
            "soma_joinid": np.arange(n_cells) * 3,
            "tissue": pd.Categorical(tissue),
            "assay": rng.choice(["10x 3' v3", "Smart-seq2"], n_cells),
            "nnz": rng.integers(100, 5000, n_cells),
            "raw_sum": rng.random(n_cells) * 1e4,
            "is_primary_data": rng.random(n_cells) < 0.8,
        }
    )


@pytest.fixture
def by_hand(tmp_path):
    path = tmp_path / "hand.feather"
    _frame().to_feather(path)
    return path


def test_select_keeps_what_pandas_would_keep(by_hand, tmp_path):
    kept = "tissue in ['lung', 'eye'] and nnz >= 500 and not assay == 'Smart-seq2'"
    report = select_cells(SelectOptions(by_hand, tmp_path / "out.feather", kept))
    frame = _frame()
    expected = frame[frame["tissue"].isin(["lung", "eye"]) & (frame["nnz"] >= 500) & (frame["assay"] != "Smart-seq2")]
    result = pd.read_feather(report.path)
    assert (report.cells, report.total) == (len(expected), 1000)
    for name in frame.columns:
        assert result[name].astype(object).tolist() == expected[name].astype(object).tolist()
    assert result["tissue"].dtype == "category"
    assert result["assay"].dtype == "category"


def test_an_index_may_replace_itself(by_hand):
    select_cells(SelectOptions(by_hand, by_hand, "tissue == 'eye'"))
    assert set(pd.read_feather(by_hand)["tissue"]) == {"eye"}


def test_select_samples_what_it_filtered(by_hand, tmp_path):
    options = SelectOptions(
        by_hand, tmp_path / "a.feather", "nnz > 1000", Sampling.of(60, seed=1, stratify="tissue:equal")
    )
    select_cells(options)
    result = pd.read_feather(tmp_path / "a.feather")
    assert result["tissue"].value_counts().to_dict() == {"lung": 20, "blood": 20, "eye": 20}
    assert (result["nnz"] > 1000).all()


def test_float_joinids_gaps_index_columns_and_dates_of_pandas(tmp_path):
    frame = _frame(4).assign(soma_joinid=[1.0, np.nan, 3.0, 4.0], row=[-1.0, 7.0, np.nan, np.nan])
    frame["when"] = pd.to_datetime(["2024-01-01", "2024-01-02", None, "2024-01-03"])
    frame.index = pd.Index(["a", "b", "c", "d"])
    path = tmp_path / "hand.feather"
    feather.write_feather(pa.Table.from_pandas(frame), str(path))
    select_cells(SelectOptions(path, tmp_path / "out.feather", "raw_sum >= 0"))
    result = pd.read_feather(tmp_path / "out.feather")
    assert result["soma_joinid"].tolist() == [1, -1, 3, 4]
    assert result["row"].tolist() == [-1, 7, -1, -1]
    assert result["soma_joinid"].dtype == result["row"].dtype == np.int64
    assert result["when"].astype(object).where(result["when"].notna(), None).tolist()[:3] == [
        "2024-01-01 00:00:00.000000000", "2024-01-02 00:00:00.000000000", None,
    ]  # fmt: skip
    assert list(result.columns) == list(frame.columns)


def test_an_index_filtered_in_pandas_and_written_back_works(by_hand, tmp_path):
    first = select_cells(SelectOptions(by_hand, tmp_path / "a.feather"))
    frame = pd.read_feather(first.path)
    frame[frame["tissue"] == "lung"].reset_index(drop=True).to_feather(tmp_path / "b.feather")
    second = select_cells(SelectOptions(tmp_path / "b.feather", tmp_path / "c.feather", "nnz < 300"))
    assert second.cells == int(((frame["tissue"] == "lung") & (frame["nnz"] < 300)).sum())


@pytest.mark.parametrize(
    ("kept", "error", "kind", "message"),
    [
        ("tisue == 'lung'", ConfigError, "unknown-column", "did you mean 'tissue'?"),
        ("tissue == 'lungs'", EmptySelectionError, "empty-selection", "has tissue == 'lungs'; did you mean 'lung'?"),
        ("nnz > 100000", EmptySelectionError, "empty-selection", "matches nnz > 100000"),
        ("tissue = 'lung'", ConfigError, "filter-syntax", "unexpected '='"),
        ("tissue == 1", ConfigError, "filter-type", "holds text"),
    ],
)
def test_filters_that_do_not_work_out(by_hand, tmp_path, kept, error, kind, message):
    with pytest.raises(error) as caught:
        select_cells(SelectOptions(by_hand, tmp_path / "out.feather", kept))
    assert caught.value.kind == kind
    assert message in str(caught.value)
    assert not (tmp_path / "out.feather").exists()


def _no_file(path):
    return path


def _text(path):
    path.write_text("a,b\n1,2\n")


def _cut(path):
    _frame(100_000).to_feather(path)
    path.write_bytes(path.read_bytes()[:-5000])


def _no_coordinates(path):
    pd.DataFrame({"tissue": ["lung"]}).to_feather(path)


def _fractions(path):
    pd.DataFrame({"soma_joinid": [1.5]}).to_feather(path)


def _texts(path):
    pd.DataFrame({"soma_joinid": ["one"]}).to_feather(path)


def _lists(path):
    pd.DataFrame({"soma_joinid": [1], "genes": [["a", "b"]]}).to_feather(path)


def _folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_no_file, "no-index"), (_text, "bad-index"), (_cut, "bad-index"), (_no_coordinates, "bad-index"),
        (_fractions, "bad-index"), (_texts, "bad-index"), (_lists, "bad-index"), (_folder, "bad-index"),
    ],
)  # fmt: skip
def test_files_that_are_no_index(tmp_path, make, kind):
    path = tmp_path / "index.feather"
    make(path)
    with pytest.raises(ConfigError) as caught:
        select_cells(SelectOptions(path, tmp_path / "out.feather"))
    assert caught.value.kind == kind
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_index_selects_nothing(tmp_path):
    _frame(0).to_feather(tmp_path / "e.feather")
    with pytest.raises(EmptySelectionError, match="the index has no cells"):
        select_cells(SelectOptions(tmp_path / "e.feather", tmp_path / "out.feather"))
    assert describe(tmp_path / "e.feather").cells == 0


def test_show_counts_as_pandas_counts(by_hand):
    frame = _frame()
    shown = describe(by_hand, top=2)
    columns = {column.name: column for column in shown.columns}
    assert (shown.cells, shown.bytes) == (1000, by_hand.stat().st_size)
    assert dict(columns["tissue"].top) == frame["tissue"].value_counts().head(2).to_dict()
    assert columns["tissue"].distinct == 3
    assert dict(columns["is_primary_data"].top) == {
        str(value): count for value, count in frame["is_primary_data"].value_counts().items()
    }
    assert columns["nnz"].mean == pytest.approx(frame["nnz"].mean())
    assert (columns["raw_sum"].minimum, columns["raw_sum"].maximum) == (frame["raw_sum"].min(), frame["raw_sum"].max())
    assert "soma_joinid" not in columns


def test_show_as_rows_and_as_json(tmp_path):
    frame = pd.DataFrame(
        {"row": range(4), "tissue": ["lung", "lung", "eye", None], "age": [1.0, 2.0, np.nan, 3.0], "none": [None] * 4}
    )
    frame.to_feather(tmp_path / "i.feather")
    shown = describe(tmp_path / "i.feather", top=1)
    assert list(shown.rows()) == [
        ("tissue", "lung", "2", "50.0%"),
        ("", "1 more", "1", "25.0%"),
        ("", "(missing)", "1", "25.0%"),
        ("age", "1 to 3, mean 2", "3", "75.0%"),
        ("", "(missing)", "1", "25.0%"),
        ("none", "(missing)", "4", "100.0%"),
    ]
    assert shown.as_dict()["columns"][0]["top"] == [{"value": "lung", "cells": 2}]


def test_show_of_named_columns_and_of_very_many_values(by_hand, tmp_path, monkeypatch):
    assert [column.name for column in describe(by_hand, ["assay"]).columns] == ["assay"]
    with pytest.raises(ConfigError, match="did you mean 'assay'"):
        describe(by_hand, ["asay"])
    monkeypatch.setattr("index.show._MOST_COUNTED", 10)
    pd.DataFrame({"row": range(50), "barcode": [str(k) for k in range(50)]}).to_feather(tmp_path / "b.feather")
    assert list(describe(tmp_path / "b.feather").rows()) == [("barcode", "more than 10 values", "50", "")]


def test_batches_are_read_one_by_one(tmp_path):
    _frame(200_000).to_feather(tmp_path / "i.feather")
    file = IndexFile(tmp_path / "i.feather")
    assert file.total == 200_000
    assert max(batch.num_rows for batch in file.batches(["tissue"])) <= 65_536
