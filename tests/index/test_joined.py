"""Several indexes as one, and what stands in a Census and in a scBaseCount taken out once."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.build import CensusOptions, ScBaseCountOptions, SelectOptions, index_census, index_scbasecount, select_cells
from index.dedupe import Deduped
from index.joined import Joined
from index.read import IndexFile
from ingest.errors import ConfigError, EmptySelectionError
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount

CENSUS = "soma+file:///census#organism=homo_sapiens&build=2026-01-05"
COLLECTIONS = {"d1": "c1", "d2": "c2", "d3": "c1"}


def feather(path, **columns):
    pd.DataFrame(columns).to_feather(path)
    return IndexFile(path)


def census_part(path, datasets=("d1", "d2")):
    n = len(datasets)
    return feather(path, source=[CENSUS] * n, soma_joinid=range(n), dataset_id=list(datasets), nnz=[5] * n)


def sample_part(path, collections=("c1", None, "c9")):
    n = len(collections)
    return feather(
        path,
        source=["gs://b/s.h5ad#version=1"] * n,
        soma_joinid=[-1] * n,
        row=range(n),
        SRX_accession=["SRX1"] * n,
        czi_collection_id=list(collections),
        nnz=[1.5] * n,
    )


def frame(stream):
    return pd.concat([batch.to_pandas() for batch in stream.batches()], ignore_index=True)


def test_columns_of_all_with_gaps_where_one_lacks_them(tmp_path):
    joined = Joined([census_part(tmp_path / "a"), sample_part(tmp_path / "b")])
    table = frame(joined)
    assert list(table["soma_joinid"]) == [0, 1, -1, -1, -1]
    assert list(table["row"]) == [-1, -1, 0, 1, 2]
    assert list(table["nnz"]) == [5, 5, 1.5, 1.5, 1.5]
    assert table["dataset_id"].isna().tolist() == [False, False, True, True, True]
    assert table["SRX_accession"].isna().tolist() == [True, True, False, False, False]
    assert joined.total == 5
    assert list(joined.schema.names)[:3] == ["source", "soma_joinid", "dataset_id"]


def test_some_columns_only(tmp_path):
    joined = Joined([census_part(tmp_path / "a"), sample_part(tmp_path / "b")])
    assert [len(batch) for batch in joined.batches(["SRX_accession"])] == [2, 3]


def test_types_that_do_not_agree_become_text(tmp_path):
    one = feather(tmp_path / "a", source=["x"], row=[0], score=[1])
    other = feather(tmp_path / "b", source=["y"], row=[0], score=["high"])
    assert list(frame(Joined([one, other]))["score"]) == ["1", "high"]


def test_indexes_without_a_source_are_not_joined(tmp_path):
    nameless = feather(tmp_path / "a", soma_joinid=[1])
    with pytest.raises(ConfigError, match="no column 'source'"):
        Joined([nameless, sample_part(tmp_path / "b")])
    assert Joined([nameless]).total == 1


def test_cells_of_a_collection_that_the_census_holds_are_taken_out(tmp_path):
    asked = []

    def collections_of(source):
        asked.append(str(source))
        return COLLECTIONS

    joined = Joined([census_part(tmp_path / "a"), sample_part(tmp_path / "b")])
    left = Deduped(joined, collections_of)
    assert list(frame(left)["row"]) == [-1, -1, 1, 2]
    assert asked == [CENSUS]
    assert list(left.notes) == ["1 cells of 1 collection taken out: the Census holds them"]


@given(
    st.lists(st.sampled_from(["d1", "d2", "d3"])), st.lists(st.sampled_from(["c1", "c2", "c3", "", None]), min_size=1)
)
def test_only_and_all_double_cells_go(tmp_path_factory, datasets, collections):
    folder = tmp_path_factory.mktemp("dedupe")
    if not datasets:
        datasets = ["d2"]
    held = {COLLECTIONS[dataset] for dataset in datasets}
    stream = Deduped(
        Joined([census_part(folder / "a", datasets), sample_part(folder / "b", collections)]), lambda _: COLLECTIONS
    )
    table = frame(stream)
    assert (table["soma_joinid"] >= 0).sum() == len(datasets)
    rows = [row for row, collection in enumerate(collections) if collection not in held]
    assert list(table[table["soma_joinid"] < 0]["row"]) == rows


def test_nothing_tells_without_the_columns(tmp_path):
    with pytest.raises(ConfigError) as raised:
        Deduped(Joined([census_part(tmp_path / "a")]), lambda _: COLLECTIONS)
    assert raised.value.kind == "no-dedupe"
    assert "czi_collection_id" in str(raised.value)


def test_a_joint_index_where_nothing_is_left(tmp_path):
    parts = Joined([census_part(tmp_path / "a"), sample_part(tmp_path / "b", ["c1"])])
    only = SimpleNamespace(
        schema=parts.schema,
        notes=(),
        total=1,
        batches=lambda columns=None: parts.batches(columns),
        nothing=parts.nothing,
    )
    assert isinstance(Deduped(only, lambda _: COLLECTIONS).nothing(), EmptySelectionError)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    census = build_census(folder / "census", CensusSpec(n_cells=400, n_genes=500, mean_nnz_per_cell=20))
    samples = build_scbasecount(folder / "scb", ScBaseCountSpec(mean_cells=20, n_genes=100, mean_molecules=20))
    index_census(CensusOptions(folder / "census.feather", uri=census.uri))
    index_scbasecount(ScBaseCountOptions(folder / "scb.feather", root=str(samples.path)))
    return folder


def test_a_real_census_is_asked_for_its_collections(both, tmp_path):
    joined, deduped = tmp_path / "joined.feather", tmp_path / "deduped.feather"
    files = (both / "census.feather", both / "scb.feather")
    select_cells(SelectOptions(files[0], joined, more=files[1:]))
    report = select_cells(SelectOptions(files[0], deduped, more=files[1:], dedupe=True))
    before, after = pd.read_feather(joined), pd.read_feather(deduped)
    double = before["czi_collection_id"] == "00000000-0000-4000-a000-000000000001"
    assert double.sum() > 0
    assert len(after) == len(before) - double.sum()
    assert not (after["czi_collection_id"] == "00000000-0000-4000-a000-000000000001").any()
    assert (after["soma_joinid"] >= 0).sum() == (before["soma_joinid"] >= 0).sum()
    assert "taken out" in report.notes[-1]


def test_without_the_collections_datasets_nothing_is_double(both, tmp_path):
    census = pd.read_feather(both / "census.feather")
    counts = census["dataset_id"].value_counts()
    known = {dataset: report(both, dataset, tmp_path) for dataset in counts.index}
    # Exactly one of the datasets is of the collection that was processed again.
    assert sorted(known.values()) == [False] * (len(known) - 1) + [True]


def report(both, dataset, tmp_path):
    census = pd.read_feather(both / "census.feather")
    census[census["dataset_id"] == dataset].reset_index(drop=True).to_feather(tmp_path / "one.feather")
    options = SelectOptions(
        tmp_path / "one.feather", tmp_path / "out.feather", more=(both / "scb.feather",), dedupe=True
    )
    return "taken out" in select_cells(options).notes[-1]
