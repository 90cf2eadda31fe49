"""Samplers are values; weighted ones draw as often as they say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, EmptySelectionError
from ingest.load.order.epoch import Batching
from ingest.load.order.samplers import Sequential, Shuffled, Weighted, balanced_weights

CUT = Batching(16, 4, 64)


def drawn(sampler, epoch=0, **ranks):
    return np.concatenate([window.rows for window in sampler.epoch(epoch, **ranks).windows()])


@given(
    weights=st.lists(st.just(0.0) | st.floats(1e-3, 1e3), min_size=1, max_size=60).filter(any),
    n_draws=st.none() | st.integers(1, 300),
    seed=st.integers(0, 1 << 30),
)
def test_each_cell_as_often_as_its_weight_says(weights, n_draws, seed):
    sampler = Weighted(len(weights), CUT, seed, None, np.array(weights), n_draws)
    rows = drawn(sampler)
    assert len(rows) == (n_draws or len(weights))
    share = np.array(weights) / sum(weights) * len(rows)
    times = np.bincount(rows, minlength=len(weights))
    assert (times >= np.floor(share - 1e-6)).all()
    assert (times <= np.ceil(share + 1e-6)).all()
    assert (times[np.array(weights) == 0] == 0).all()


def test_over_epochs_the_mean_is_the_weight():
    weights = np.array([0.1, 0.25, 1.0, 3.3, 0.0, 0.35])
    sampler = Weighted(6, CUT, 1, None, weights, 5)
    times = sum(np.bincount(drawn(sampler, epoch), minlength=6) for epoch in range(2000)) / 2000
    np.testing.assert_allclose(times, weights, atol=0.05)


def test_weighted_epochs_differ_and_are_repeatable():
    sampler = Weighted(200, CUT, 3, None, np.linspace(0.1, 2, 200))
    assert drawn(sampler, 1).tolist() == drawn(Weighted(200, CUT, 3, None, np.linspace(0.1, 2, 200)), 1).tolist()
    assert sorted(drawn(sampler, 1).tolist()) != sorted(drawn(sampler, 2).tolist())


def test_weighted_over_ranks():
    sampler = Weighted(100, CUT, 3, None, np.linspace(0, 2, 100), 330)
    parts = [drawn(sampler, 4, rank=rank, world_size=3) for rank in range(3)]
    assert {len(part) for part in parts} == {110}
    assert sorted(np.concatenate(parts).tolist()) == sorted(drawn(sampler, 4).tolist())


def test_weighted_of_chosen_cells():
    chosen = np.array([5, 50, 99])
    rows = drawn(Weighted(100, CUT, 0, chosen, np.array([1.0, 0, 3]), 40))
    assert np.bincount(rows, minlength=100)[[5, 50, 99]].tolist() == [10, 0, 30]


@given(codes=st.lists(st.integers(-1, 4), min_size=1, max_size=80).filter(lambda c: max(c) >= 0))
def test_balanced_classes_come_equally_often(codes):
    weights = balanced_weights(np.array(codes), tuple("abcde"))
    present = sorted({code for code in codes if code >= 0})
    shares = [weights[np.array(codes) == code].sum() for code in present]
    np.testing.assert_allclose(shares, 1.0)
    assert (weights[np.array(codes) < 0] == 0).all()


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1, 0], [0.0, 0, 0], [1.0, np.nan, 1], [np.inf, 1, 1]], ids=str)
def test_weights_that_cannot_be(weights):
    with pytest.raises(ConfigError) as raised:
        Weighted(3, CUT, 0, None, np.array(weights))
    assert raised.value.kind == "bad-weights"


@pytest.mark.parametrize("n_draws", [0, -5])
def test_an_epoch_of_no_draws(n_draws):
    with pytest.raises(ConfigError):
        drawn(Weighted(3, CUT, 0, None, np.ones(3), n_draws))


def test_no_cells():
    with pytest.raises(EmptySelectionError, match="no cell is left"):
        Shuffled(5, CUT, 0, np.empty(0, np.int64))


@pytest.mark.parametrize("wrong", [-1, 5])
def test_cells_that_are_not_there(wrong):
    with pytest.raises(ConfigError, match="from 0 to 4"):
        Sequential(5, CUT, 0, np.array([0, wrong]))


def test_identity_tells_orders_apart():
    """Whatever changes the order changes what a position is compared by."""
    chosen = np.array([1, 2, 3])
    different = [
        Shuffled(9, CUT),
        Sequential(9, CUT),
        Shuffled(10, CUT),
        Shuffled(9, CUT, 1),
        Shuffled(9, Batching(17, 4, 64)),
        Shuffled(9, Batching(16, 5, 64)),
        Shuffled(9, Batching(16, 4, 65)),
        Shuffled(9, Batching(16, 4, 64, drop_last=True)),
        Shuffled(9, CUT, 0, chosen),
        Shuffled(9, CUT, 0, chosen + 1),
        Weighted(9, CUT, 0, None, np.ones(9)),
        Weighted(9, CUT, 0, None, np.arange(9.0)),
        Weighted(9, CUT, 0, None, np.ones(9), 7),
    ]
    said = [repr(sorted(sampler.identity().items(), key=str)) for sampler in different]
    assert len(set(said)) == len(said)


def test_identity_is_plain_json():
    import json

    for sampler in (Shuffled(9, CUT, 0, np.array([4, 7])), Weighted(9, CUT, 0, None, np.ones(9), 5)):
        assert json.loads(json.dumps(sampler.identity())) == sampler.identity()


def test_a_sampler_travels():
    sampler = Shuffled(90, CUT, 7, np.arange(3, 60))
    assert drawn(pickle.loads(pickle.dumps(sampler)), 2).tolist() == drawn(sampler, 2).tolist()  # noqa: S301 # our own
