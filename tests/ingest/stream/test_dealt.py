"""Dealing out reads in proportion to the entries, whatever their number; the order holds at every level."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.stream.matrix import dealt as dealt_module
from ingest.stream.matrix.dealt import Entries, dealt_lines
from ingest.stream.matrix.work import Work

INT32 = np.dtype(np.int32)


def entries_of(lines, step):
    """Number entries in the order they come, in blocks of `step`."""
    for at in range(0, len(lines), step):
        some = lines[at : at + step]
        numbers = np.arange(at, at + len(some), dtype=np.int32)
        yield Entries(some, numbers, numbers.astype(np.float32))


def check(found, lines, n_lines):
    held = list(found)
    assert [block.first for block in held] == np.cumsum([0, *map(len, held)])[:-1].tolist()
    assert sum(map(len, held)) == n_lines
    order = np.argsort(lines, kind="stable")
    np.testing.assert_array_equal(
        np.concatenate([np.diff(block.indptr) for block in held]), np.bincount(lines, minlength=n_lines)
    )
    for name in ("indices", "data"):
        np.testing.assert_array_equal(np.concatenate([getattr(block, name) for block in held]), order)


@pytest.fixture
def few_bundles(monkeypatch):
    for name in ("_BUNDLES", "_LEAST_BUNDLES"):
        monkeypatch.setattr(dealt_module, name, 4)


class Counted:
    """Reads of scratch files."""

    def __init__(self, monkeypatch):
        self.calls, self._read = 0, os.preadv
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, *args):
        self.calls += 1
        return self._read(*args)


@pytest.mark.parametrize("spread", ["even", "in order", "one in two"])
def test_reads_grow_as_entries_do(tmp_path, monkeypatch, spread):
    for name in ("_BUNDLES", "_LEAST_BUNDLES"):
        monkeypatch.setattr(dealt_module, name, 16)
    found = []
    for n in (1 << 13, 1 << 14, 1 << 15):  # the last has 512 blocks: were each read from each, a quarter of a million
        lines = np.random.default_rng(n).integers(0, 1024, n)
        lines = {"even": lines, "in order": np.sort(lines), "one in two": np.where(lines % 2, 7, lines)}[spread]
        with Work(1, 512) as work, monkeypatch.context() as patch:
            counted = Counted(patch)
            check(dealt_lines(entries_of(lines, 100), 1024, INT32, tmp_path, work), lines, 1024)
        found.append(counted.calls)
    n_runs, levels = n / (work.block_entries // 2), 3
    assert found[-1] <= 2 * 16 * n_runs * levels
    for before, after in itertools.pairwise(found):
        assert after <= 2.8 * before, found  # twice, but where a level is added; four times, were it quadratic


@pytest.mark.usefixtures("few_bundles")
@given(
    st.integers(1, 300), st.integers(0, 400), st.integers(1, 90), st.sampled_from([8, 64, 500]),
    st.sampled_from([0.2, 1, 5]), st.sampled_from(["int32", "int64"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=40)
def test_lines_keep_the_order_of_their_entries_at_every_level(
    tmp_path_factory, n_lines, n, step, block, skew, kind, seed
):
    lines = (np.random.default_rng(seed).random(n) ** skew * n_lines).astype(kind)
    with Work(1, block) as work:
        found = dealt_lines(entries_of(lines, step), n_lines, INT32, tmp_path_factory.getbasetemp(), work)
        check(found, lines, n_lines)


@pytest.mark.usefixtures("few_bundles")
def test_a_block_holds_no_more_than_asked_but_for_a_line(tmp_path):
    """Even where all entries are of neighbouring lines."""
    lines = np.random.default_rng(0).integers(100, 140, 5000)
    with Work(1, 1600) as work:
        sizes = [block.nnz for block in dealt_lines(entries_of(lines, 99), 4000, INT32, tmp_path, work)]
    assert work.block_entries == 200
    assert max(sizes) <= 200


def test_many_small_blocks_are_few_runs(tmp_path, monkeypatch):
    lines = np.random.default_rng(0).integers(0, 50, 4000)
    with Work(1, 8 * 1000) as work:
        written = []
        write = os.pwritev
        monkeypatch.setattr(os, "pwritev", lambda *args: written.append(args[2]) or write(*args))
        check(dealt_lines(entries_of(lines, 3), 50, INT32, tmp_path, work), lines, 50)
    assert len(written) <= 8


def test_what_the_system_reads_and_writes_by_halves_is_whole(tmp_path, monkeypatch):
    lines = np.random.default_rng(0).integers(0, 70, 3000)
    for name in ("preadv", "pwritev"):
        call = getattr(os, name)

        def halved(descriptor, views, at, call=call):
            first = next(view for view in views if len(view))
            return call(descriptor, [first[: max(len(first) // 2, 1)]], at)

        monkeypatch.setattr(os, name, halved)
    monkeypatch.setattr(dealt_module, "_MOST_VECTORS", 7)
    with Work(1, 800) as work:
        check(dealt_lines(entries_of(lines, 333), 70, INT32, tmp_path, work), lines, 70)


def test_a_scratch_file_that_is_cut_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with Work(1, 800) as work, pytest.raises(OSError, match="shorter than what was written"):
        list(dealt_lines(entries_of(np.zeros(2000, np.int64), 100), 5, INT32, tmp_path, work))
