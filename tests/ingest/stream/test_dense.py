"""Rows of a stored dense matrix, as they are and as CSR, of any chunks, whether bands fit in memory or not."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.fetch.h5ad_matrix import describe_at
from ingest.fetch.h5ad_open import open_h5ad
from ingest.stream.matrix import dense as dense_module
from ingest.stream.matrix.dense import DenseRows
from ingest.stream.matrix.work import Work


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr("ingest.fetch.h5ad_stored._LEAST_BLOCK_BYTES", 8)
    monkeypatch.setattr("ingest.fetch.h5ad_tiles._TILE_BYTES", 200)
    monkeypatch.setattr("ingest.stream.matrix.dense._MOST_GAP", 3)


def matrix_of(n, m, density, dtype, seed):
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 9, (n, m)) * (rng.random((n, m)) < density)).astype(dtype)


def write(path, values, **options):
    with h5py.File(path, "w") as file:
        for name in ("obs", "var"):
            file.create_dataset(f"{name}/_index", data=np.array([b"x"]))
        file.create_dataset("X", data=values, **options)
    return path


@given(
    st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.sampled_from(["float32", "float64", "uint8", "bool"]),
    st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([1, 300, 1 << 20]),
    st.none() | st.integers(1, 50), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_and_entries(tmp_path, n, m, density, dtype, chunks, block_bytes, most, some, seed):
    values = matrix_of(n, m, density, dtype, seed)
    filters = {"chunks": (min(chunks[0], n), min(chunks[1], m)), "compression": "gzip"} if chunks and n and m else {}
    wanted = np.flatnonzero(np.random.default_rng(seed).random(n) < density) if some else None
    expected = values if wanted is None else values[wanted]
    with (
        open_h5ad(str(write(tmp_path / "a.h5ad", values, **filters))) as file,
        Work(2, block_bytes, most_lines=most) as w,
    ):
        rows = DenseRows(file, describe_at(file, "X", values.shape), w, tmp_path)
        read = list(rows.rows(wanted))
        found = list(rows.lines(wanted))
    numbers = np.concatenate([np.arange(0), *(some for some, _ in read)])
    np.testing.assert_array_equal(numbers, np.arange(n) if wanted is None else wanted)
    np.testing.assert_array_equal(np.concatenate([expected[:0], *(block for _, block in read)]), expected)
    assert all(len(block) <= (most or n) for _, block in read)
    assert [block.first for block in found] == [0, *np.cumsum([len(block) for block in found])][: len(found)]
    parts = [sparse.csr_matrix((block.data, block.indices, block.indptr), (len(block), m)) for block in found]
    got = np.concatenate([expected[:0], *(part.toarray() for part in parts)])
    np.testing.assert_array_equal(got, expected)
    assert all(part.has_sorted_indices and np.all(part.data != 0) for part in parts)


@pytest.mark.parametrize(("block_bytes", "is_tall"), [(1 << 20, False), (100, True)])
def test_chunks_that_are_too_tall_go_through_a_file(tmp_path, monkeypatch, block_bytes, is_tall):
    """What is not zero of rows is in memory, or dealt out; what is read is each chunk once."""
    went, read = [], []
    regrouped = dense_module.regrouped
    monkeypatch.setattr(dense_module, "regrouped", lambda *given: went.append(1) or regrouped(*given))
    values = matrix_of(60, 9, 0.5, np.float32, 0)
    path = write(tmp_path / "a.h5ad", values, chunks=(60, 2), compression="gzip")
    with open_h5ad(str(path)) as file, Work(2, block_bytes) as work:
        rows = DenseRows(file, describe_at(file, "X", values.shape), work, tmp_path)
        tile = rows._tiles.read
        monkeypatch.setattr(rows._tiles, "read", lambda *place: read.append(place) or tile(*place))
        for wanted in (None, np.arange(0, 60, 7)):
            read.clear()
            found = list(rows.lines(wanted))
            assert sorted(read) == [(0, column) for column in range(0, 9, 2)]
            lengths = np.concatenate([np.diff(block.indptr) for block in found])
            np.testing.assert_array_equal(lengths, (values[:: 1 if wanted is None else 7] != 0).sum(axis=1))
    assert bool(went) == is_tall


@pytest.mark.parametrize(("block_bytes", "at_once"), [(1 << 20, 4), (30, 2), (1, 1)])
def test_large_tiles_are_read_by_fewer_threads(tmp_path, block_bytes, at_once):
    path = write(tmp_path / "a.h5ad", matrix_of(40, 9, 0.5, np.float32, 0), chunks=(10, 3), compression="gzip")
    with open_h5ad(str(path)) as file, Work(2, block_bytes) as work:
        assert DenseRows(file, describe_at(file, "X", (40, 9)), work, tmp_path)._ahead == at_once
