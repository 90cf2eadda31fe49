from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.profile import Profile
from ingest.testing.examples import examples
from ingest.units import OVERREAD, Unit, cut_slabs, cut_units, read_bytes


@st.composite
def profiles(draw):
    """Draw what chunks of one to six bands each ask, neighbours sharing a band or not."""
    n_chunks = draw(st.integers(1, 40))
    spans = draw(st.lists(st.integers(0, 5), min_size=n_chunks, max_size=n_chunks))
    steps = draw(st.lists(st.integers(0, 1), min_size=n_chunks, max_size=n_chunks))
    last = np.cumsum(np.array(spans) + np.array(steps))
    first = last - spans
    band_bytes = np.array(draw(st.lists(st.integers(1, 9), min_size=int(last[-1]) + 1, max_size=int(last[-1]) + 1)))
    before = np.concatenate([[0.0], np.cumsum(band_bytes)])
    flags = st.lists(st.booleans(), min_size=n_chunks, max_size=n_chunks)
    return Profile(
        first,
        last,
        nnz=np.array(draw(st.lists(st.integers(0, 99), min_size=n_chunks, max_size=n_chunks)), np.int64),
        read_from=before[first],
        read_to=before[last + 1],
        largest_band_nnz=99,
        uncut=np.array(draw(st.just([False] * n_chunks) | flags), bool),
    )


def splits(profile, units):
    """Count the cuts between consecutive chunks of two units that fall inside a band."""
    found = 0
    for left, right in pairwise(units):
        a, b = left.chunks[-1], right.chunks[0]
        found += b == a + 1 and profile.last_band[a] == profile.first_band[b]
    return found


def test_a_long_plan_with_many_holes_is_cut_at_all():
    """It went round for ever: a run with less than half a worker's share was given parts larger than itself."""
    n = 400
    bands = np.arange(n)
    profile = Profile(
        bands,
        bands,
        nnz=np.full(n, 9),
        read_from=bands * 1.0,
        read_to=bands + 1.0,
        largest_band_nnz=9,
        uncut=np.zeros(n, bool),
    )
    missing = [chunk for chunk in range(n) if chunk % 80]
    for workers in (1, 2, 7):
        units = cut_units(profile, missing, workers=workers)
        assert [chunk for unit in units for chunk in unit.chunks] == missing


@settings(max_examples=examples(60))
@given(profiles(), st.integers(1, 6), st.data())
def test_units_hold_every_missing_chunk_once_and_split_few_bands(profile, workers, data):
    every = list(range(profile.n_chunks))
    missing = sorted(data.draw(st.sets(st.sampled_from(every)) | st.just(set(every))))
    units = cut_units(profile, missing, workers=workers)
    assert [chunk for unit in units for chunk in unit.chunks] == missing
    assert all(unit.chunks == tuple(range(unit.chunks[0], unit.chunks[-1] + 1)) for unit in units)
    assert all(isinstance(chunk, int) for unit in units for chunk in unit.chunks)
    starts = {unit.chunks[0] for unit in units}
    assert not any(profile.uncut[chunk] and chunk in starts and chunk - 1 in missing for chunk in missing)
    runs = np.split(np.array(missing), np.flatnonzero(np.diff(missing) != 1) + 1) if missing else []
    n_bands = sum(int(profile.last_band[run[-1]] - profile.first_band[run[0]]) + 1 for run in runs)
    assert splits(profile, units) <= OVERREAD * n_bands
    planned, least = read_bytes(profile, units)
    assert planned >= least - 1e-6


def profile_of(n_chunks, bands_per_chunk, *, nnz=100, shift=0.0):
    """Chunks of equal weight; with a shift no chunk boundary is a band boundary."""
    edges = np.arange(n_chunks + 1) * bands_per_chunk + shift
    first = np.floor(edges[:-1]).astype(np.int64)
    last = np.ceil(edges[1:]).astype(np.int64) - 1
    return Profile(
        first,
        last,
        nnz=np.full(n_chunks, nnz, np.int64),
        read_from=first * 1000.0,
        read_to=(last + 1) * 1000.0,
        largest_band_nnz=nnz,
        uncut=np.zeros(n_chunks, bool),
    )


