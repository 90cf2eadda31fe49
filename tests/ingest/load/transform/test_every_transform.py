"""What holds of every transform, whatever it does."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.registry import CPUDispatcher

from ingest.block import concat_counts
from ingest.load.transform import (
    BinnedTokens,
    Compose,
    DirectTokens,
    Log1p,
    LogTokens,
    Normalize,
    NormalizeLog1p,
    PerGene,
    RankOrder,
    kernels,
)
from ingest.load.transform.base import goes_by_totals, totals_of
from ingest.testing.examples import examples
from ingest.testing.windows import DTYPES, fresh, rows_of, window_of, windows

TRANSFORMS = [
    Normalize(),
    Log1p(),
    NormalizeLog1p(500.0),
    DirectTokens(7),
    LogTokens(5),
    LogTokens(40, base=1.5),
    BinnedTokens(2),
    BinnedTokens(6),
    BinnedTokens(51),
    BinnedTokens(6, "uniform"),
    BinnedTokens(5, (1.5, 3, 256)),
    RankOrder(3),
    Compose([]),
    Compose([NormalizeLog1p(), BinnedTokens(6)]),
    Compose([Compose([Normalize()]), LogTokens(9)]),
]
every = pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)


def same(one, other) -> bool:
    return (one.n_genes, one.data.dtype, rows_of(one)) == (other.n_genes, other.data.dtype, rows_of(other))


@every
@settings(max_examples=examples(6))
@given(window=windows(), data=st.data())
@pytest.mark.sampled(2)
def test_each_cell_is_treated_by_itself(transform, window, data):
    whole = transform(fresh(window))
    cut = data.draw(st.integers(0, window.n_cells))
    parts = [transform(fresh(window.rows(*ends))) for ends in ((0, cut), (cut, window.n_cells))]
    assert same(whole, concat_counts(parts))
    assert whole.n_cells == window.n_cells


@every
@settings(max_examples=examples(6))
@given(window=windows())
def test_zero_becomes_zero_and_nothing_else_does(transform, window):
    before, after = rows_of(window), rows_of(transform(fresh(window)))
    for (indices, values), (kept, results) in zip(before, after, strict=True):
        given_values = dict(zip(indices, values, strict=True))
        assert len(set(kept)) == len(kept)
        for index, result in zip(kept, results, strict=True):
            assert (result != 0) == (given_values[index] != 0)
            assert result >= 0


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_cells_and_empty_cells(transform, dtype):
    for rows in (np.empty((0, 4)), np.zeros((3, 4))):
        result = transform(window_of(rows, dtype))
        assert (result.n_cells, result.nnz, result.n_genes) == (len(rows), 0, 4)
    padded = transform(window_of([[0, 0], [3, 0], [0, 0]], dtype))
    assert np.diff(padded.indptr).tolist() == [0, 1, 0]


@every
@pytest.mark.sampled(2)
def test_memory_that_must_not_be_written_is_left_alone(transform):
    window = window_of([[1, 2, 3], [0, 300, 2]])
    for array in (window.indptr, window.indices, window.data):
        array.flags.writeable = False
    before = rows_of(window)
    result = transform(window)
    assert rows_of(window) == before
    assert same(result, transform(fresh(window)))


@every
def test_it_is_a_value(transform):
    travelled = pickle.loads(pickle.dumps(transform))  # noqa: S301
    assert travelled == transform
    assert hash(travelled) == hash(transform)
    assert eval(repr(transform)) == transform  # noqa: S307
    for field in dataclasses.fields(transform):
        with pytest.raises(AttributeError):
            setattr(transform, field.name, 1)


def test_settings_differ():
    assert len(set(TRANSFORMS)) == len(TRANSFORMS)


def test_values_are_written_where_they_were():
    """New pages for a window cost as much as the arithmetic."""
    window = window_of([[1, 2, 3], [0, 300, 2]])
    for transform in (NormalizeLog1p(), BinnedTokens(6), RankOrder(2), LogTokens(5), DirectTokens(9)):
        given_window = fresh(window)
        assert np.shares_memory(transform(given_window).data, given_window.data), transform


def test_no_kernel_holds_the_gil():
    """Transforms run in a thread beside the one that trains."""
    compiled = [value for value in vars(kernels).values() if isinstance(value, CPUDispatcher)]
    assert len(compiled) >= len(kernels.__all__) - 1
    assert all(kernel.targetoptions["nogil"] for kernel in compiled)


def test_totals_are_those_handed_over():
    window = window_of([[1, 2, 3], [0, 0, 0], [4, 0, 5]], np.uint16)
    assert totals_of(window, None).tolist() == [6, 0, 9]
    assert totals_of(window, np.array([60.0, 1.0, 90.0])).tolist() == [60, 1, 90]
    with pytest.raises(ValueError, match="2 totals for 3 cells"):
        totals_of(window, np.zeros(2))


@every
@given(window=windows(), data=st.data())
@settings(max_examples=15)
def test_only_who_says_so_goes_by_totals(transform, window, data):
    own = totals_of(window, None)
    without, own_result = transform(fresh(window)), transform(fresh(window), own)
    assert same(without, own_result)
    others = own * data.draw(st.sampled_from([2.0, 7.0])) + 1
    if not goes_by_totals(transform):
        assert same(without, transform(fresh(window), others))


@given(windows())
def test_totals_are_exact(window):
    assert totals_of(window, None).tolist() == [float(sum(values)) for _, values in rows_of(window)]


def test_who_goes_by_totals():
    wanting = [transform for transform in TRANSFORMS if goes_by_totals(transform)]
    assert [type(transform) for transform in wanting] == [Normalize, NormalizeLog1p, Compose, Compose]
    assert not goes_by_totals(lambda counts: counts)


def test_a_setting_per_gene_is_a_value():
    numbers = PerGene(np.array([1.0, 2.0]))
    assert numbers == PerGene(np.array([1.0, 2.0], np.float32))
    assert numbers != PerGene(np.array([1, 2]))  # whole numbers are tokens
    assert numbers != "PerGene"
    assert len({numbers, PerGene(np.array([1.0, 2.0]))}) == 1
    assert repr(numbers).startswith("PerGene(float64 of 2 genes, sha256 ")
    assert pickle.loads(pickle.dumps(numbers)) == numbers  # noqa: S301
    assert not numbers.values.flags.writeable
