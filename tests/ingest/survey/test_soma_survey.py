"""The survey of a Census against the Census' own tables."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cellxgene_census
import numpy as np
import pytest
import tiledbsoma

from ingest.errors import SourceChangedError, SourceError
from ingest.fetch.base import FetchLimits
from ingest.source import Source, address_of
from ingest.survey.soma import cell_sums, survey_soma
from ingest.survey.table import surveys_from_bytes, surveys_to_bytes
from ingest.testing.census import CensusSpec, build_census

LIMITS = FetchLimits(256 << 20, 1, Path("unused"))


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(
        n_cells=3_000, n_genes=500, mean_nnz_per_cell=30, n_datasets=3, organisms=("homo_sapiens", "mus_musculus")
    )
    return build_census(tmp_path_factory.mktemp("census") / "mini", spec)


@pytest.fixture(params=["homo_sapiens", "mus_musculus"])
def source(census, request):
    return Source("soma", address_of(census.uri), "", request.param)


def test_what_a_survey_says(census, source):
    survey = survey_soma(source, LIMITS, datasets=None)
    with cellxgene_census.open_soma(uri=census.uri) as opened:
        experiment = opened["census_data"][source.organism]
        var = experiment.ms["RNA"].var.read().concat().to_pandas()
        obs = experiment.obs.read(column_names=["nnz", "dataset_id"]).concat().to_pandas()
        datasets = opened["census_info"]["datasets"].read().concat().to_pandas().set_index("dataset_id")
        presence = cellxgene_census.get_presence_matrix(opened, source.organism).toarray()
    assert survey.source == replace(source, version=census.spec.build_date)
    assert (survey.n_obs, survey.nnz) == (3_000, obs.nnz.sum())
    assert (survey.layout, survey.matrix, survey.dtype) == ("soma", "RNA/X/raw", "float32")
    assert (survey.band_rows, survey.names_unique) == (2048, True)
    assert survey.genes.ids == tuple(var.feature_id)
    assert survey.genes.names == tuple(var.feature_name)
    assert survey.genes.lengths == tuple(var.feature_length)
    assert set(survey.presence) == set(survey.datasets) == set(obs.dataset_id)
    for name, measured in survey.presence.items():
        np.testing.assert_array_equal(measured, presence[datasets.soma_joinid[name]].astype(bool))
        assert survey.datasets[name]["title"] == datasets.dataset_title[name]
        assert survey.datasets[name]["doi"] == datasets.collection_doi[name]
        assert survey.datasets[name]["organism"] == source.organism
    fragments = census.path / "census_data" / source.organism / "ms/RNA/X/raw/__fragments"
    assert survey.stored_bytes == sum(file.stat().st_size for file in fragments.rglob("*") if file.is_file())


def test_only_the_datasets_asked_for(source):
    wanted = sorted(survey_soma(source, LIMITS, datasets=None).presence)[:1]
    survey = survey_soma(source, LIMITS, datasets=[*wanted, "elsewhere"])
    assert list(survey.presence) == list(survey.datasets) == wanted
    assert survey_soma(source, LIMITS, datasets=[]).presence == {}


def test_a_survey_survives_its_table(source):
    survey = survey_soma(source, LIMITS, datasets=None)
    (again,) = surveys_from_bytes(surveys_to_bytes([survey]), key="k")
    assert again.source == survey.source
    assert again.genes == survey.genes
    assert again.datasets == survey.datasets


def test_cell_sums(census, source):
    with cellxgene_census.open_soma(uri=census.uri) as opened:
        columns = ["soma_joinid", "nnz", "raw_sum"]
        obs = opened["census_data"][source.organism].obs.read(column_names=columns).concat().to_pandas()
    obs = obs.set_index("soma_joinid")
    for joinids in (np.random.default_rng(0).permutation(3_000), np.array([2_999]), np.empty(0, np.int64)):
        nnz, raw_sum = cell_sums(source, joinids, LIMITS)
        np.testing.assert_array_equal(nnz, obs.nnz[joinids])
        np.testing.assert_array_equal(raw_sum, obs.raw_sum[joinids])
        assert (nnz.dtype, raw_sum.dtype) == (np.int64, np.float64)


def test_cell_sums_of_a_scattered_few(source, monkeypatch):
    monkeypatch.setattr("ingest.survey.soma._OBS_GAP", 3)
    monkeypatch.setattr("ingest.survey.soma._JOINIDS_AT_ONCE", 7)
    whole, _ = cell_sums(source, np.arange(3_000), LIMITS)
    joinids = np.random.default_rng(1).permutation(3_000)[:50]
    np.testing.assert_array_equal(cell_sums(source, joinids, LIMITS)[0], whole[joinids])


@pytest.mark.parametrize("joinid", [-1, 3_000, 2**40])
def test_a_cell_that_is_not_there(source, joinid):
    with pytest.raises(SourceError, match=f"no cell with soma_joinid {joinid}") as caught:
        cell_sums(source, np.array([5, joinid]), LIMITS)
    assert caught.value.kind == "row-range"


REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "census_like_soma"
real = pytest.mark.skipif(not REAL.exists(), reason="no ../shared/data beside this checkout")


@pytest.mark.realdata
@real
def test_real_census():
    survey = survey_soma(Source("soma", address_of(str(REAL)), "", "homo_sapiens"), LIMITS, datasets=None)
    assert (survey.n_obs, len(survey.genes), survey.nnz) == (820, 2121, 289_469)
    assert survey.band_rows == 820
    assert set(survey.presence) == {"ds_perturb", "ds_heart"}
    nnz, _ = cell_sums(survey.source, np.arange(820), LIMITS)
    assert nnz.sum() == survey.nnz


def test_a_copy_without_a_build_date_is_pinned_by_its_content(census, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(census.path, copy)
    with tiledbsoma.open(str(copy / "census_info"), "d") as info:
        del info["summary"]
    undated = Source("soma", address_of(str(copy)), "", "homo_sapiens")
    pinned = survey_soma(undated, LIMITS, datasets=None).source
    assert pinned.version.startswith("content-")
    assert survey_soma(pinned, LIMITS, datasets=None).source == pinned
    with pytest.raises(SourceChangedError, match="is build content-"):
        survey_soma(replace(pinned, version="content-0"), LIMITS, datasets=None)
    with pytest.raises(SourceChangedError):
        survey_soma(replace(pinned, organism="mus_musculus"), LIMITS, datasets=None)
