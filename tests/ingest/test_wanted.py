from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.wanted import Wanted

N_ROWS = 24
BOUNDS = [0, 1, 6, 12, 20, N_ROWS]
CHUNKS = {7 + at: bounds for at, bounds in enumerate(pairwise(BOUNDS))}


@given(st.sets(st.integers(1, N_ROWS - 1)), st.sets(st.sampled_from(sorted(CHUNKS))))
def test_any_cutting_into_slabs_reaches_every_row_once(cuts, dropped):
    wanted = Wanted(CHUNKS)
    for chunk in dropped:
        wanted.drop(chunk)
    rows = [
        row
        for start, stop in pairwise([0, *sorted(cuts), N_ROWS])
        for low, high, _ in wanted.parts(start, stop)
        for row in range(low, high)
    ]
    assert rows == [row for chunk, (low, high) in CHUNKS.items() if chunk not in dropped for row in range(low, high)]


@given(st.integers(0, N_ROWS - 1), st.integers(1, N_ROWS), st.sets(st.sampled_from(sorted(CHUNKS))))
def test_a_part_names_its_chunks(start, length, dropped):
    stop = min(start + length, N_ROWS)
    wanted = Wanted(CHUNKS)
    for chunk in dropped:
        wanted.drop(chunk)
    for low, high, chunks in wanted.parts(start, stop):
        assert start <= low < high <= stop
        assert chunks == [c for c, (a, b) in CHUNKS.items() if a < high and low < b and wanted.wants(c)]
        assert low == max(start, CHUNKS[chunks[0]][0])
        assert high == min(stop, CHUNKS[chunks[-1]][1])


def test_rows_between_chunks_are_not_wanted():
    wanted = Wanted({3: (0, 4), 9: (10, 12)})
    assert list(wanted.parts(0, 20)) == [(0, 4, [3]), (10, 12, [9])]
    assert list(wanted.parts(4, 10)) == []
    assert wanted.touching(3, 11) == [3, 9]
    assert wanted.rows(9) == (10, 12)
