"""Cells divided: purely, by whole groups, and alike whatever is selected."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, EmptySelectionError
from ingest.load import open_chunks
from ingest.load.split import PARTS, Split, SplitRule, split, split_cells, split_groups
from ingest.testing.training import make_training_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return make_training_dataset(tmp_path_factory.mktemp("split"))


@given(st.integers(0, 2000), st.floats(0, 0.5), st.floats(0, 0.4), st.integers(0, 5))
def test_every_cell_is_in_one_part_and_shares_hold_on_average(n_cells, val, test, seed):
    parts = split_cells(n_cells, SplitRule(val=val, test=test, seed=seed))
    assert parts.shape == (n_cells,)
    assert set(parts.tolist()) <= {0, 1, 2}
    for place, share in enumerate((1 - val - test, val, test)):
        spread = np.sqrt(n_cells * share * (1 - share))
        assert abs(np.count_nonzero(parts == place) - n_cells * share) <= 6 * spread + 1


def test_a_cells_part_depends_on_seed_and_place_alone():
    rule = SplitRule(seed=4)
    whole = split_cells(3_000_000, rule)  # more than is drawn in one piece
    assert (split_cells(1000, rule) == whole[:1000]).all()
    assert (whole[: 1 << 20] != whole[1 << 20 : 1 << 21]).any()
    assert (split_cells(1000, SplitRule(seed=5)) != whole[:1000]).any()
    # The same numbers in every version: checkpoints and published results go by them.
    assert np.flatnonzero(split_cells(60, SplitRule()) == 1).tolist() == [20, 37, 40, 45, 53]
    assert np.flatnonzero(split_cells(60, SplitRule()) == 2).tolist() == [4, 14, 31, 49, 55, 56]


def groups(draw_sizes):
    codes = np.repeat(np.arange(len(draw_sizes)), draw_sizes)
    return np.random.default_rng(0).permutation(codes), [f"g{at}" for at in range(len(draw_sizes))]


@given(st.lists(st.integers(1, 50), min_size=3, max_size=30), st.integers(0, 5))
def test_groups_stay_whole_and_every_part_has_one(sizes, seed):
    codes, names = groups(sizes)
    parts = split_groups(codes, names, SplitRule("donor", seed=seed))
    assert pd.Series(parts).groupby(codes).nunique().max() == 1
    assert set(parts.tolist()) == {0, 1, 2}
    assert abs(np.count_nonzero(parts == 0) - 0.8 * len(codes)) <= 0.2 * len(codes) + 2 * max(sizes)


@given(st.lists(st.integers(1, 50), min_size=3, max_size=12), st.randoms(use_true_random=False))
def test_how_groups_are_numbered_makes_no_difference(sizes, random):
    codes, names = groups(sizes)
    order = list(range(len(names)))
    random.shuffle(order)
    renumbered = np.argsort(order)[codes]
    rule = SplitRule("donor", seed=2)
    assert (split_groups(codes, names, rule) == split_groups(renumbered, [names[at] for at in order], rule)).all()


def test_many_equal_groups_have_the_shares_asked_for():
    codes, names = groups([5] * 40)
    parts = split_groups(codes, names, SplitRule("donor", val=0.2, test=0.1))
    assert np.bincount(parts).tolist() == [140, 40, 20]


def test_cells_without_a_group_are_kept_together():
    codes = np.array([-1, 0, 1, 2, -1, 3, -1])
    parts = split_groups(codes, ["a", "b", "c", "d"], SplitRule("donor", val=0.3, test=0.3))
    assert len({*parts[[0, 4, 6]].tolist()}) == 1


def test_of_as_many_groups_as_parts_the_largest_is_trained_with():
    parts = split_groups(np.array([0, 1, 1, 1, 2, 2]), ["a", "b", "c"], SplitRule("donor", val=0.25, test=0.1))
    assert parts.tolist() == [2, 0, 0, 0, 1, 1]


def test_fewer_groups_than_parts_are_refused():
    with pytest.raises(ConfigError, match="2 different donor cannot be divided into 3 parts") as refused:
        split_groups(np.array([0, 1, 1]), ["a", "b"], SplitRule("donor"))
    assert refused.value.kind == "few-groups"
    assert set(split_groups(np.array([0, 1, 1]), ["a", "b"], SplitRule("donor", test=0)).tolist()) == {0, 1}


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, float("nan")), (1.0, 0)])
def test_shares_leave_something_to_train_with(val, test):
    with pytest.raises(ConfigError, match="less than 1 together"):
        SplitRule(val=val, test=test)


@pytest.mark.parametrize(("by", "column"), [("donor", "donor_id"), ("sample", "SRX_accession"), ("cell_type",) * 2])
def test_donors_samples_and_columns_are_kept_together(dataset, by, column):
    with open_chunks(dataset) as cells:
        found = split(cells, SplitRule(by, val=0.2, test=0.2))
        of_group = pd.Series(found.parts).groupby(cells.column(column, np.arange(cells.n_cells)).values)
        assert of_group.nunique().max() == 1
        rows = [found.rows(part) for part in PARTS]
        assert np.sort(np.concatenate(rows)).tolist() == list(range(600))


def test_numbers_are_groups_as_well(dataset):
    with open_chunks(dataset) as cells:
        found = split(cells, SplitRule("score", val=0.2, test=0.2))
        values = cells.column("score", np.arange(cells.n_cells)).values
        assert pd.Series(found.parts).groupby(values).nunique().max() == 1


def test_what_is_selected_moves_no_cell_to_another_part(dataset):
    with open_chunks(dataset) as cells:
        for by in ("cell", "donor"):
            found = split(cells, SplitRule(by))
            some = cells.where("cell_type == 'T cell'")
            for part in PARTS:
                assert set(found.rows(part, some).tolist()) == set(some.tolist()) & set(found.rows(part).tolist())


def test_an_unknown_column_and_an_empty_part_are_named(dataset):
    said = "no column 'donr_id' in .*; did you mean 'donor_id'"
    with open_chunks(dataset) as cells, pytest.raises(ConfigError, match=said):
        split(cells, SplitRule("donr_id"))
    with pytest.raises(EmptySelectionError, match="no cell is left for val") as refused:
        Split(np.zeros(4, np.int8)).rows("val")
    assert "val=0 does without" in refused.value.hint
