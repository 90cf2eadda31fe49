from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.units import OVERREAD, Profile, Unit, cut_slabs, cut_units, profile_chunks, read_bytes


def survey(layout="soma", band_rows=4, n_obs=100, nnz=1000, stored_bytes=8000):
    return SimpleNamespace(layout=layout, band_rows=band_rows, n_obs=n_obs, nnz=nnz, stored_bytes=stored_bytes)


def cells_of(codes, coordinates, nnz=None):
    import pyarrow as pa

    class FakeCells(SimpleNamespace):
        def __len__(self):
            return len(self.codes)

    table = pa.table({"row": coordinates} if nnz is None else {"row": coordinates, "nnz": nnz})
    return FakeCells(codes=np.array(codes, np.int32), coordinates=np.array(coordinates, np.int64), table=table)


@st.composite
def plans(draw):
    """Draw cells of up to three sources, cut into chunks, with a profile."""
    surveys = [
        survey(
            draw(st.sampled_from(["soma", "csr", "csc"])),
            draw(st.sampled_from([1, 2, 5, 50])),
            stored_bytes=draw(st.integers(1, 9000)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    codes, coordinates = [], []
    for number in range(len(surveys)):
        rows = draw(st.lists(st.integers(0, 99), min_size=1, max_size=60, unique=True))
        codes += [number] * len(rows)
        coordinates += sorted(rows)
    nnz = draw(st.none() | st.lists(st.integers(0, 50), min_size=len(codes), max_size=len(codes)))
    cells = cells_of(codes, coordinates, nnz)
    size = draw(st.integers(1, 25))
    return cells, surveys, size, profile_chunks(cells, surveys, size, uncut_bytes=4000, n_genes=30)


@given(plans())
def test_the_profile_is_a_count_of_bands(plan):
    cells, surveys, size, profile = plan
    bands = [(int(c), int(x) // surveys[c].band_rows) for c, x in zip(cells.codes, cells.coordinates, strict=True)]
    ordinal = {band: at for at, band in enumerate(dict.fromkeys(bands))}
    known = cells.table["nnz"].to_pylist() if "nnz" in cells.table.column_names else [10] * len(bands)
    for chunk, start in enumerate(range(0, len(bands), size)):
        mine = bands[start : start + size]
        assert profile.first_band[chunk] == ordinal[mine[0]]
        assert profile.last_band[chunk] == ordinal[mine[-1]]
        assert profile.nnz[chunk] == sum(min(value, 30) for value in known[start : start + size])
        before = cells.codes[start - 1] if start else -1
        large = surveys[cells.codes[start]].layout == "csc" and surveys[cells.codes[start]].stored_bytes > 4000
        assert profile.uncut[chunk] == (before == cells.codes[start] and large)
    per_band = dict.fromkeys(ordinal, 0)
    for band, value in zip(bands, known, strict=True):
        per_band[band] += min(value, 30)
    assert profile.largest_band_nnz == max(per_band.values())
    assert profile.n_chunks == -(-len(bands) // size)
    wanted = [surveys[c].stored_bytes / 100 * min(surveys[c].band_rows, 100) for c, _ in ordinal]
    np.testing.assert_allclose(profile.band_bytes, wanted)


def test_unknown_nnz_is_the_sources_mean():
    profile = profile_chunks(cells_of([0, 0, 0], [1, 2, 3], [5, -1, 7]), [survey()], 3, uncut_bytes=1, n_genes=30)
    assert profile.nnz.tolist() == [5 + 10 + 7]


def splits(profile, units):
    """Count the cuts between consecutive chunks of two units that fall inside a band."""
    found = 0
    for left, right in pairwise(units):
        a, b = left.chunks[-1], right.chunks[0]
        found += b == a + 1 and profile.last_band[a] == profile.first_band[b]
    return found


@settings(max_examples=150)
@given(plans(), st.integers(1, 6), st.data())
def test_units_hold_every_missing_chunk_once_and_split_few_bands(plan, workers, data):
    profile = plan[3]
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
    n_bands = int(last[-1]) + 1
    return Profile(
        first,
        last,
        nnz=np.full(n_chunks, nnz, np.int64),
        band_bytes=np.full(n_bands, 1000.0),
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


@settings(max_examples=150)
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
