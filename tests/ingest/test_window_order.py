"""Where a row goes is arithmetic: the same from any version of numpy, and a permutation whatever is asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, CorruptError
from ingest.genes import Genes
from ingest.settings import DataSettings
from ingest.source import Source
from ingest.survey.model import Fault, SourceSurvey
from ingest.window_order import WindowOrder, parse_order, run_rows, window_order

WORD = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def splitmix(state):
    """SplitMix64 as published, a word at a time."""
    while True:
        state = (state + GAMMA) & WORD
        word = state
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
        yield word ^ (word >> 31)


def words_of(n, *stream):
    """`n` words of a stream: each part of its name starts the generator anew, that many steps on."""
    state = 0
    for part in stream:
        state = next(splitmix((state + part * GAMMA) & WORD))
    words = splitmix(state)
    return [next(words) for _ in range(n)]


def test_the_generator_is_the_published_one():
    words = splitmix(1234567)  # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    assert [next(words) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 12345, WORD])
def test_rows_and_runs_are_sorted_by_words_of_the_generator(seed):
    order = WindowOrder(10, seed)
    drawn = words_of(10, seed, 1, 10)
    assert order.mixed(10, 20).tolist() == sorted(range(10, 20), key=lambda row: drawn[row - 10])
    drawn = words_of(5, seed, 0)
    lengths, places = [3, 1, 4, 1, 5], {}
    for run in sorted(range(5), key=drawn.__getitem__):
        places[run] = sum(lengths[other] for other in places)
    assert order.run_places(np.array(lengths)).tolist() == [places[run] for run in range(5)]


def test_an_order_is_for_ever():
    assert WindowOrder(8, 3).mixed(0, 8).tolist() == [7, 6, 2, 1, 3, 4, 0, 5]
    assert WindowOrder(8, 3).mixed(8, 16).tolist() == [11, 9, 12, 8, 13, 14, 15, 10]
    assert WindowOrder(8, 3).run_places(np.array([2, 2, 2, 2])).tolist() == [0, 6, 2, 4]


@given(st.integers(0, WORD), st.integers(0, 1000), st.integers(1, 50), st.lists(st.integers(1, 9), min_size=1))
def test_nothing_is_lost(seed, start, size, lengths):
    order = WindowOrder(size, seed)
    assert sorted(order.mixed(start, start + size).tolist()) == list(range(start, start + size))
    places = order.run_places(np.array(lengths))
    covered = [
        row for place, length in zip(places.tolist(), lengths, strict=True) for row in range(place, place + length)
    ]
    assert sorted(covered) == list(range(sum(lengths)))


@pytest.mark.parametrize(
    ("cells_per_chunk", "cells"), [(25_000, 50_000), (10_000, 40_000), (100, 32_800), (40_000, 40_000)]
)
def test_the_window_that_nobody_asked_for(cells_per_chunk, cells):
    settings = DataSettings(cells_per_chunk=cells_per_chunk, shuffle="window")
    assert settings.order == WindowOrder(cells, 0)
    assert DataSettings(cells_per_chunk=cells_per_chunk).order is None


@pytest.mark.parametrize(
    ("shuffle", "cells", "seed", "said", "hint"),
    [
        ("window", 30, 0, "whole chunks of 20 cells", "20 or 40 would do"),
        ("window", 7, 0, "whole chunks of 20 cells", "--shuffle-window 20 would do"),
        ("window", 0, 0, "whole chunks of 20 cells", "--shuffle-window 20 would do"),
        ("window", -20, 0, "whole chunks of 20 cells", "--shuffle-window 20 would do"),
        ("none", 40, 0, "mixes nothing by itself", "--shuffle window"),
        ("window", 40, -1, "--shuffle-seed -1", ""),
        ("window", 40, 1 << 64, "--shuffle-seed 18446744073709551616", ""),
    ],
)
def test_windows_that_cannot_be(shuffle, cells, seed, said, hint):
    with pytest.raises(ConfigError, match=said) as caught:
        window_order(shuffle, cells, seed, cells_per_chunk=20)
    assert caught.value.kind == "bad-shuffle"
    assert hint in (caught.value.hint or "")


@given(st.integers(1, 10**9), st.integers(0, WORD))
def test_an_order_is_spelled_and_read(cells, seed):
    assert parse_order(str(WindowOrder(cells, seed))) == WindowOrder(cells, seed)
    assert parse_order("source") is None


@pytest.mark.parametrize("text", ["", "window", "window:5", "window:0:0", "window:x:0", "window:05:0", "blocks:5:0"])
def test_an_order_of_another_version(text):
    with pytest.raises(CorruptError) as caught:
        parse_order(text)
    assert caught.value.kind == "unknown-order"


def survey(**said):
    known = {
        "source": Source("h5ad", "file:///data/a.h5ad", "1"),
        "n_obs": 100_000,
        "layout": "csr",
        "matrix": "X",
        "dtype": "float32",
        "nnz": 200_000_000,
        "band_rows": 1,
        "stored_bytes": 400_000_000,
        "names_unique": True,
        "genes": Genes((), (), ()),
        "presence": {},
        "integer": True,
        "datasets": {},
    }
    return SourceSurvey(**{**known, **said})


def test_a_census_moves_band_by_band_and_a_csc_file_whole():
    census = survey(layout="soma", band_rows=2048)
    assert run_rows([census, survey(layout="csc")], 50_000).tolist() == [2048, 100_000]


def test_runs_fill_chunks_and_windows_hold_many():
    [rows] = run_rows([survey()], 64)  # a small window: chunks decide
    chunk_entries = (16 << 10) * 2 ** np.log10(800_000_000 / (1 << 20)) / 4  # h5py's own rule
    assert 16 * chunk_entries <= rows * 2000 < 32 * chunk_entries
    assert run_rows([survey()], 500_000).tolist() == [8334]  # 12 runs; of 7,812 rows, a 64th, they would leave a rest
    assert run_rows([survey(layout="dense", band_rows=600)], 64_000).tolist() == [1200]


def test_small_files_are_one_run():
    assert run_rows([survey(n_obs=30, nnz=300)], 32_768).tolist() == [30]
    assert run_rows([survey(n_obs=0, nnz=0, stored_bytes=0, fault=Fault("k", "m", None))], 6400).tolist() == [100]


def test_what_is_opened_again_and_again_moves_in_larger_runs():
    few, many = (run_rows([survey()] * count, 32_768)[0] for count in (8, 9))
    assert few < many
    assert many >= 100_000 // 64
    remote = survey(source=dataclasses.replace(survey().source, address="s3://bucket/a.h5ad"))
    assert run_rows([remote], 32_768)[0] * 4_000 >= 16 << 20
