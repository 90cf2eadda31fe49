from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.stream import OverlapResult, compute_overlap


def test_by_hand():
    result = compute_overlap({"a": {"x", "y"}, "b": ["y", "z", "z"], "none": set()})
    assert isinstance(result, OverlapResult)
    assert result.count_matrix.loc["a"].tolist() == [2, 1, 0]
    assert result.jaccard_matrix.loc["a"].tolist() == [1, 1 / 3, 0]
    assert result.jaccard_matrix.loc["none", "none"] == 0.0
    assert result.set_sizes.to_dict() == {"a": 2, "b": 2, "none": 0}
    assert result.count_matrix.dtypes.unique().tolist() == [np.int64]
    assert result.jaccard_matrix.dtypes.unique().tolist() == [np.float64]


def test_the_matrix_not_asked_for_is_zeros():
    sets = {"a": {1}, "b": {1, 2}}
    both = compute_overlap(sets)
    count, jaccard = compute_overlap(sets, metric="count"), compute_overlap(sets, metric="jaccard")
    assert not count.jaccard_matrix.any(axis=None)
    assert not jaccard.count_matrix.any(axis=None)
    assert count.count_matrix.equals(both.count_matrix)
    assert jaccard.jaccard_matrix.equals(both.jaccard_matrix)
    with pytest.raises(ValueError, match="none of both, count, jaccard"):
        compute_overlap(sets, metric="dice")


def test_no_sets():
    assert compute_overlap({}).count_matrix.shape == (0, 0)


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(0, 9)), max_size=6))
def test_every_pair_is_what_python_sets_say_and_symmetric(lists):
    result = compute_overlap(lists)
    assert list(result.count_matrix.index) == list(result.count_matrix.columns) == list(lists)
    for i, one in enumerate(lists.values()):
        for j, other in enumerate(lists.values()):
            common, either = len({*one} & {*other}), len({*one} | {*other})
            assert result.count_matrix.iloc[i, j] == common
            assert result.jaccard_matrix.iloc[i, j] == (common / either if either else 0)
    assert np.array_equal(result.count_matrix, result.count_matrix.T)
    assert np.array_equal(result.jaccard_matrix, result.jaccard_matrix.T)
    assert np.array_equal(np.diag(result.count_matrix), result.set_sizes)
