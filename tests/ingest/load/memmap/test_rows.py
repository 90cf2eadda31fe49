"""Many rows at once: any of them, in any order, of every type; and what is asked of the disk ahead."""

from __future__ import annotations

import itertools
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ingest.load.memmap.ahead import Prefetch, merged_spans
from ingest.load.memmap.rows import MappedRows

VALUES = ("uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
WIDTHS = ("uint8", "uint16", "uint32", "uint64")


@pytest.mark.parametrize(("values", "columns"), list(itertools.product(VALUES, WIDTHS)))
def test_every_type(values, columns):
    rng = np.random.default_rng(1)
    matrix = sparse.random(50, 90, 0.2, "csr", random_state=1)
    matrix.data = rng.integers(1, 200, matrix.nnz).astype(np.float64)
    rows = MappedRows(
        matrix.data.astype(values),
        matrix.indices.astype(columns),
        matrix.indptr.astype("uint16" if columns == "uint8" else columns),
    )
    wanted = rng.integers(0, 50, 70)
    found = rows.take(wanted, 90)
    assert found.values.dtype == values
    assert (found.to_scipy().toarray() == matrix[wanted].toarray()).all()
    assert found.to_csr().shape == (70, 90)
    assert found.stacked == np.result_type(values, columns)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    wanted=st.lists(st.integers(0, 10_000), max_size=60),
    threads=st.integers(1, 4),
    prefetch=st.booleans(),
)
def test_any_rows_in_any_order(lengths, wanted, threads, prefetch):
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)
    values, columns = np.arange(ends[-1], dtype=np.float32), np.arange(ends[-1]).astype(np.uint16) % 50
    rows = np.array([row % len(lengths) for row in wanted], np.int64)
    found = MappedRows(values, columns, ends, prefetch=prefetch).take(rows, 50, threads=threads)
    expected = [np.arange(ends[row], ends[row + 1]) for row in rows]
    assert found.values.tolist() == list(itertools.chain.from_iterable(part.tolist() for part in expected))
    assert found.columns.tolist() == [int(value) % 50 for value in found.values]
    assert np.diff(found.indptr).tolist() == [len(part) for part in expected]


def test_on_threads_the_same(monkeypatch):
    monkeypatch.setattr("ingest.load.memmap.rows._LEAST_ROWS", 4)
    matrix = sparse.random(400, 300, 0.1, "csr", random_state=2, dtype=np.float32)
    rows = MappedRows(matrix.data, matrix.indices.astype(np.uint16), matrix.indptr.astype(np.uint32))
    wanted = np.random.default_rng(3).permutation(400)
    assert (rows.take(wanted, 300, threads=3).to_scipy() != matrix[wanted]).nnz == 0


def test_what_is_kept_is_not_written_over():
    matrix = sparse.random(400, 300, 0.1, "csr", random_state=2, dtype=np.float32)
    rows = MappedRows(matrix.data, matrix.indices.astype(np.uint16), matrix.indptr.astype(np.uint32))
    kept = [rows.take(np.arange(at, at + 8), 300) for at in range(0, 400, 8)]
    for at, batch in enumerate(kept):
        assert (batch.to_scipy() != matrix[at * 8 : at * 8 + 8]).nnz == 0


@given(
    st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(0, 1 << 18)), max_size=30).map(
        lambda spans: np.array(spans, np.int64).reshape(-1, 2)
    )
)
def test_spans_that_are_asked_for_cover_all_and_little_else(spans):
    begins, ends = spans[:, 0], spans[:, 0] + spans[:, 1]
    found = merged_spans(begins, ends)
    assert found == sorted(found)
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(found))
    assert all(low % mmap.PAGESIZE == 0 for low, _ in found)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        assert begin == end or any(low <= begin and end <= high for low, high in found)
    asked = sum(high - low for low, high in found)
    assert asked <= int((ends - begins).sum()) + len(spans) * (mmap.PAGESIZE + (1 << 14))


def test_the_system_is_told_which_pages(tmp_path):
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    mapped = np.memmap(tmp_path / "data", np.float32, "r")
    told = []

    class Told:
        def madvise(self, *advice):
            told.append(advice)

    ahead = Prefetch(mapped)
    ahead(np.array([5, 100_000]), np.array([10, 100_100]))  # the real one takes it
    ahead._mapped = [(Told(), 4)]
    ahead(np.array([100_000, 5]), np.array([100_100, 10]))
    low = 400_000 // mmap.PAGESIZE * mmap.PAGESIZE
    assert told == [(mmap.MADV_WILLNEED, 0, 40), (mmap.MADV_WILLNEED, low, 400_400 - low)]
