"""Streams made from the values that are not zero, inflated by zlib and held against the dense bytes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.encode.shuffle import shuffle
from ingest.encode.shuffled_deflate import NEVER, compress_planes
from ingest.encode.sparse_deflate import compress_sparse
from ingest.testing.examples import examples

TYPES = ["int16", "uint16", "int32", "float32", "float64"]


def dense(places, values, length):
    whole = np.zeros(length, values.dtype)
    whole[places] = values
    return shuffle(whole, length).tobytes()


def at_random(length, n, dtype, seed=0, most=300):
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(length, n, replace=False)).astype(np.int64)
    return places, rng.integers(1, most, n).astype(dtype)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 257, 258, 259, 260, 261, 516, 517, 775]), st.integers())),
    st.integers(0, 800),
    st.sampled_from(TYPES),
)
def test_any_gaps_and_values_come_back(gaps, tail, dtype):
    """Gaps about which deflate changes its way: no run of 1 or 2, none beyond 258."""
    places = np.cumsum([gap + 1 for gap, _ in gaps]).astype(np.int64) - 1
    values = np.array([1 + value % 30_000 for _, value in gaps]).astype(dtype)
    length = int(places[-1]) + 1 + tail if len(places) else max(1, tail)
    assert zlib.decompress(compress_sparse(places, values, length)) == dense(places, values, length)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("length", "n"), [(1, 0), (1, 1), (300_000, 0), (300_000, 1), (60_530, 2_400), (9_000, 9_000)])
def test_blocks_of_every_density(length, n, dtype):
    places, values = at_random(length, n, dtype, most=40_000 if dtype != "int16" else 32_767)
    assert zlib.decompress(compress_sparse(places, values, length)) == dense(places, values, length)


def test_codes_too_long_to_be_joined_are_put_one_by_one():
    """A zero among bytes that outweigh it by thousands gets the longest code there is, as have the rarest bytes.

    Four such zeros and a byte are 70 bits.
    """
    values = np.repeat(np.arange(1, 251), np.geomspace(1, 60_000, 250).astype(int)).astype(np.int16)
    places = np.arange(len(values), dtype=np.int64)
    places += 4 * np.minimum(places, 16)
    length = int(places[-1]) + 1
    assert zlib.decompress(compress_sparse(places, values, length)) == dense(places, values, length)


def test_as_small_as_what_is_made_from_the_dense_bytes():
    places, values = at_random(4 * 60_530, 4 * 2_400, "int16", most=9)
    whole = np.zeros(4 * 60_530, np.int16)
    whole[places] = values
    theirs = compress_planes(NEVER, shuffle(whole, len(whole)).data, 2)
    assert len(compress_sparse(places, values, len(whole))) <= len(theirs)


def test_a_thread_may_compress_small_blocks_after_large_ones():
    large, small = at_random(300_000, 5_000, "int32"), at_random(500, 20, "int16", seed=1)
    wanted = [compress_sparse(*large, 300_000), compress_sparse(*small, 500)]
    assert [compress_sparse(*large, 300_000), compress_sparse(*small, 500)] == wanted
