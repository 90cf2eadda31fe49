"""Entries dealt out to other lines are what scipy makes of them, whether they fit in a block or go through a file."""

from __future__ import annotations

import resource
import signal
import time

import numba.core.config
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import ConfigError
from ingest.stream.matrix import filled as filled_module
from ingest.stream.matrix.dealt import one_ahead
from ingest.stream.matrix.filled import Filled
from ingest.stream.matrix.lines import Lines, pieces
from ingest.stream.matrix.put import rebatched
from ingest.stream.matrix.regroup import reordered, transposed
from ingest.stream.matrix.work import Work

DTYPES = ("float32", "float64", "int8", "int16", "uint16", "int32", "int64")


def blocks_of(matrix, n):
    for at in range(0, matrix.shape[0], n):
        part = matrix[at : at + n]
        yield Lines(at, part.indptr.astype(np.int64), part.indices, part.data)


def joined(blocks, n_places, dtype):
    held = list(blocks)
    assert [block.first for block in held] == [0, *np.cumsum([len(block) for block in held])][: len(held)]
    lengths = np.concatenate([[0], *(np.diff(block.indptr) for block in held)])
    arrays = [
        np.concatenate([np.empty(0, kind), *parts])
        for kind, parts in ((dtype, [block.data for block in held]), (np.int32, [block.indices for block in held]))
    ]
    return sparse.csr_matrix((*arrays, np.cumsum(lengths)), shape=(len(lengths) - 1, n_places))


@given(
    st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.sampled_from(DTYPES),
    st.integers(1, 50), st.sampled_from([8, 100, 1000, 1 << 20]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_transposed_and_reordered(tmp_path_factory, n, m, density, dtype, step, block_bytes, seed):
    rng = np.random.default_rng(seed)
    dense = (rng.integers(1, 9, (n, m)) * (rng.random((n, m)) < density)).astype(dtype)
    matrix = sparse.csr_matrix((dense[dense != 0], np.nonzero(dense)[1].astype(np.int32),
                                np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])), shape=(n, m))  # fmt: skip
    scratch = tmp_path_factory.getbasetemp()
    order = rng.permutation(n)
    ranks = np.empty(n, np.int64)
    ranks[order] = np.arange(n)
    with Work(2, block_bytes) as work:
        turned = joined(transposed(blocks_of(matrix, step), n, matrix.nnz, m, scratch, work), n, dtype)
        moved = joined(reordered(blocks_of(matrix, step), ranks, m, scratch, work), m, dtype)
        exact = [len(block) for block in rebatched(blocks_of(matrix, step), 7)]
    assert_entries(turned, dense.T)
    assert_entries(moved, dense[order])
    assert exact == [7] * (n // 7) + [n % 7] * (n % 7 > 0)


def assert_entries(matrix, dense):
    rows, columns = np.nonzero(dense)
    assert matrix.shape == dense.shape
    np.testing.assert_array_equal(np.repeat(np.arange(len(dense)), np.diff(matrix.indptr)), rows)
    np.testing.assert_array_equal(matrix.indices, columns)
    np.testing.assert_array_equal(matrix.data, dense[rows, columns])


def test_entries_that_stand_twice_keep_their_order(tmp_path):
    block = Lines(0, np.array([0, 3, 5]), np.array([1, 0, 1, 1, 1], np.int32), np.arange(5, dtype=np.float32))
    for size in (8, 1 << 20):
        with Work(1, size) as work:
            (turned,) = rebatched(transposed([block], 2, 5, 2, tmp_path, work), 2)
        assert (turned.indices.tolist(), turned.data.tolist()) == ([0, 0, 0, 1, 1], [1, 0, 2, 3, 4])


def test_there_may_be_fewer_entries_than_stated(tmp_path):
    """As where genes are chosen; what is beyond the last entry is not ours to read."""
    matrix = sparse.random(40, 30, 0.3, format="csr", dtype=np.float32, random_state=0)
    with Work(1, 1 << 20) as work:
        found = joined(transposed(blocks_of(matrix, 7), 40, 10 * matrix.nnz, 30, tmp_path, work), 40, "float32")
    assert_entries(found, matrix.toarray().T)


def test_nothing_stays_in_the_scratch_folder_and_a_full_disk_is_said(tmp_path):
    matrix = sparse.random(300, 300, 0.5, format="csr", dtype=np.float32, random_state=0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with Work(1, 1000) as work, pytest.raises(ConfigError) as caught:
            list(transposed(blocks_of(matrix, 10), 300, matrix.nnz, 300, tmp_path, work))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.kind == "disk-full"
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(0, 20), max_size=50), st.integers(1, 30))
def test_pieces_are_all_lines_and_small(lengths, most):
    found = list(pieces(np.array(lengths, np.int64), most))
    assert [line for begin, end in found for line in range(begin, end)] == list(range(len(lengths)))
    for begin, end in found:
        assert end - begin == 1 or sum(lengths[begin:end]) <= most


@pytest.mark.parametrize(("features", "may"), [("", False), ("+avx2,-avx512f", False), ("+avx2,+avx512f", True)])
def test_no_instruction_is_used_that_numba_was_told_is_not_there(monkeypatch, features, may):
    """An image is compiled for other CPUs than the one that builds it: LLVM aborts over what those lack."""
    monkeypatch.setattr(numba.core.config, "CPU_FEATURES", features)
    assert filled_module._compresses() is may


@given(
    st.integers(0, 20), st.integers(0, 200), st.floats(0, 1),
    st.sampled_from([*DTYPES, "bool", "uint8", "uint64", "float16"]), st.sampled_from(["int32", "int64"]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_filled_is_what_is_not_zero(n, m, density, dtype, kind, seed):
    """By AVX-512, where this CPU has it, and without."""
    rng = np.random.default_rng(seed)
    block = (rng.integers(-4, 5, (n, m)) * (rng.random((n, m)) < density)).astype(dtype)
    if block.dtype.kind == "f" and block.size > 1:
        block.flat[0], block.flat[-1] = np.nan, -0.0
    rows, expected = np.nonzero(block)
    filled = Filled(np.dtype(kind))
    for compresses in {False, filled_module._COMPRESSES}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filled_module, "_COMPRESSES", compresses)
            indptr, columns, values = filled.take(block, 7)
        np.testing.assert_array_equal(columns, expected + 7)
        np.testing.assert_array_equal(values, block[rows, expected])
        np.testing.assert_array_equal(np.diff(indptr), np.bincount(rows, minlength=n))
        assert (columns.dtype, values.dtype) == (kind, dtype)


def test_no_call_runs_any_more_where_dealing_out_is_broken_off():
    """The unnamed file is closed then, and its number may be another file's."""
    begun, ended = [], []

    def call(item):
        begun.append(item)
        time.sleep(0.05)
        ended.append(item)
        return item

    with Work(2) as work:
        some = one_ahead(work, call, range(5))
        assert next(some) == 0
        some.close()
        assert begun == ended == [0, 1]
        assert list(one_ahead(work, call, range(5))) == [0, 1, 2, 3, 4]

    def failing():
        yield 7
        raise ConfigError("no more", kind="test")

    with Work(2) as work, pytest.raises(ConfigError):
        list(one_ahead(work, call, failing()))
    assert begun == ended
