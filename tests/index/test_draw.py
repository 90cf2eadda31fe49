"""Whole samples at random: exactly so many cells, the same ones every time, whatever else the catalogue lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.draw import SampleDraw, choose_samples, shuffled
from ingest.errors import EmptySelectionError

sizes = st.dictionaries(st.text("ABC123", min_size=1, max_size=4), st.integers(0, 50), max_size=12)
draws = st.builds(
    SampleDraw,
    st.integers(1, 300),
    st.integers(0, 5),
    st.sampled_from(["cut", "whole"]),
    st.none(),
    st.sampled_from(["equal", "proportional"]),
)


@given(sizes, draws)
def test_the_target_is_met_and_all_samples_but_one_are_whole(sizes, draw):
    taken = choose_samples(sizes, draw)
    target = min(draw.cells, sum(sizes.values()))
    cut = [name for name, cells in taken.items() if cells < sizes[name]]
    assert all(0 < cells <= sizes[name] for name, cells in taken.items())
    if draw.last == "cut":
        assert sum(taken.values()) == target
        assert cut in ([], list(taken)[-1:])
    else:
        assert not cut
        assert sum(taken.values()) >= target
        # Without the last one the target would not be met.
        assert not taken or sum(taken.values()) - list(taken.values())[-1] < target


@given(sizes, draws, st.data())
def test_strata_share_the_target(sizes, draw, data):
    strata = {name: data.draw(st.sampled_from(["lung", "blood", "(missing)"])) for name in sizes}
    taken = choose_samples(sizes, draw, strata)
    if draw.last == "cut":
        assert sum(taken.values()) == min(draw.cells, sum(sizes.values()))
        cut = [strata[name] for name, cells in taken.items() if cells < sizes[name]]
        assert len(cut) == len(set(cut)), "one sample a stratum is cut at most"


@given(sizes, draws, st.randoms())
def test_the_order_of_the_catalogue_does_not_matter(sizes, draw, random):
    names = list(sizes)
    random.shuffle(names)
    assert choose_samples({name: sizes[name] for name in names}, draw) == choose_samples(sizes, draw)


@given(st.sets(st.text("ABC123", min_size=1), min_size=1), st.integers(), st.text("XYZ", min_size=1))
def test_one_sample_more_moves_nothing_but_itself(samples, seed, newcomer):
    assert [name for name in shuffled({*samples, newcomer}, seed) if name != newcomer] == shuffled(samples, seed)


def test_another_seed_draws_others():
    sizes = {f"SRX{number}": 10 for number in range(50)}
    drawn = {tuple(choose_samples(sizes, SampleDraw(100, seed))) for seed in range(10)}
    assert len(drawn) == 10


def test_nothing_is_refused():
    with pytest.raises(EmptySelectionError, match="draws nothing"):
        SampleDraw(0)
