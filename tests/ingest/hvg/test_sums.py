"""Sums are exact and moments rounded once: fractions of whole numbers and 80-bit floats are the judges."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.hvg.kernels import WORDS, add_clipped, add_counts, add_fractions, add_limbs, add_normalised
from ingest.hvg.sums import BatchSums, shift_for, whole_sums

MOST = 2**31 - 1
COUNTS = st.one_of(st.just(0), st.integers(1, 9), st.integers(0, MOST), st.sampled_from([MOST, MOST - 1, 2**16, 1]))


def csr(columns, dtype=np.int64):
    """Return indptr, indices, data of a dense ``(n_cells, n_genes)`` array, zeros left out."""
    dense = np.atleast_2d(np.asarray(columns, dtype))
    indptr = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))]).astype(np.int64)
    return indptr, np.nonzero(dense)[1].astype(np.int32), dense[dense != 0]


def summed(dense, kernel=add_counts, *, shift=0, options=(), dtype=np.int64) -> BatchSums:
    """Add all rows as one batch."""
    indptr, indices, data = csr(dense, dtype)
    n_cells = len(indptr) - 1
    state = BatchSums(np.shape(dense)[1], shift)
    place = state.places(["all"], [n_cells])
    kernel(indptr, indices, data, np.full(n_cells, place[0], np.int32), *options, state.limbs)
    return state


def true_moments(values) -> tuple[float, float]:
    """Return mean and variance of one column, both the nearest float64 to the exact ones."""
    exact = [Fraction(value) for value in values]
    n = len(exact)
    mean = sum(exact) / n
    return float(mean), float(sum((value - mean) ** 2 for value in exact) / (n - 1))


@given(st.lists(st.lists(COUNTS, min_size=2, max_size=2), min_size=2, max_size=30))
def test_moments_of_counts_are_the_exact_ones_rounded_once(rows):
    moments = summed(rows).moments("all")
    for gene, column in enumerate(zip(*rows, strict=True)):
        assert (moments.mean[gene], moments.variance[gene]) == true_moments(column)
        assert moments.detected[gene] == sum(count > 0 for count in column)


ADVERSARIAL = {
    "huge mean, tiny variance": [MOST - 1] * 4_999 + [MOST],
    "one giant count": [0] * 4_999 + [MOST],
    "all giant": [MOST] * 5_000,
    "two values far apart": [1, MOST] * 2_500,
    "one count": [0] * 4_999 + [1],
}


@pytest.mark.parametrize("column", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_adversarial_columns_against_80_bit_floats(column):
    moments = summed(np.array(column)[:, None]).moments("all")
    wide = np.array(column, np.longdouble)
    mean = wide.mean()
    variance = ((wide - mean) ** 2).sum() / (len(wide) - 1)
    assert moments.mean[0] == pytest.approx(float(mean), rel=1e-15)
    assert moments.variance[0] == pytest.approx(float(variance), rel=1e-12, abs=0)
    assert (moments.mean[0], moments.variance[0]) == true_moments(column)


def test_what_the_textbook_formula_makes_of_them():
    """The defence is needed: sums in float64 lose the variance altogether."""
    column = np.array(ADVERSARIAL["huge mean, tiny variance"], np.float64)
    naive = (np.square(column).sum() - column.sum() ** 2 / len(column)) / (len(column) - 1)
    true = true_moments(column.astype(int).tolist())[1]
    assert naive != pytest.approx(true, rel=0.5)
    assert summed(column[:, None]).moments("all").variance[0] == true == pytest.approx(2e-4)


@given(st.data())
def test_any_cut_and_any_order_of_merging_gives_the_same_bits(data):
    n_cells = data.draw(st.integers(2, 24))
    dense = np.array(data.draw(st.lists(st.lists(COUNTS, min_size=3, max_size=3), min_size=n_cells, max_size=n_cells)))
    labels = data.draw(st.lists(st.sampled_from("abc"), min_size=n_cells, max_size=n_cells))
    cuts = sorted({0, n_cells, *data.draw(st.lists(st.integers(0, n_cells)))})
    parts = [of_batches(dense[a:b], labels[a:b]) for a, b in pairwise(cuts)]
    merged = BatchSums(3)
    for part in data.draw(st.permutations(parts)):
        merged.merge(part)
    whole = of_batches(dense, labels)
    assert set(merged.labels) == set(labels)
    for label in whole.labels:
        a, b = merged.limbs[merged.labels.index(label)], whole.limbs[whole.labels.index(label)]
        assert np.array_equal(a, b)
        assert merged.moments(label).n_cells == labels.count(label)
    assert np.array_equal(merged.total_moments().variance, summed(dense).moments("all").variance)


def of_batches(dense, labels) -> BatchSums:
    state = BatchSums(dense.shape[1])
    names = list(dict.fromkeys(labels))
    places = state.places(names, [labels.count(name) for name in names])
    indptr, indices, data = csr(dense)
    add_counts(indptr, indices, data, places[[names.index(label) for label in labels]], state.limbs)
    return state


@given(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=6), st.lists(st.integers(0, 2**190), min_size=6))
def test_limbs_carry(sums, squares):
    def words(total, square):
        parts = [7, total & 2**64 - 1, total >> 64, square & 2**64 - 1, square >> 64 & 2**64 - 1, square >> 128]
        return np.array([parts], np.uint64)

    into = np.zeros((1, WORDS), np.uint64)
    pairs = list(zip(sums, squares, strict=False))
    for total, square in pairs:
        other = words(total, square)
        other.flags.writeable = False  # as what has travelled through Ray is
        add_limbs(into, other)
    (total,), (square,) = whole_sums(into)
    assert total == sum(total for total, _ in pairs) % 2**128
    assert square == sum(square for _, square in pairs) % 2**192
    assert into[0, 0] == 7 * len(pairs)


@pytest.mark.parametrize("start", [2**64 - 1, 2**64 - 2**62, 0])
def test_adding_carries_into_the_next_word(start):
    for kernel, options, value in ((add_counts, (), MOST), (add_fractions, (1.0,), 2**62 - 512)):
        limbs = np.zeros((1, 1, WORDS), np.uint64)
        limbs[0, 0] = [0, start, 0, start, 2**64 - 1, 0]
        indptr, indices, data = csr([[value]], np.float64)
        kernel(indptr, indices, data, np.zeros(1, np.int32), *options, limbs)
        (total,), (square,) = whole_sums(limbs[0])
        assert total == start + value
        if kernel is add_fractions:
            assert square == start + ((2**64 - 1) << 64) + value**2
        else:  # two words hold the squares of every count that there can be
            assert square & (2**128 - 1) == (start + ((2**64 - 1) << 64) + value**2) & (2**128 - 1)


@given(st.lists(st.floats(0, 2.0**20, width=32), min_size=2, max_size=20), st.integers(20, 24))
def test_fractions_are_multiples_of_the_unit_and_exact_from_there(values, bits):
    shift = shift_for(2.0**bits)
    state = summed(np.array(values)[:, None], add_fractions, shift=shift, options=(2.0**shift,), dtype=np.float64)
    rounded = [Fraction(round(Fraction(value) * 2**shift), 2**shift) for value in values]
    moments = state.moments("all")
    if any(values):
        assert (moments.mean[0], moments.variance[0]) == true_moments(rounded)
    for value, near in zip(values, rounded, strict=True):
        assert value == near or value < 2.0 ** (53 - shift)


def test_a_value_above_the_bound_is_told_and_never_wrapped():
    indptr, indices, data = csr([[1.0], [2.0**40], [math.nan]], np.float64)
    limbs, batches = np.zeros((1, 1, WORDS), np.uint64), np.zeros(3, np.int32)
    assert add_fractions(indptr, indices, data, batches, 2.0 ** shift_for(1.0), limbs) == 1
    assert add_fractions(indptr[[0, 1]], indices, data, batches, 2.0 ** shift_for(1.0), limbs) == -1
    assert add_fractions(np.array([0, 1]), indices, data[2:], batches, 1.0, limbs) == 0


@pytest.mark.parametrize("logarithm", [True, False])
def test_normalised_values_are_the_float64_formula_summed_exactly(logarithm):
    rng = np.random.default_rng(3)
    dense = rng.geometric(0.02, (60, 7)) * (rng.random((60, 7)) < 0.6)  # above and below the table's 256
    dense[5] = 0
    totals = dense.sum(axis=1)
    target = 1234.5
    factors = totals / target
    shift = shift_for(math.log1p(target) if logarithm else target)
    state = summed(dense, add_normalised, shift=shift, options=(factors, logarithm, 2.0**shift), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        values = np.nan_to_num(dense / factors[:, None])
    values = np.array([[math.log1p(value) for value in row] for row in values]) if logarithm else values
    moments = state.moments("all")
    for gene in range(7):
        exact = [Fraction(round(Fraction(value) * 2**shift), 2**shift) for value in values[:, gene].tolist()]
        assert (moments.mean[gene], moments.variance[gene]) == true_moments(exact)


def test_fractional_counts_do_not_share_the_table_of_whole_ones():
    dense = np.array([[1.0, 1.5, 1.25, 1.0]])
    shift = shift_for(10.0)
    state = summed(dense, add_normalised, shift=shift, options=(np.ones(1), False, 2.0**shift), dtype=np.float64)
    assert state.moments("all").mean.tolist() == dense[0].tolist()


def test_clipped_sums_count_what_is_above_and_add_the_rest():
    dense = np.array([[1, 9], [2, 3], [3, 0], [4, 5]])
    indptr, indices, data = csr(dense, np.float32)
    limbs = np.zeros((2, 2, WORDS), np.uint64)
    limits = np.array([[2.0, 8.9], [3.5, 5.0]])
    add_clipped(indptr, indices, data, np.array([0, 0, 1, 1], np.int32), limits, limbs)
    assert limbs[0].tolist() == [[0, 3, 0, 5, 0, 0], [1, 3, 0, 9, 0, 0]]
    assert limbs[1].tolist() == [[1, 3, 0, 9, 0, 0], [0, 5, 0, 25, 0, 0]]


def test_one_cell_has_no_variance_and_unseen_genes_have_none_of_anything():
    one = summed(np.array([[3, 0]])).moments("all")
    assert np.isnan(one.variance).all()
    two = summed(np.array([[3, 0], [5, 0]])).moments("all")
    assert two.variance.tolist() == [2.0, 0.0]
    assert two.dispersion[0] == 0.5
    assert np.isnan(two.dispersion[1])


def test_sums_of_other_units_are_not_merged():
    with pytest.raises(ValueError, match="other units"):
        BatchSums(3, 1).merge(BatchSums(3, 2))
