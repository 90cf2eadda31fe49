"""One small read of a file: what planning needs, pinned to a version."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ingest.errors import NotCountsError, SourceChangedError, SourceError
from ingest.fetch.h5ad_open import file_version
from ingest.source import Source
from ingest.survey.h5ad import survey_h5ad
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant


@pytest.mark.parametrize(("layout", "nnz"), [("csr", None), ("csc", None), ("dense", 50 * 20)])
def test_a_survey_says_what_planning_needs(tmp_path, layout, nnz):
    matrix = sample_counts(50, 20)
    path = write_h5ad_variant(tmp_path / "GSM 1.h5ad", matrix, layout=layout, where="layer:counts", compression="gzip")
    survey = survey_h5ad(Source.parse(str(path)))
    assert survey.source.version == file_version(str(path))
    assert survey.n_obs == 50
    assert survey.layout == layout
    assert survey.matrix == "layers/counts"
    assert survey.dtype == "float32"
    assert survey.nnz == (nnz or matrix.nnz)
    assert survey.stored_bytes > 0
    assert survey.names_unique
    assert survey.integer
    assert len(survey.genes) == 20
    assert list(survey.presence) == list(survey.datasets) == ["GSM_1"]
    assert survey.presence["GSM_1"].dtype == np.bool_
    assert survey.presence["GSM_1"].all()


def test_what_uns_tells_of_the_dataset_is_kept(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(5, 4))
    with h5py.File(path, "r+") as file:
        file["uns/title"], file["uns/citation"], file["uns/license"] = "Heart", "Doe 2024", "CC-BY"
        file["uns/organism"] = np.arange(3)
        file["uns/doi"] = "x" * 10_000
    facts = survey_h5ad(Source.parse(str(path))).datasets["a"]
    assert {name: facts[name] for name in ("title", "citation", "licence")} == {
        "title": "Heart",
        "citation": "Doe 2024",
        "licence": "CC-BY",
    }
    assert "organism" not in facts
    assert len(facts["doi"]) == 4096


def test_names_that_stand_twice_are_noticed(tmp_path):
    obs = sample_obs(6)
    obs.index = ["a", "b", "c", "a", "d", "e"]
    with pytest.warns(UserWarning, match="not unique"):
        path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(6, 4), obs=obs)
    assert not survey_h5ad(Source.parse(str(path))).names_unique


def test_refusals_come_before_planning(tmp_path):
    fractions = sample_counts(60, 4) * np.float32(0.3)
    path = write_h5ad_variant(tmp_path / "a.h5ad", fractions, dtype="f4")
    source = Source.parse(str(path))
    with pytest.raises(NotCountsError):
        survey_h5ad(source)
    assert not survey_h5ad(source, allow_noninteger=True).integer
    path = write_h5ad_variant(
        tmp_path / "b.h5ad", sample_counts(6, 2), var_ids=["ENSG00000000001.1", "ENSG00000000001.2"]
    )
    survey_h5ad(Source.parse(str(path)))
    with pytest.raises(SourceError, match="stands twice"):
        survey_h5ad(Source.parse(str(path)), strip_version=True)


def test_a_version_that_is_not_the_file_s_is_refused(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(6, 4))
    with pytest.raises(SourceChangedError):
        survey_h5ad(Source("h5ad", path.as_uri(), "1-1"))


def test_a_file_without_cells_is_surveyed(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(1, 4)[:0], obs=sample_obs(1)[:0])
    survey = survey_h5ad(Source.parse(str(path)))
    assert survey.n_obs == 0
    assert survey.names_unique
