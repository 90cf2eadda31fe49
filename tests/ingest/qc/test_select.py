"""Order statistics by counting digits: numpy's answers, however the values are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.qc.select import median, order_statistics, quantiles

values = st.lists(st.floats(0, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1)


def cut(numbers: list[float], size: int):
    array = np.array(numbers, np.float64)
    return lambda: (array[at : at + size] for at in range(0, len(array), size))


@given(values, st.integers(1, 9), st.data())
def test_every_rank_is_the_sorted_values(numbers, size, data):
    ranks = data.draw(st.lists(st.integers(0, len(numbers) - 1), max_size=5))
    assert order_statistics(cut(numbers, size), ranks) == [sorted(numbers)[rank] for rank in ranks]


@given(st.lists(st.floats(0, 1e9), min_size=1), st.integers(1, 9))
def test_medians_and_quantiles_are_numpys(numbers, size):
    pieces = cut(numbers, size)
    assert median(pieces, len(numbers)) == np.median(numbers)
    shares = [0.0, 0.01, 0.25, 0.5, 0.9, 1.0]
    assert quantiles(pieces, len(numbers), shares) == pytest.approx(np.quantile(numbers, shares), rel=1e-12)


def test_pieces_that_are_views_with_steps():
    array = np.arange(12.0).reshape(3, 4)
    assert order_statistics(lambda: iter([array[:, 1], array[:, 3]]), [0, 5]) == [1.0, 11.0]


def test_of_nothing_there_is_none():
    assert math.isnan(median(lambda: iter(()), 0))
    assert all(map(math.isnan, quantiles(lambda: iter(()), 0, [0.5, 1.0])))
