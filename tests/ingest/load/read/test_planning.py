"""Plans as data: executed here with plain slicing, and compared with plain fancy indexing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.load.read.planning import RowEntries, plan_window


@st.composite
def chunked(draw):
    """Draw the lengths of rows, cut into chunks, and the rows that somebody wants."""
    chunks = draw(st.lists(st.lists(st.integers(0, 30), min_size=0, max_size=8), min_size=1, max_size=5))
    n = sum(map(len, chunks))
    rows = draw(st.lists(st.integers(0, n - 1), max_size=30)) if n else []
    return chunks, np.array(rows, np.int64), draw(st.integers(1, 12)), draw(st.integers(1, 4))


@given(chunked())
def test_a_plan_brings_every_entry_to_its_place_and_reads_a_block_once(drawn):
    chunks, rows, size, job_blocks = drawn
    starts = np.cumsum([0, *map(len, chunks)])
    indptrs = [np.cumsum([0, *lengths]) for lengths in chunks]
    arrays = [np.arange(indptr[-1]) + 1000 * number for number, indptr in enumerate(indptrs)]
    owner = np.searchsorted(starts, rows, side="right") - 1
    plan = plan_window(rows, owner, starts, lambda at: RowEntries(indptrs[at], size), job_blocks=job_blocks)

    wanted = [
        arrays[at][indptrs[at][row - starts[at]] : indptrs[at][row - starts[at] + 1]]
        for at, row in zip(owner.tolist(), rows.tolist(), strict=True)
    ]
    assert plan.indptr.tolist() == [0, *np.cumsum([len(part) for part in wanted]).tolist()]
    window = np.full(plan.indptr[-1], -1)
    times = np.zeros(plan.indptr[-1], int)
    seen, parts = [], 0
    for job in plan.jobs:
        assert 1 <= len(job.blocks) <= job_blocks
        assert (np.diff(job.blocks) > 0).all()
        assert job.parts.start == parts
        parts = job.parts.stop
        assert job.cuts[0] == 0
        assert job.cuts[-1] == job.parts.stop - job.parts.start
        for place, block in enumerate(job.blocks.tolist()):
            seen.append((job.at, block))
            stored = arrays[job.at][block * size : (block + 1) * size]
            for part in range(job.parts.start + job.cuts[place], job.parts.start + job.cuts[place + 1]):
                low, high, dst = plan.begin[part], plan.end[part], plan.dst[part]
                assert 0 <= low < high <= len(stored)
                row = plan.row[part]
                assert plan.indptr[row] <= dst <= dst + high - low <= plan.indptr[row + 1]
                window[dst : dst + high - low] = stored[low:high]
                times[dst : dst + high - low] += 1
    assert parts == len(plan.begin)
    assert (times == 1).all()
    assert window.tolist() == [number for part in wanted for number in part.tolist()]
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)


@given(chunked())
def test_dense_chunks(drawn):
    chunks, rows, size, job_blocks = drawn
    starts = np.cumsum([0, *map(len, chunks)])
    owner = np.searchsorted(starts, rows, side="right") - 1
    indptrs = [np.cumsum([0, *lengths]) for lengths in chunks]
    plan = plan_window(rows, owner, starts, lambda at: RowEntries(indptrs[at], size, dense=True), job_blocks=job_blocks)
    reached = {}
    for job in plan.jobs:
        for place, block in enumerate(job.blocks.tolist()):
            for part in range(job.parts.start + job.cuts[place], job.parts.start + job.cuts[place + 1]):
                assert plan.end[part] == plan.begin[part] + 1
                assert plan.dst[part] == plan.indptr[plan.row[part]]
                reached[int(plan.row[part])] = int(starts[job.at]) + block * size + int(plan.begin[part])
    assert [reached[number] for number in range(len(rows))] == rows.tolist()
