"""Samples: exactly so many, each once, the same for the same seed, and fair."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from index.sample import BAND_CELLS, Sample, Sampling, _places
from index.shares import equal_shares, proportional_shares
from ingest.errors import ConfigError, EmptySelectionError, SourceChangedError
from ingest.testing.examples import examples


def _cells(n_cells: int, *, stride: int = 1) -> pa.Table:
    joinids = np.arange(n_cells) * stride
    tissues = np.array(["lung", "blood", None, "eye"], object)[np.arange(n_cells) ** 2 % 7 % 4]
    return pa.table(
        {
            "source": pa.array(["census://2025-11-08/homo_sapiens"] * n_cells).dictionary_encode(),
            "soma_joinid": pa.array(joinids),
            "row": pa.array(np.full(n_cells, -1)),
            "tissue": pa.array(tissues, pa.string()).dictionary_encode(),
            "donor": pa.array((joinids % 5).astype(np.int32)),
            "nnz": pa.array(joinids * 0.5),
        }
    )


def _drawn(sample: Sample, column: str = "soma_joinid") -> list:
    return [value for batch in sample.batches() for value in batch.column(column).to_pylist()]


@settings(max_examples=examples(24), deadline=None)
@given(
    st.integers(1, 6000),
    st.integers(1, 7000),
    st.integers(0, 3),
    st.sampled_from(
        [{}, {"by": "band"}, *({"stratify": column} for column in ("tissue", "tissue:equal", "donor:equal"))]
    ),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
def test_exactly_so_many_each_once_in_order_however_the_stream_is_cut(
    table_stream, n_cells, wanted, seed, how, rows, other_rows
):
    table = _cells(n_cells)
    sampling = Sampling.of(wanted, seed=seed, **how)
    joinids = _drawn(Sample(table_stream(table, rows), sampling))
    assert len(joinids) == min(wanted, n_cells)
    assert joinids == sorted(set(joinids))
    assert _drawn(Sample(table_stream(table, other_rows), sampling)) == joinids


def test_another_seed_draws_others(table_stream):
    stream = table_stream(_cells(10_000))
    first, second = (set(_drawn(Sample(stream, Sampling(1000, seed)))) for seed in (0, 1))
    assert 50 < len(first & second) < 160


def test_every_cell_is_as_likely_as_any_other(table_stream):
    stream = table_stream(_cells(500), 97)
    hits = Counter(joinid for seed in range(400) for joinid in _drawn(Sample(stream, Sampling(50, seed))))
    counts = [hits[joinid] for joinid in range(500)]
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    halves = [sum(counts[:250]), sum(counts[250:])]
    assert scipy.stats.chisquare(halves).pvalue > 0.001


def test_places_of_many_blocks_are_uniform_exact_and_small(monkeypatch):
    monkeypatch.setattr("index.sample._BLOCK", 64)
    hits = Counter(int(place) for seed in range(300) for place in _places(np.random.default_rng(seed), 1000, 100))
    assert sum(hits.values()) == 30_000
    assert scipy.stats.chisquare([hits[place] for place in range(1000)]).pvalue > 0.001


def test_memory_follows_the_cells_drawn_not_those_drawn_from():
    tracemalloc.start()
    places = _places(np.random.default_rng(0), 400_000_000, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(places)) == 10_000
    assert places.max() < 400_000_000
    assert peak < 20e6


def test_bands_are_taken_whole_but_for_the_last(table_stream):
    table = _cells(40 * BAND_CELLS, stride=2)
    joinids = np.array(_drawn(Sample(table_stream(table), Sampling(10_000, 3, "band"))))
    sizes = sorted(Counter(joinids // BAND_CELLS).values())
    assert len(joinids) == 10_000
    assert sizes == [10_000 % (BAND_CELLS // 2), *[BAND_CELLS // 2] * (10_000 // (BAND_CELLS // 2))]


def test_bands_of_different_files_are_different_bands(table_stream):
    nowhere, rows = pa.array(np.full(3000, -1)), pa.array(np.arange(3000))
    files = [
        pa.table({"source": [name] * 3000, "soma_joinid": nowhere, "row": rows})
        for name in ("file:///a.h5ad", "file:///b.h5ad")
    ]
    table = pa.concat_tables(files)
    sample = Sample(table_stream(table), Sampling(BAND_CELLS, 1, "band"))
    assert len(_drawn(sample)) == BAND_CELLS
    # Two bands a file, of 2048 and 952 cells: were they one, a whole band could come from both.
    assert all(quota <= BAND_CELLS for quota in sample.drawn.values())
    assert {len(name.split("\n")) for name in sample.drawn} == {2}


@pytest.mark.parametrize("shares", ["equal", "proportional"])
def test_strata_give_the_shares_promised(table_stream, shares):
    table = _cells(7000)
    sizes = Counter("(missing)" if text is None else text for text in table["tissue"].to_pylist())
    drawn = Counter(
        "(missing)" if text is None else text
        for text in _drawn(Sample(table_stream(table, 333), Sampling.of(700, stratify=f"tissue:{shares}")), "tissue")
    )
    for name, size in sizes.items():
        assert drawn[name] == pytest.approx(700 / len(sizes) if shares == "equal" else size / 10, abs=1)


def test_small_strata_give_all_they_have_and_it_is_said(table_stream):
    tissue = pa.array(["lung"] * 900 + ["blood"] * 95 + ["eye"] * 5)
    table = _cells(1000).set_column(3, "tissue", tissue)
    sample = Sample(table_stream(table), Sampling.of(300, stratify="tissue:equal"))
    assert Counter(_drawn(sample, "tissue")) == {"lung": 200, "blood": 95, "eye": 5}
    assert sample.notes == [
        "2 of 3 values of tissue have fewer than 100 cells (eye, blood): all of theirs are taken, the others give more"
    ]


def test_fewer_than_wanted_is_said(table_stream):
    sample = Sample(table_stream(_cells(10)), Sampling(20))
    assert len(_drawn(sample)) == 10
    assert sample.notes == ["all 10 cells are taken: fewer than the 20 asked for"]


def test_strata_that_give_none_are_said(table_stream):
    sample = Sample(table_stream(_cells(1000)), Sampling.of(2, stratify="donor:equal"))
    assert len(_drawn(sample)) == 2
    assert sample.notes == ["3 of 5 values of donor give no cell (0, 1, 2)"]


_SIZES = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 200), min_size=1, max_size=8)


@given(_SIZES, st.integers(0, 1600))
def test_shares_add_up_and_fit(sizes, cells):
    cells = min(cells, sum(sizes.values()))
    for shares in (equal_shares(sizes, cells), proportional_shares(sizes, cells)):
        assert sum(shares.values()) == cells
        assert all(0 <= shares[name] <= sizes[name] for name in sizes)
    equal = equal_shares(sizes, cells)
    unexhausted = [equal[name] for name in sizes if equal[name] < sizes[name]]
    assert max(unexhausted, default=0) - min(unexhausted, default=0) <= 1
    assert all(equal[name] <= min(unexhausted, default=200) + 1 for name in sizes)


def test_a_source_that_changes_between_counting_and_drawing_is_noticed(table_stream):
    stream = table_stream(_cells(100))
    sample = Sample(stream, Sampling(10))
    stream.table = _cells(101)
    with pytest.raises(SourceChangedError):
        _drawn(sample)


def test_settings_that_make_no_sense(table_stream):
    with pytest.raises(EmptySelectionError, match="--cells 0 draws nothing"):
        Sampling(0)
    with pytest.raises(ConfigError, match="exclude each other"):
        Sampling(5, by="band", stratify="tissue")
    stream = table_stream(_cells(10))
    with pytest.raises(ConfigError, match="did you mean 'tissue'"):
        Sample(stream, Sampling(5, stratify="tisue"))
    with pytest.raises(ConfigError, match="fractional numbers"):
        Sample(stream, Sampling(5, stratify="nnz"))
    with pytest.raises(ConfigError, match="too many strata"):
        Sample(table_stream(_cells(20_000)), Sampling(5, stratify="soma_joinid"))


def test_how_the_command_line_spells_strata():
    assert Sampling.of(5, stratify="tissue:equal") == Sampling(5, stratify="tissue", shares="equal")
    assert Sampling.of(5, stratify="tissue:proportional") == Sampling(5, stratify="tissue")
    assert Sampling.of(5, stratify="odd:name") == Sampling(5, stratify="odd:name")
    assert Sampling.of(5) == Sampling(5)
