"""The Census catalogue against a Census built here, read independently by pandas through tiledbsoma."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiledbsoma

from index.build import CensusOptions, index_census
from index.catalog.census import ALWAYS_COLUMNS, DEFAULT_COLUMNS, CensusCatalog
from index.sample import BAND_CELLS, Sampling
from ingest.errors import ConfigError
from ingest.source import Source
from ingest.testing.census import CensusSpec, build_census

COORDINATES = ["source", "soma_joinid", "row"]


@pytest.fixture(scope="session")
def census(tmp_path_factory):
    spec = CensusSpec(
        n_cells=12_000, n_genes=60, mean_nnz_per_cell=6, organisms=("homo_sapiens", "mus_musculus"), seed=3
    )
    return build_census(tmp_path_factory.mktemp("census") / "a census", spec)


@pytest.fixture(scope="session")
def obs(census) -> pd.DataFrame:
    with tiledbsoma.open(f"{census.uri}/census_data/homo_sapiens/obs") as frame:
        return frame.read().concat().to_pandas().sort_values("soma_joinid").reset_index(drop=True)


def _index(census, tmp_path, **options):
    report = index_census(CensusOptions(tmp_path / "index.feather", uri=census.uri, **options))
    return report, pd.read_feather(report.path)


def _same(result: pd.DataFrame, expected: pd.DataFrame, columns) -> None:
    assert len(result) == len(expected)
    for name in columns:
        assert result[name].astype(object).tolist() == expected[name].astype(object).tolist()


def test_primary_cells_with_the_usual_columns_by_default_and_it_is_said(census, obs, tmp_path):
    report, result = _index(census, tmp_path)
    assert list(result.columns) == [*COORDINATES, *DEFAULT_COLUMNS, *ALWAYS_COLUMNS]
    expected = obs[obs["is_primary_data"]]
    assert len(expected) < len(obs)
    _same(result, expected, ["soma_joinid", *DEFAULT_COLUMNS, *ALWAYS_COLUMNS])
    assert (report.cells, report.total) == (len(expected), len(obs))
    assert any(note.startswith("primary cells only") for note in report.notes)
    assert (result["row"] == -1).all()
    assert result["soma_joinid"].dtype == np.int64


def test_the_source_names_the_copy_its_organism_and_its_build(census, tmp_path):
    _, result = _index(census, tmp_path, organism="Mus musculus")
    (text,) = set(result["source"])
    source = Source.parse(text)
    assert (source.kind, source.organism, source.version) == ("soma", "mus_musculus", census.spec.build_date)
    assert source.path == census.path.resolve()


def test_all_cells_keeps_the_duplicates(census, obs, tmp_path):
    report, result = _index(census, tmp_path, all_cells=True)
    _same(result, obs, ["soma_joinid", "disease"])
    assert any(note.startswith("all cells") for note in report.notes)


def test_a_filter_that_speaks_of_primary_cells_is_left_alone(census, obs, tmp_path):
    _, result = _index(census, tmp_path, value_filter="is_primary_data == False")
    _same(result, obs[~obs["is_primary_data"]], ["soma_joinid"])


def test_filters_keep_what_pandas_keeps(census, obs, tmp_path):
    tissue = obs["tissue_general"].astype(str)
    wanted = sorted(set(tissue))[:2]
    cases = {
        f"tissue_general in {wanted}": tissue.isin(wanted),
        f"not tissue_general == '{wanted[0]}'": tissue != wanted[0],
        f"tissue_general < '{wanted[1]}'": tissue < wanted[1],
        "nnz >= 5 and raw_sum < 20.5": (obs["nnz"] >= 5) & (obs["raw_sum"] < 20.5),
        "nnz > 5.5 or disease == 'normal'": (obs["nnz"] > 5.5) | (obs["disease"].astype(str) == "normal"),
    }
    for text, mask in cases.items():
        expected = obs[mask & obs["is_primary_data"]]
        assert len(expected) > 0
        _, result = _index(census, tmp_path, value_filter=text)
        _same(result, expected, ["soma_joinid"])


def test_columns_asked_for_come_with_those_always_needed(census, obs, tmp_path):
    _, result = _index(census, tmp_path, columns=("donor_id", "nnz"), value_filter="tissue != 'nowhere'")
    assert list(result.columns) == [*COORDINATES, "donor_id", "nnz", "dataset_id", "raw_sum"]
    _same(result, obs[obs["is_primary_data"]], ["donor_id", "nnz"])


def test_samples_of_the_census(census, obs, tmp_path):
    _, cells = _index(census, tmp_path, sampling=Sampling(500, 1))
    assert len(set(cells["soma_joinid"])) == 500
    primary = set(obs.loc[obs["is_primary_data"], "soma_joinid"])
    assert set(cells["soma_joinid"]) <= primary
    _, bands = _index(census, tmp_path, sampling=Sampling(3000, 1, "band"))
    assert len(bands) == 3000
    assert bands["soma_joinid"].floordiv(BAND_CELLS).nunique() <= 3
    _, equal = _index(census, tmp_path, sampling=Sampling.of(80, stratify="donor_id:equal"))
    assert equal["donor_id"].value_counts().loc[lambda counts: counts > 0].std() <= 0.6


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"value_filter": "tisue == 'x'"},
            "unknown-column",
            "no column 'tisue' in the Census obs; did you mean 'tissue'",
        ),
        ({"columns": ("asay",)}, "unknown-column", "no column 'asay' in the Census obs; did you mean 'assay'"),
        (
            {"value_filter": "disease == 'normall'"},
            "empty-selection",
            "has disease == 'normall'; did you mean 'normal'?",
        ),
        ({"value_filter": "nnz < 0"}, "empty-selection", "the Census matches is_primary_data == True and nnz < 0"),
        ({"value_filter": "disease ="}, "filter-syntax", "unexpected '='"),
        ({"value_filter": "nnz == 'many'"}, "filter-type", "holds numbers"),
        ({"organism": "homo_sapien"}, "unknown-organism", "did you mean 'homo_sapiens'?"),
        ({"sampling": Sampling.of(5, stratify="tisue")}, "unknown-column", "did you mean 'tissue'"),
    ],
)
def test_requests_that_do_not_work_out(census, tmp_path, options, kind, message):
    with pytest.raises(ConfigError) as caught:
        _index(census, tmp_path, **options)
    assert caught.value.kind == kind
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_does_not_exist_is_noted_when_others_match(census, tmp_path):
    report, _ = _index(census, tmp_path, value_filter="disease in ['normal', 'nromal']")
    assert "no cell has disease == 'nromal'; did you mean 'normal'?" in report.notes


def test_places_without_a_census(census, tmp_path):
    (tmp_path / "empty").mkdir()
    for uri in (
        tmp_path / "nowhere",
        tmp_path / "empty",
        f"{census.uri}/census_data",
        f"{census.uri}/census_data/homo_sapiens",
    ):
        with pytest.raises(ConfigError) as caught:
            CensusCatalog.open(uri=str(uri))
        assert caught.value.kind == "no-census"
        assert "\n" not in str(caught.value)


def test_batches_are_bounded_and_by_joinid(census, obs):
    with CensusCatalog.open(uri=census.uri) as catalog:
        cells = catalog.cells(all_cells=True)
        joinids = np.concatenate([batch.column("soma_joinid").to_numpy() for batch in cells.batches(["soma_joinid"])])
        assert next(cells.batches(["tissue", "row"])).schema.names == ["tissue", "row"]
    assert joinids.tolist() == obs["soma_joinid"].tolist()
