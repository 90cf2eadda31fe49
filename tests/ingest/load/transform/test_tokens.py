"""Tokens, each against the plain way of saying what it is."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.load.transform import BinnedTokens, Compose, DirectTokens, LogTokens, NormalizeLog1p
from ingest.testing.windows import DTYPES, fresh, rows_of, window_of, windows

VALUES = st.floats(0, 1e6, width=32) | st.sampled_from([0.25, 0.5, 1, 1.5, 2, 2.0**24])


def tokens(transform, window) -> list[list[int]]:
    result = transform(fresh(window))
    assert result.data.dtype == np.int32
    assert result.indices.tolist() == window.indices.tolist()
    assert result.data.max(initial=0) < transform.n_tokens
    return [values for _, values in rows_of(result)]


def values_of(window) -> list[list[float]]:
    return [values for _, values in rows_of(window)]


@given(windows(), st.integers(2, 300))
def test_direct_tokens_are_counts_up_to_the_last(window, n_tokens):
    assert tokens(DirectTokens(n_tokens), window) == [[min(v, n_tokens - 1) for v in row] for row in values_of(window)]


@pytest.mark.parametrize("bad", [0.5, 2.25, -1.0, math.nan, math.inf])
def test_direct_tokens_of_what_is_no_count_are_refused(bad):
    window = window_of([[1, 2], [3, 1]])
    window.data[2] = bad
    if bad == math.inf:
        assert tokens(DirectTokens(5), window) == [[1, 2], [4, 1]]
        return
    with pytest.raises(ConfigError, match=rf"DirectTokens\(n_tokens=5\) of {bad!r}: direct tokens are whole counts"):
        DirectTokens(5)(window)


def test_direct_tokens_after_normalising_are_refused():
    with pytest.raises(ConfigError, match="whole counts") as refused:
        Compose([NormalizeLog1p(), DirectTokens(5)])(window_of([[1, 2], [3, 1]]))
    assert "leave out what normalises" in refused.value.hint


def log_token(value, n_tokens, base) -> int:
    """Count the powers that a value reaches, in fractions: no logarithm is exact."""
    if value == 0:
        return 0
    power, token = Fraction(base), 1
    while token < n_tokens - 1 and Fraction(value) >= power:
        power, token = power * Fraction(base), token + 1
    return token


@given(windows() | windows(values=VALUES), st.integers(2, 40), st.sampled_from([2, 10, 1.5, 3.0]))
def test_log_tokens_are_orders_of_magnitude(window, n_tokens, base):
    expected = [[log_token(v, n_tokens, base) for v in row] for row in values_of(window)]
    assert tokens(LogTokens(n_tokens, base), window) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_power_is_its_own_token(dtype):
    """log(1000)/log(10) is 2.9999999999999996."""
    powers = [10**k for k in range(10)]
    assert tokens(LogTokens(99, 10), window_of([powers], dtype)) == [list(range(1, 11))]
    assert tokens(LogTokens(99), window_of([[1, 2, 3, 4, 7, 8, 255, 256, 2**30]], dtype)) == [
        [1, 2, 2, 3, 3, 4, 8, 9, 31]
    ]


def test_log_tokens_of_any_finite_number_and_any_size_of_vocabulary():
    assert tokens(LogTokens(2**20, 1.0001), window_of([[1.0, np.finfo(np.float32).max]]))[0][0] == 1
    assert tokens(LogTokens(2**20, 2), window_of([[1e-30, np.finfo(np.float32).max]])) == [[1, 128]]


def quantile_bin(value, row, n_bins) -> int:
    """Count the edges that `value` reaches, each an interpolated quantile, in fractions."""
    ordered = sorted(Fraction(v) for v in row if v > 0)
    reached = 0
    for step in range(n_bins - 1):
        position = Fraction(step * (len(ordered) - 1), n_bins - 2) if n_bins > 2 else Fraction(0)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        edge = ordered[low] + (ordered[high] - ordered[low]) * (position - low)
        reached += Fraction(value) >= edge
    return reached


@given(windows() | windows(values=VALUES), st.integers(2, 60))
def test_quantile_bins_are_the_edges_reached(window, n_bins):
    expected = [[quantile_bin(v, row, n_bins) if v else 0 for v in row] for row in values_of(window)]
    assert tokens(BinnedTokens(n_bins), window) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_bins", [3, 4, 6, 10, 18, 34, 66])
def test_quantile_bins_are_numpys(n_bins, dtype):
    """A power of two of steps: numpy's positions have no rounding then."""
    rng = np.random.default_rng(n_bins)
    rows = np.where(rng.random((40, 300)) < 0.4, rng.negative_binomial(0.4, 0.01, (40, 300)) + 1, 0)
    rows[0], rows[1, 1:] = 0, 0
    for row, found in zip(rows, tokens(BinnedTokens(n_bins), window_of(rows, dtype)), strict=True):
        values = row[row > 0]
        if len(values):
            edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
            assert found == np.digitize(values, edges).tolist()


