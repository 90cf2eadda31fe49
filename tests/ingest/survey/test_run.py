from __future__ import annotations

import threading

import numpy as np
import pytest

from ingest.errors import SourceError
from ingest.fetch.base import FetchLimits
from ingest.source import Source, address_of
from ingest.survey import run
from ingest.survey.run import SurveyOptions, survey_sources
from ingest.testing.datasets import write_sources

OPTIONS = SurveyOptions()


@pytest.fixture
def limits(tmp_path):
    return FetchLimits(1 << 28, 1, tmp_path)


@pytest.fixture
def looked_at(monkeypatch):
    """The sources that were really opened, in any order."""
    from ingest.survey import h5ad

    real, seen, lock = h5ad.survey_h5ad, [], threading.Lock()

    def survey_h5ad(source, **options):
        with lock:
            seen.append(str(source))
        return real(source, **options)

    monkeypatch.setattr(h5ad, "survey_h5ad", survey_h5ad)
    return seen


@pytest.fixture
def files(tmp_path):
    return write_sources(tmp_path / "sources", n_files=3, n_cells=8, n_genes=5)


def sources_of(files):
    return [Source("h5ad", address_of(str(file)), "") for file in files]


def survey(files, limits, cache, options=OPTIONS, **more):
    return survey_sources(sources_of(files), [None] * len(files), options, limits, cache=cache, **more)


def test_surveys_are_in_order_and_pinned(files, limits):
    told = []
    found = survey(files, limits, None, on_done=told.append)
    assert [one.source.address for one in found] == [address_of(str(file)) for file in files]
    assert all(one.source.version for one in found)
    assert sorted(map(str, told)) == sorted(map(str, sources_of(files)))


def test_the_second_survey_opens_nothing(files, limits, looked_at, tmp_path):
    cache = tmp_path / "cache"
    first = survey(files, limits, cache)
    assert len(looked_at) == 3
    again = survey(files, limits, cache)
    assert len(looked_at) == 3
    assert [(one.source, one.nnz, one.genes) for one in again] == [(one.source, one.nnz, one.genes) for one in first]
    assert all(
        np.array_equal(a.presence[k], b.presence[k]) for a, b in zip(first, again, strict=True) for k in a.presence
    )


def test_without_a_cache_every_survey_opens(files, limits, looked_at):
    survey(files, limits, None)
    survey(files, limits, None)
    assert len(looked_at) == 6


def test_a_changed_file_is_looked_at_again(files, limits, looked_at, tmp_path):
    survey(files, limits, tmp_path / "cache")
    write_sources(files[0].parent, n_files=1, n_cells=9, n_genes=5)
    found = survey(files, limits, tmp_path / "cache")
    assert len(looked_at) == 4
    assert found[0].n_obs == 9


def test_other_options_are_another_survey(files, limits, looked_at, tmp_path):
    survey(files[:1], limits, tmp_path / "cache")
    survey(files[:1], limits, tmp_path / "cache", SurveyOptions(strip_version=True))
    assert len(looked_at) == 2


def test_any_damage_to_a_cached_survey_is_ignored_and_mended(files, limits, looked_at, tmp_path):
    wanted = survey(files[:1], limits, tmp_path / "cache")[0]
    [path] = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), len(whole) // 12)]
    for turn, data in enumerate([b"", whole[:40], whole[32:], *damaged]):
        path.write_bytes(data)
        found = survey(files[:1], limits, tmp_path / "cache")[0]
        assert (found.source, found.n_obs, found.genes) == (wanted.source, wanted.n_obs, wanted.genes)
        assert len(looked_at) == 2 + turn
        assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(files, limits, looked_at, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    assert len(survey(files, limits, tmp_path / "cache")) == 3
    assert len(looked_at) == 3


def test_the_first_source_in_order_that_fails_is_named(files, limits, tmp_path):
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(b"no file of any kind")
    worse = tmp_path / "worse.h5ad"
    worse.write_bytes(b"neither")
    with pytest.raises(SourceError, match=r"bad\.h5ad"):
        survey([files[0], bad, worse], limits, None)


def test_the_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run.default_cache().parts[-2:] == ("cell-ingest", "surveys")
