"""Rows come back as they went in, whatever their values, pieces and places; and room is kept by two threads."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import window_store
from ingest.block import Counts
from ingest.window_store import HeldRows, Room, pack_rows

VALUES = {
    "float32": st.one_of(
        st.integers(1, 70_000).map(float),
        st.sampled_from([65535.0, 65536.0, 0.5, 1e30, -1.0, float("nan"), float("inf")]),
    ),
    "float64": st.floats(width=64),
    "int32": st.integers(-5, (1 << 31) - 1),
    "int64": st.integers(-5, (1 << 62)),
}


@st.composite
def counts_of(draw, dtype, n_genes):
    rows = draw(
        st.lists(st.lists(st.integers(0, n_genes - 1), max_size=6, unique=True).map(sorted), min_size=1, max_size=8)
    )
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    nnz = int(indptr[-1])
    data = np.array(draw(st.lists(VALUES[dtype], min_size=nnz, max_size=nnz)), dtype)
    indices = np.array([gene for row in rows for gene in row], np.int32)
    return Counts(indptr, indices, data, n_genes)


@given(
    st.data(),
    st.sampled_from(sorted(VALUES)),
    st.sampled_from([5 + 6, 1 << 16, (1 << 16) + 1, 1 << 20]),
    st.integers(1, 9),
)
def test_rows_come_back(data, dtype, n_genes, part):
    pieces = data.draw(st.lists(counts_of(dtype, n_genes), min_size=1, max_size=4))
    n_rows = sum(piece.n_cells for piece in pieces)
    places = np.array(data.draw(st.permutations(range(n_rows))), np.int64)
    held, wanted, first = HeldRows(), {}, 0
    for number, piece in enumerate(pieces):
        rows = np.array(data.draw(st.permutations(range(piece.n_cells))), np.int64)
        mine = places[first : first + piece.n_cells]
        names = pa.array([f"{number}:{row}" for row in range(piece.n_cells)])
        before = held.nbytes
        assert held.add(mine, piece, rows, names) == held.nbytes - before
        for place, row in zip(mine.tolist(), rows.tolist(), strict=True):
            one = piece.rows(row, row + 1)
            wanted[place] = (names[row].as_py(), one.indices.tolist(), one.data)
        first += piece.n_cells
    found, at_once = [], window_store._PART_ENTRIES
    window_store._PART_ENTRIES = part
    try:
        for counts, names in held.parts():
            assert counts.n_genes == n_genes
            assert (counts.indices.dtype, counts.data.dtype) == (np.int32, np.dtype(dtype))
            for row in range(counts.n_cells):
                one = counts.rows(row, row + 1)
                found.append((names[row].as_py(), one.indices.tolist(), one.data))
    finally:
        window_store._PART_ENTRIES = at_once
    assert len(found) == n_rows
    for place, (name, genes, values) in enumerate(found):
        assert (name, genes) == wanted[place][:2]
        np.testing.assert_array_equal(values, wanted[place][2])


def test_counts_take_half_of_their_memory():
    n_cells, per_cell = 100, 1000
    counts = Counts(
        np.arange(0, n_cells * per_cell + 1, per_cell),
        np.tile(np.arange(per_cell, dtype=np.int32), n_cells),
        np.ones(n_cells * per_cell, np.float32),
        60_530,
    )
    counts.data[::97] = 1e6  # some that uint16 does not hold
    packed = pack_rows(counts, np.arange(n_cells))
    assert packed.nbytes < 0.57 * counts.nbytes
    counts.data[::2] = 0.5
    assert pack_rows(counts, np.arange(n_cells)).data.dtype == np.float32


def test_no_rows_are_no_parts():
    assert list(HeldRows().parts()) == []


def waits(room, patience_s=0.2):
    """Say whether whoever asks for room has to wait, and let it go on; one who need not may take its time over that."""
    went = threading.Event()
    thread = threading.Thread(target=lambda: (room.wait(), went.set()), daemon=True)
    thread.start()
    found = not went.wait(patience_s)
    room.close()
    thread.join()
    return found


def test_room_is_short_only_while_somebody_will_make_some():
    full = Room(10)
    full.take(100)
    assert not waits(full, patience_s=120)  # a window that is not whole must become it
    full = Room(10)
    full.take(100)
    full.hand_out()
    assert waits(full)


@pytest.mark.parametrize("way", ["give", "hand_back", "close"])
def test_room_is_made(way):
    room = Room(10)
    room.take(100)
    room.hand_out()
    went = threading.Event()
    thread = threading.Thread(target=lambda: (room.wait(), went.set()), daemon=True)
    thread.start()
    assert not went.wait(0.1)
    getattr(room, way)(*([95] if way == "give" else []))
    assert went.wait(120)
    thread.join()
