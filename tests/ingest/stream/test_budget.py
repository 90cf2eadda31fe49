"""One model of memory: the engine's blocks and the calculators follow it, and it the limits of control groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.stream import budget, sizes
from ingest.stream.budget import GB, Budget, budget_of
from ingest.stream.matrix import work as work_module
from ingest.stream.matrix.work import Work

SIZES = st.floats(0, 1e6)


@given(SIZES, SIZES, st.floats(0, 1), SIZES, st.floats(0, 1), st.integers(1, 10**6), st.integers(1, 10**6))
def test_what_is_held_fits_or_is_the_least(memory_gb, line_bytes, share, held_gb, part, least, most):
    found = Budget(memory_gb).lines(line_bytes, share=share, held_gb=held_gb, part=part, least=least, most=most)
    assert least <= found <= max(least, most)
    if found > least:
        assert found * line_bytes <= max(0, memory_gb * share - held_gb) * part * GB * (1 + 1e-9)


@pytest.mark.parametrize(
    ("left_gb", "block_bytes"),
    [(20, 8 << 20), (0.256, 4_000_000), (0.01, 1 << 20), (0, 1 << 20)],
)
def test_blocks_of_the_engine_follow_what_is_left(monkeypatch, left_gb, block_bytes):
    monkeypatch.setattr(budget, "available_memory", lambda: left_gb * GB)
    with Work(1) as work:
        assert work.block_bytes == block_bytes


def test_lines_of_the_engine_are_the_calculators(monkeypatch):
    monkeypatch.setattr(budget, "available_memory", lambda: 4 * GB)
    shape = 700_000, 20_000
    with Work(1) as work:
        assert work.lines(shape) == sizes.calculate_optimal_chunk_size(*shape, available_memory_gb=4) == 3125
        by_genes = sizes.calculate_optimal_gene_chunk_size(*shape, available_memory_gb=4)
        assert work.lines(shape, by_columns=True) == by_genes == 32
    with Work(1, most_lines=7) as work:
        assert (work.lines(shape), work.lines(shape, by_columns=True)) == (7, 7)


def test_memory_is_looked_for_in_one_place():
    assert not {"available_memory", "psutil"} & (set(vars(sizes)) | set(vars(work_module)))


@pytest.mark.parametrize("memory", [-1.0, float("nan"), float("inf")])
def test_no_such_memory(memory):
    with pytest.raises(ValueError, match="GB of memory"):
        budget_of(memory)