@given(windows(values=st.integers(0, 1000).map(float)), st.integers(2, 60))
def test_quantile_bins_need_no_normalising(window, n_bins):
    binned = BinnedTokens(n_bins)
    normalised = rows_of(Compose([NormalizeLog1p(), binned])(fresh(window)))
    assert rows_of(binned(fresh(window))) == normalised


def test_counts_and_fractions_in_one_cell_are_ordered_together():
    """Counts below the table's size come first, and fractions after them make all of them values like any other."""
    assert tokens(BinnedTokens(7), window_of([[1, 2, 3, 1.5, 300, 299.5], [1, 1, 2, 2, 2, 2]])) == [
        [1, 3, 4, 2, 6, 5],
        [2, 2, 6, 6, 6, 6],
    ]


@given(windows() | windows(values=VALUES), st.integers(2, 60))
def test_uniform_bins_are_intervals_below_the_largest(window, n_bins):
    expected = [
        [math.ceil(Fraction(v) * (n_bins - 1) / Fraction(max(row))) if v else 0 for v in row]
        for row in values_of(window)
    ]
    assert tokens(BinnedTokens(n_bins, "uniform"), window) == expected


@given(
    windows() | windows(values=VALUES),
    st.lists(st.sampled_from([0.5, 1, 2, 2.5, 255, 256, 257.5, 1e5]), max_size=5, unique=True).map(sorted),
)
def test_given_edges_hold_for_every_cell(window, edges):
    expected = [[1 + sum(v >= edge for edge in edges) if v else 0 for v in row] for row in values_of(window)]
    assert tokens(BinnedTokens(len(edges) + 2, tuple(edges)), window) == expected


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DirectTokens(1), "n_tokens 1: from 2, one of them for zero"),
        (lambda: LogTokens(0), "n_tokens 0: from 2"),
        (lambda: LogTokens(2**30), "to 16,777,216"),
        (lambda: LogTokens(5, 1.0), "base 1.0: a number above 1"),
        (lambda: LogTokens(5, math.nan), "base nan"),
        (lambda: BinnedTokens(1), "n_bins 1: from 2"),
        (lambda: BinnedTokens(5, "quantiles"), "edges 'quantiles': 'quantile', 'uniform' or numbers"),
        (lambda: BinnedTokens(5, (1.0, 2.0)), "2 edges make 4 bins with that of zero, not 5"),
        (lambda: BinnedTokens(4, (2.0, 1.0)), "ascending numbers above zero"),
        (lambda: BinnedTokens(3, (0.0,)), "ascending numbers above zero"),
        (lambda: BinnedTokens(3, (math.nan,)), "ascending numbers above zero"),
        (lambda: BinnedTokens(3, (math.inf,)), "ascending numbers above zero"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ConfigError) as refused:
        make()
    assert said in str(refused.value)
    assert refused.value.kind == "bad-transform"
