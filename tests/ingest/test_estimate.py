"""Which parts are tried, and how a few of them stand for all: numbers in, numbers out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale import census_profile
from ingest.estimate import Prices, Range, Requests, cost_of, dest_requests, estimate, makespan_s
from ingest.expected import Expected, SharedLine
from ingest.profile import Profile
from ingest.trial import MOST_CELLS, Trial, draw_parts
from ingest.units import Unit, cut_units

SIZE = 1_000


def profile_with(n_chunks, uncut=()):
    numbers, flags = np.arange(n_chunks, dtype=np.int64), np.zeros(n_chunks, bool)
    flags[list(uncut)] = True
    return Profile(numbers, numbers, numbers + 1, numbers * 1.0, numbers + 1.0, 5, flags)


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=30),
    n_parts=st.integers(1, 12),
    seed=st.integers(0, 1_000),
    window=st.integers(1, 7),
)
def test_parts_are_runs_of_a_units_chunks_that_one_worker_may_make(lengths, n_parts, seed, window):
    starts = np.cumsum([0, *lengths]) * window
    units = [Unit(tuple(range(a, b))) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
    n_chunks = int(starts[-1])
    profile = profile_with(n_chunks, [chunk for chunk in range(n_chunks) if chunk % window])
    parts = draw_parts(profile, units, SIZE, n_parts, seed)
    assert 1 <= len(parts) <= min(n_parts, len(units))
    assert parts == draw_parts(profile, units, SIZE, n_parts, seed)
    whose = {chunk: number for number, unit in enumerate(units) for chunk in unit.chunks}
    assert len({whose[part[0]] for part in parts}) == len(parts)
    for part in parts:
        unit = units[whose[part[0]]].chunks
        assert part == tuple(range(part[0], part[-1] + 1))
        assert set(part) <= set(unit)
        assert part[0] % window == 0  # windows are whole
        assert part[-1] == unit[-1] or (part[-1] + 1) % window == 0
        assert part == unit or MOST_CELLS // SIZE <= len(part) <= max(
            2 * MOST_CELLS // SIZE, MOST_CELLS // SIZE + window
        )


@pytest.mark.parametrize("seed", range(10))
def test_bands_are_not_split_where_they_need_not_be(seed):
    profile = census_profile(2_048 * 400, 512)
    (part,) = draw_parts(profile, [Unit(tuple(range(1_600)))], 512, 1, seed)
    assert part[0] % 4 == 0
    assert len(part) % 4 == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_source_is_tried_where_there_are_as_many_parts_as_sources(seed):
    units = [Unit(tuple(range(start, start + 10))) for start in range(0, 200, 10)]  # five sources of four units each
    drawn = draw_parts(profile_with(200), units, SIZE, 5, seed)
    assert [part[0] // 40 for part in drawn] == [0, 1, 2, 3, 4]


def test_every_unit_is_as_likely_as_it_is_long():
    units = [Unit((0,)), Unit(tuple(range(1, 10)))]
    first = [draw_parts(profile_with(10), units, SIZE, 1, seed)[0][0] for seed in range(2_000)]
    assert first.count(0) == pytest.approx(200, abs=50)


def test_no_units_no_parts():
    assert draw_parts(profile_with(1), [], SIZE, 4, 0) == []


def tried(part, *, times=1.0, told=True):
    return Trial(
        chunks=tuple(range(part.n_chunks)),
        n_cells=part.n_cells,
        seconds=part.seconds * times,
        cpu_seconds=part.seconds,
        bytes_read=round(part.read_bytes * times) if told else 0,
        bytes_written=round(part.write_bytes * times),
        requests=10,
        beside_bytes=part.n_cells * 7,
    )


PART = Expected(n_cells=1_000, n_chunks=2, read_bytes=1e6, write_bytes=2_000_000, seconds=0.5)
WHOLE = Expected(n_cells=100_000, n_chunks=200, read_bytes=1e8, write_bytes=200_000_000, seconds=50.0)


def estimated(trials, **changes):
    settings = {
        "unit_seconds": [10.0] * 5,
        "workers": 2,
        "start_s": 8.0,
        "finish_s": 1.0,
        "index_bytes": 500,
        "line": None,
        "opening": Requests(get=3, list=4),
        "dest": Requests(put=1),
        **changes,
    }
    return estimate(WHOLE, [PART] * len(trials), trials, **settings)


def test_what_a_part_came_to_is_scaled_by_what_the_plan_expects():
    found = estimated([tried(PART, times=2.0), tried(PART, times=1.0)])
    assert found.worker_seconds == Range(50.0, 75.0, 100.0)
    assert found.cpu_seconds == Range(50.0, 50.0, 50.0)
    assert found.write_bytes == Range(2e8, 3e8, 4e8)
    assert found.read_bytes == Range(1e8, 1.5e8, 2e8)
    assert found.storage_bytes == found.write_bytes.plus(500 + 7 * 100_000)
    assert found.wall_seconds == Range(30.0, 45.0, 60.0).plus(9.0)  # three units are one worker's
    assert found.source_requests == Requests(get=1_003, list=4)


def test_where_the_library_does_not_tell_the_plan_is_believed():
    assert estimated([tried(PART, times=2.0, told=False)]).read_bytes == Range(1e8, 1e8, 1e8)


def test_a_line_takes_its_time_for_all_that_passes():
    found = estimated([tried(PART)], line=SharedLine(1e6, carries_reads=True, carries_writes=True))
    assert found.wall_seconds == Range(309.0, 309.0, 309.0)
    assert found.worker_seconds == Range(600.0, 600.0, 600.0)  # two wait for it
    wide = SharedLine(1e9, carries_reads=True, carries_writes=True)
    assert estimated([tried(PART)], line=wide).wall_seconds == estimated([tried(PART)]).wall_seconds
    here = SharedLine(1e6, carries_reads=False, carries_writes=True)
    assert estimated([tried(PART)], line=here).wall_seconds.middle == pytest.approx(209.0)


@given(
    units=st.lists(st.floats(0.1, 100), min_size=1, max_size=50),
    workers=st.integers(1, 10),
)
def test_the_last_unit_ends_no_sooner_than_it_can(units, workers):
    ends = makespan_s(units, workers)
    assert max(max(units), sum(units) / workers) - 1e-6 <= ends <= sum(units) / workers + max(units) + 1e-6


def test_prices_are_asked_for_and_added_up():
    found = estimated([tried(PART)], dest=Requests(put=1_000, get=2_000, list=996))
    assert cost_of(found, 4, Prices()) == {}
    costs = cost_of(found, 4, Prices(core_hour=0.9, gb_month=0.02, per_1000_put=0.005, per_1000_get=0.0004))
    assert costs["compute"].middle == pytest.approx(50 * 4 / 3600 * 0.9)
    assert costs["writing requests"].middle == pytest.approx(2_000 / 1_000 * 0.005)
    assert costs["reading requests"].middle == pytest.approx(3_003 / 1_000 * 0.0004)
    assert costs["the run"].middle == pytest.approx(sum(costs[name].middle for name in list(costs)[:3]))
    assert costs["storage a month"].middle == pytest.approx(found.storage_bytes.middle * 0.02e-9)


def test_listings_come_in_pages():
    few = dest_requests(n_chunks=100, n_done=0, n_units=2, n_batches=2, workers=1, index_bytes=1)
    many = dest_requests(n_chunks=100, n_done=6_480, n_units=2, n_batches=2, workers=1, index_bytes=1)
    assert many.list - few.list == 4 * 6
    assert many.get - few.get == 6_480


def test_a_census_is_cut_and_drawn_from_in_no_time():
    profile = census_profile(162_000_000, 25_000)
    units = cut_units(profile, range(profile.n_chunks), workers=100)
    parts = draw_parts(profile, units, 25_000, 8, 0)
    assert len(parts) == 8
    assert {len(part) for part in parts} <= {2, 3, 4}
