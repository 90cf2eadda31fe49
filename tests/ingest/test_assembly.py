from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.assembly import Assembly
from ingest.block import Counts
from ingest.testing.blocks import seeded_block

N_CELLS = 24
WHOLE = seeded_block(N_CELLS, 7, density=0.4)
BOUNDS = [0, 1, 6, 12, 20, N_CELLS]


def dense(counts):
    matrix = np.zeros((counts.n_cells, counts.n_genes), counts.data.dtype)
    for row in range(counts.n_cells):
        low, high = counts.indptr[row], counts.indptr[row + 1]
        matrix[row, counts.indices[low:high]] = counts.data[low:high]
    return matrix


def feed(assembly, pieces):
    for start, stop in pieces:
        yield from assembly.add(start, WHOLE.counts.rows(start, stop), WHOLE.obs_names.slice(start, stop - start))


def boundaries(first=0):
    return {first + at: (BOUNDS[at], BOUNDS[at + 1]) for at in range(len(BOUNDS) - 1)}


@given(st.sets(st.integers(1, N_CELLS - 1)), st.sampled_from([0, 1, 10_000]), st.sets(st.integers(7, 11)))
def test_any_cutting_into_pieces_gives_the_same_chunks(cuts, capacity, dropped):
    edges = [0, *sorted(cuts), N_CELLS]
    assembly = Assembly(boundaries(7), lambda _: capacity)
    for chunk in dropped:
        assembly.drop(chunk)
    found = {chunk: (counts, names) for chunk, counts, names in feed(assembly, pairwise(edges))}
    assert list(found) == [chunk for chunk in boundaries(7) if chunk not in dropped]
    for chunk, (counts, names) in found.items():
        low, high = boundaries(7)[chunk]
        assert (dense(counts) == dense(WHOLE.counts)[low:high]).all()
        assert counts.indptr.dtype == np.int64
        assert counts.indices.dtype == np.int32
        assert len(counts.indices) == len(counts.data) == counts.nnz
        assert names.to_pylist() == WHOLE.obs_names.to_pylist()[low:high]


@given(st.sets(st.integers(1, N_CELLS - 1)), st.integers(0, 4), st.integers(0, N_CELLS))
def test_a_chunk_dropped_in_the_middle_never_comes(cuts, chunk, moment):
    edges = [0, *sorted(cuts), N_CELLS]
    assembly = Assembly(boundaries())
    found = []
    for start, stop in pairwise(edges):
        if start >= moment:
            assembly.drop(chunk)
        found += [number for number, _, _ in feed(assembly, [(start, stop)])]
    high = boundaries()[chunk][1]
    complete_before = any(stop >= high and start < moment for start, stop in pairwise(edges))
    assert (chunk in found) == complete_before
    assert [number for number in found if number != chunk] == [number for number in range(5) if number != chunk]


def test_rows_between_chunks_are_let_go():
    assembly = Assembly({3: (0, 4), 9: (10, 12)})
    found = {chunk: counts for chunk, counts, _ in feed(assembly, [(0, 11), (11, N_CELLS)])}
    assert (dense(found[3]) == dense(WHOLE.counts)[0:4]).all()
    assert (dense(found[9]) == dense(WHOLE.counts)[10:12]).all()
    assert assembly.touching(4, 10) == []
    assert assembly.touching(3, 11) == [3, 9]


def test_chunks_do_not_share_memory_with_the_pieces():
    data = WHOLE.counts.data.copy()
    counts = Counts(WHOLE.counts.indptr, WHOLE.counts.indices, data, 7)
    [(_, made, _)] = Assembly({0: (0, N_CELLS)}).add(0, counts, WHOLE.obs_names)
    wanted = dense(made)
    data[:] = 0
    assert (dense(made) == wanted).all()


@pytest.mark.parametrize("first", [np.float32, np.float64])
def test_two_float_types_in_one_chunk_lose_nothing(first):
    other = np.float64 if first is np.float32 else np.float32
    value = {np.float32: np.float32(0.5), np.float64: np.float64(0.1)}
    piece = {
        dtype: Counts(np.array([0, 1]), np.array([0], np.int32), np.array([value[dtype]], dtype), 1)
        for dtype in (first, other)
    }
    assembly = Assembly({0: (0, 2)})
    assert list(assembly.add(0, piece[first], pa.array(["a"]))) == []
    [(_, counts, _)] = assembly.add(1, piece[other], pa.array(["b"]))
    assert counts.data.tolist() == [value[first], value[other]]