def busiest(units, profile, workers):
    """Return the share of the work that the worker has who gets most, when each takes the next unit when it is free."""
    busy = [0] * workers
    for unit in units:
        busy[busy.index(min(busy))] += int(profile.nnz[list(unit.chunks)].sum())
    return max(busy) / sum(busy)


@pytest.mark.parametrize(("n_chunks", "bands", "workers"), [(1000, 2.0, 8), (500, 12.0, 4), (4000, 1.0, 2)])
def test_free_cuts_make_long_units_first_and_cost_nothing(n_chunks, bands, workers):
    profile = profile_of(n_chunks, bands)
    units = cut_units(profile, range(n_chunks), workers=workers)
    spans = [len(unit.chunks) * bands for unit in units]
    assert max(spans) <= 110
    assert min(spans[:-1]) >= 12
    assert spans[0] >= max(spans) - bands
    assert spans[-1] < 60
    assert busiest(units, profile, workers) <= 1.15 / workers
    planned, least = read_bytes(profile, units)
    assert planned == least == n_chunks * bands * 1000


@pytest.mark.parametrize(
    ("n_chunks", "bands", "workers"), [(1000, 2.0, 8), (300, 12.2, 4), (4000, 0.3, 2), (90, 0.31, 2), (250, 0.1, 2)]
)
def test_costly_cuts_stay_within_a_tenth_and_keep_workers_busy(n_chunks, bands, workers):
    profile = profile_of(n_chunks, bands, shift=0.5)
    units = cut_units(profile, range(n_chunks), workers=workers)
    planned, least = read_bytes(profile, units)
    assert planned <= 1.1 * least
    assert busiest(units, profile, workers) <= 1.15 / workers


def test_what_cannot_be_cut_in_three_is_cut_in_two_for_two_workers():
    profile = profile_of(250, 0.1, shift=0.05)  # 26 bands: two cuts are within the tenth, one shares the work evenly
    sizes = [len(unit.chunks) for unit in cut_units(profile, range(250), workers=2)]
    assert sizes == [125, 125]


def test_a_heavy_chunk_makes_a_short_unit():
    profile = profile_of(100, 1.0)
    profile.nnz[:10] = 10_000
    units = cut_units(profile, range(100), workers=2)
    weights = [int(profile.nnz[list(unit.chunks)].sum()) for unit in units]
    assert max(weights) <= 2 * 10_000 + 1000


def test_nothing_missing_makes_no_unit():
    assert cut_units(profile_of(3, 1.0), [], workers=2) == []
    assert read_bytes(profile_of(3, 1.0), []) == (0.0, 0.0)


def test_a_split_band_is_counted_twice():
    profile = profile_of(4, 0.5)
    planned, least = read_bytes(profile, [Unit((0,)), Unit((1,)), Unit((2, 3))])
    assert (planned, least) == (3000.0, 2000.0)


@settings(max_examples=examples(60))
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 30)), min_size=1, max_size=40),
    st.integers(0, 80),
)
def test_slabs_cover_all_rows_without_splitting_bands_or_mixing_sources(rows, limit):
    rows.sort(key=lambda row: row[:2])
    codes, bands, weights = (np.array(column) for column in zip(*rows, strict=True))
    slabs = cut_slabs(codes.astype(np.int32), bands, weights, limit=limit)
    assert [row for low, high in slabs for row in range(low, high)] == list(range(len(rows)))
    for low, high in slabs:
        assert len(set(codes[low:high])) == 1
        if weights[low:high].sum() > limit:
            assert len(set(bands[low:high])) == 1, "more than one band beyond the limit"
        if high < len(rows):
            assert (codes[high - 1], bands[high - 1]) != (codes[high], bands[high])
    for (low, high), (_, end) in pairwise(slabs):
        if codes[low] == codes[high]:
            following = [at for at in range(high, end) if bands[at] == bands[high]]
            assert weights[low:high].sum() + weights[following].sum() > limit, "two slabs that would fit into one"


def test_no_rows_no_slabs():
    assert cut_slabs(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64), limit=5) == []
