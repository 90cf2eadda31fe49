from __future__ import annotations

import zlib
from itertools import pairwise

import deflate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from ingest.encode.filters import choose_filter
from ingest.encode.huffman import code_lengths, reversed_codes
from ingest.encode.shuffle import shuffle, shuffle_texts, unshuffle
from ingest.testing.blocks import seeded_block
from ingest.testing.examples import examples

INFLATERS = [zlib.decompress, isal_zlib.decompress, lambda stored: deflate.zlib_decompress(stored, 1 << 20)]


@st.composite
def arrays(draw):
    """Numbers of the kinds that counts are made of, and of none: ramps, runs, constants, noise, repeated strings."""
    n = draw(st.sampled_from([1, 2, 7, 2_047, 2_048, 2_049, 5_000, 65_535, 65_536, 70_001]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "ramp", "geometric", "runs", "constant", "rare", "strings", "powers"]))
    values = {
        "noise": lambda: rng.integers(0, 2**31, n),
        "ramp": lambda: np.sort(rng.integers(0, 60_000, n)),
        "geometric": lambda: rng.geometric(draw(st.sampled_from([0.9, 0.3, 0.02])), n),
        "runs": lambda: np.repeat(rng.integers(0, 2**20, n), rng.integers(1, 700, n))[:n],
        "constant": lambda: np.full(n, rng.integers(0, 2**31)),
        "rare": lambda: np.where(rng.random(n) < 0.001, rng.integers(0, 2**31, n), 0),
        "strings": lambda: np.tile(rng.integers(0, 2**31, 300), n // 300 + 1)[:n],
        "powers": lambda: 2 ** rng.integers(0, 31, n),
    }[kind]()
    return values.astype(draw(st.sampled_from([np.uint16, np.int32, np.float32, np.float64])))


@settings(max_examples=examples(48))
@given(arrays(), st.integers(0, 9))
def test_every_inflater_returns_what_was_compressed(values, level):
    how = choose_filter("deflate", level if len(values) < 10_000 else min(level, 5))
    raw = shuffle(values, len(values))
    stored = how.compress(raw.data, values.dtype.itemsize)
    for inflate in INFLATERS:
        assert inflate(stored) == raw.tobytes()
    assert how.decompress(stored, len(raw)) == raw.tobytes()
    assert len(stored) <= len(raw) + len(raw) // 500 + 64
    assert (unshuffle(raw.tobytes(), values.dtype).view(np.uint8) == values.view(np.uint8)).all()


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_registered_filters_return_what_they_compressed(codec, level):
    how = choose_filter(codec, level)
    for values in (np.arange(9_000, dtype=np.int32), np.random.default_rng(0).integers(0, 2**31, 500, np.int32)):
        raw = shuffle(values, len(values))
        assert how.decompress(how.compress(raw.data, 4), len(raw)) == raw.tobytes()


def test_levels_go_from_fast_to_small():
    """Counts of a few cells; a level that is slower and larger than another would have no use."""
    counts = seeded_block(60, 6_000, density=0.2).counts
    sizes = []
    for level in range(10):
        how = choose_filter("deflate", level)
        sizes.append(sum(len(how.compress(shuffle(a, len(a)).data, 4)) for a in (counts.indices, counts.data)))
    assert all(after <= before * 1.001 for before, after in pairwise(sizes)), sizes
    of_isal = min(
        sum(len(isal_zlib.compress(shuffle(a, len(a)), level)) for a in (counts.indices, counts.data))
        for level in range(4)
    )
    assert sizes[0] < of_isal


def test_planes_without_strings_are_not_searched_and_with_them_they_are():
    noise = shuffle(np.random.default_rng(0).integers(0, 2**31, 20_000, np.int32), 20_000)
    strings = shuffle(np.tile(np.random.default_rng(0).integers(0, 2**31, 500, np.int32), 40), 20_000)
    never, sampled = choose_filter("deflate", 0), choose_filter("deflate", 1)
    assert never.compress(noise.data, 4) == sampled.compress(noise.data, 4)
    assert len(sampled.compress(strings.data, 4)) < len(never.compress(strings.data, 4)) / 5


@settings(max_examples=examples(80))
@given(st.lists(st.integers(0, 10**9) | st.sampled_from([1, 2, 3, 5, 8, 13]), min_size=2, max_size=286), st.data())
def test_codes_are_complete_prefix_free_and_limited(frequencies, data):
    frequency = np.array(frequencies, np.int64)
    if (frequency > 0).sum() < 2:
        frequency[:2] = 1
    limit = data.draw(st.integers(max(2, int(np.ceil(np.log2((frequency > 0).sum())))), 15))
    lengths = np.zeros(len(frequency), np.int64)
    code_lengths(frequency, limit, lengths)
    used = lengths > 0
    assert (used == (frequency > 0)).all()
    assert lengths.max() <= limit
    assert sum(2.0 ** -int(n) for n in lengths[used]) == 1
    codes = reversed_codes(lengths)
    written = [format(int(codes[at]), f"0{lengths[at]}b")[::-1] for at in np.flatnonzero(used)]
    assert len(set(written)) == len(written)
    assert not any(b.startswith(a) for a, b in zip(sorted(written), sorted(written)[1:], strict=False))
    order = np.argsort(frequency, kind="stable")
    assert (np.diff(lengths[order][(frequency > 0)[order]]) <= 0).all(), "a rarer symbol has a shorter code"


def test_a_code_without_need_of_a_limit_is_huffmans():
    frequency = np.array([1, 1, 2, 4, 8, 16], np.int64)
    lengths = np.zeros(6, np.int64)
    code_lengths(frequency, 14, lengths)
    assert lengths.tolist() == [5, 5, 4, 3, 2, 1]


def test_fibonacci_frequencies_meet_the_limit():
    frequency = np.array([1, 1], np.int64)
    while len(frequency) < 40:
        frequency = np.append(frequency, frequency[-2:].sum())
    lengths = np.zeros(40, np.int64)
    code_lengths(frequency, 14, lengths)
    assert lengths.max() == 14
    assert sum(2.0 ** -int(n) for n in lengths) == 1


def test_shuffle_fills_up_with_zeros():
    values = np.array([0x0102, 0x0304], np.uint16)
    assert shuffle(values, 3).tolist() == [2, 4, 0, 1, 3, 0]
    assert shuffle_texts(np.array([b"ab", b"cd", b"e"])).tobytes() == b"acebd\0"
