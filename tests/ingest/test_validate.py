"""Each rule of the validation, where it was broken, and agreement with numpy on what is sound."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.block import Counts
from ingest.errors import HostileFileError, NotCountsError
from ingest.testing.examples import examples
from ingest.validate import check_counts, check_rows, row_sums, value_fault


def counts_of(indptr, indices, data, n_genes=10, dtype=np.float32, index_type=np.int32) -> Counts:
    return Counts(np.array(indptr, np.int64), np.array(indices, index_type), np.array(data, dtype), n_genes)


@pytest.mark.parametrize(
    ("indptr", "indices", "kind", "match"),
    [
        ([], [1, 2], "indptr-start", "is empty"),
        ([1, 2], [1, 2], "indptr-start", "starts at 1"),
        ([-1, 2], [1, 2], "indptr-start", "starts at -1"),
        ([0, 2, 1, 2], [1, 2], "indptr-order", "falls from 2 to 1 at 1"),
        ([0, -5, 2], [1, 2], "indptr-order", "falls from 0 to -5 at 0"),
        ([0, 1], [1, 2], "indptr-end", "ends at 1, but 2"),
        ([0, 2**62], [1, 2], "indptr-end", "but 2 entries"),
        ([0, 1, 2], [1, 10], "index-range", "row 1: column 10 of 10"),
        ([0, 0, 2], [-1, 2], "index-range", "row 1: column -1"),
        ([0, 2], [1, 1], "duplicate-entry", "row 0: column 1 stands twice"),
        ([0, 2], [2, 1], "unsorted-row", "row 0: columns do not ascend at 2"),
        ([0, 2], [1, 2, 3], "matrix-lengths", "3 indices for 2 values"),
    ],
)
def test_structure(indptr, indices, kind, match):
    with pytest.raises(HostileFileError, match=match) as caught:
        check_counts(counts_of(indptr, indices, [1, 1]), source="x.h5ad")
    assert (caught.value.kind, caught.value.source) == (kind, "x.h5ad")


@pytest.mark.parametrize(
    ("value", "dtype", "kind"),
    [
        (np.nan, "f4", "nan"),
        (np.inf, "f8", "infinite"),
        (-np.inf, "f4", "infinite"),
        (-1, "f4", "negative"),
        (-1, "i4", "negative"),
        (-(2**40), "i8", "negative"),
        (-(2.0**31), "f4", "negative"),
        (-0.5, "f8", "negative"),
        (0.5, "f4", "fractional"),
        (2**24 - 0.5, "f8", "fractional"),
        (2.0**31, "f4", "count-overflow"),
        (2**31, "i8", "count-overflow"),
        (1e30, "f4", "count-overflow"),
    ],
)
@pytest.mark.parametrize("place", [0, 8191, 8192, 20_000])
def test_values(value, dtype, kind, place):
    counts = counts_of([0, 0, 20_001], np.arange(20_001), np.ones(20_001), 20_001, dtype)
    counts.data[place] = value
    with pytest.raises(NotCountsError, match=f"row 1, column {place} holds") as caught:
        check_counts(counts, source="x.h5ad")
    assert caught.value.kind == kind


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_allowed_fractions_still_exclude(value):
    with pytest.raises(NotCountsError, match="row 1, column 3"):
        check_counts(counts_of([0, 1, 2], [1, 3], [0.5, value]), source="x", allow_noninteger=True)


def test_allowed_fractions():
    summary = check_counts(counts_of([0, 1, 2], [1, 3], [0.5, 2]), source="x", allow_noninteger=True)
    assert (summary.total, summary.maximum, summary.integer) == (2.5, 2.0, False)
    summary = check_counts(counts_of([0, 1, 2], [1, 3], [3, 2]), source="x", allow_noninteger=True)
    assert (summary.total, summary.maximum, summary.integer) == (5, 3, True)
    assert isinstance(summary.total, int)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u2"])
def test_the_largest_values_are_summed_exactly(dtype):
    largest = {"f4": 2**31 - 128, "u2": 65_535}.get(dtype, 2**31 - 1)
    summary = check_counts(counts_of([0, 3], [1, 2, 3], [largest, largest, 0], dtype=dtype), source="x")
    assert (summary.total, summary.maximum, summary.n_zeros, summary.nnz) == (2 * largest, largest, 1, 3)
    assert isinstance(summary.maximum, int)


def test_nothing_stored():
    summary = check_counts(counts_of([0, 0, 0], [], [], n_genes=0), source="x")
    assert (summary.total, summary.maximum, summary.nnz) == (0, 0, 0)
    assert check_counts(counts_of([0], [], []), source="x", allow_noninteger=True).nnz == 0


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(0, 30), st.integers(1, 300), st.integers(0, 2**32), st.sampled_from(["f4", "f8", "i4", "i8", "u2"]))
def test_sound_counts_agree_with_numpy(n_cells, n_genes, seed, dtype):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 60_000, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.4)
    csr = sp.csr_matrix(matrix)
    counts = counts_of(csr.indptr, csr.indices, csr.data, n_genes, dtype, rng.choice([np.int32, np.int64]))
    summary = check_counts(counts, source="x")
    assert (summary.total, summary.maximum, summary.nnz) == (matrix.sum(), matrix.max(initial=0), csr.nnz)
    sums, nnz = row_sums(counts)
    np.testing.assert_array_equal(sums, matrix.sum(axis=1))
    np.testing.assert_array_equal(nnz, (matrix != 0).sum(axis=1))
    assert (sums.dtype, nnz.dtype) == (np.float64 if dtype[0] == "f" else np.int64, np.int32)


@settings(max_examples=examples(12), deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([("f4", 1), ("f8", 1), ("i4", 1), ("u2", 1), ("f4", 4), ("f8", 4)]))
def test_rows_in_pieces_add_up(seed, kind):
    dtype, divisor = kind
    rng = np.random.default_rng(seed)
    matrix = (rng.integers(0, 60_000, (20, 50)) * (rng.random((20, 50)) < 0.4)) / divisor
    csr = sp.csr_matrix(matrix)
    counts = counts_of(csr.indptr, csr.indices, csr.data, 50, dtype)
    cuts = np.sort(rng.integers(0, 21, 3)).tolist()
    found = [
        check_rows(counts.rows(first, last), source="x", allow_noninteger=True, first_row=first)
        for first, last in zip([0, *cuts], [*cuts, 20], strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate([part.sums for part in found]), matrix.sum(axis=1))
    np.testing.assert_array_equal(np.concatenate([part.nnz for part in found]), (matrix != 0).sum(axis=1))
    assert sum(part.total for part in found) == matrix.sum()  # quarters add up exactly
    assert max(part.maximum for part in found) == matrix.max()
    assert all(part.integer for part in found) == (matrix == np.floor(matrix)).all()


def test_rows_of_a_piece_are_named_by_their_number_in_the_whole():
    counts = counts_of([0, 1, 3], [1, 5, 3], [1, 1, 1])
    with pytest.raises(HostileFileError, match="row 101: columns do not ascend at 5"):
        check_rows(counts, source="x", first_row=100)
    counts = counts_of([0, 1, 3], [1, 3, 5], [1, 2.5, 1])
    with pytest.raises(NotCountsError, match="row 101, column 3 holds"):
        check_rows(counts, source="x", first_row=100)


@pytest.mark.parametrize("allow", [False, True])
def test_structure_is_named_before_values(allow):
    counts = counts_of([0, 1, 3], [1, 5, 3], [np.nan, 1, 1])
    with pytest.raises(HostileFileError, match="row 1: columns do not ascend"):
        check_rows(counts, source="x", allow_noninteger=allow)


def test_value_fault_of_a_count():
    assert value_fault(3.0) is None
    assert value_fault(2.5, allow_noninteger=True) is None


# -- the first and the last of everything ----------------------------------------------------------------------------


@pytest.mark.parametrize("allow", [False, True])
def test_what_is_wrong_with_the_very_first_cell_is_found(allow):
    with pytest.raises(NotCountsError, match=r"row 0, column 3 holds -0\.5") as caught:
        check_rows(counts_of([0, 1, 2], [3, 4], [-0.5, 1]), source="x", allow_noninteger=allow)
    assert caught.value.kind == "negative"


def test_zeros_beside_fractions_are_counted_and_are_no_fault():
    found = check_rows(counts_of([0, 3], [1, 2, 3], [0, 0.5, 2]), source="x", allow_noninteger=True)
    assert (found.n_zeros, found.total, found.maximum, found.integer) == (1, 2.5, 2.0, False)


def test_the_largest_count_is_one_and_so_is_none():
    assert value_fault(2.0**31 - 1) is None
    assert value_fault(0.0) is None
    assert value_fault(2.0**31) == "count-overflow"
    found = check_rows(counts_of([0, 2], [1, 2], [2**31 - 1, 0], dtype="i8"), source="x", allow_noninteger=False)
    assert (found.maximum, found.n_zeros) == (2**31 - 1, 1)


def test_cells_without_any_gene_hide_nothing():
    """The row at fault is looked for among rows of which some are empty."""
    with pytest.raises(NotCountsError) as caught:
        check_rows(counts_of([0, 1, 1, 2], [1, 2], [np.nan, 1]), source="x", allow_noninteger=False)
    assert caught.value.kind == "nan"


@pytest.mark.parametrize(
    ("columns", "said"),
    [([0, 10], "column 10 of 10"), ([0, 5, 5], "column 5 stands twice"), ([0, 5, 3], "do not ascend at 5")],
)
def test_the_column_that_is_named_is_the_one_at_fault(columns, said):
    with pytest.raises(HostileFileError, match=said):
        check_counts(counts_of([0, len(columns)], columns, [1] * len(columns)), source="x")


@pytest.mark.parametrize(("value", "advised"), [(0.5, True), (-1.0, False)])
def test_fractions_alone_are_advised_to_be_allowed(value, advised):
    with pytest.raises(NotCountsError) as caught:
        check_counts(counts_of([0, 1], [1], [value]), source="x")
    assert ("--allow-noninteger" in (caught.value.hint or "")) is advised


def test_whole_numbers_have_their_limit_where_fractions_are_allowed():
    with pytest.raises(NotCountsError) as caught:
        check_rows(counts_of([0, 1], [1], [2**31], dtype="i8"), source="x", allow_noninteger=True)
    assert caught.value.kind == "count-overflow"
