"""The simulated cluster keeps its promises: the same every time, nothing is lost, and told as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks.results import Results, Section
from benchmarks.scale import DAYS, Scenario, scenarios, simulate
from benchmarks.scale_pool import Fleet
from benchmarks.scale_report import BEGIN, END, scale_text, write_scale

CELLS = 1_000_000
CPU = ("driver CPU-s", "CPU-ms an attempt")


def made(row):
    return {name: value for name, value in row.items() if name not in CPU}


@pytest.mark.parametrize("scenario", scenarios(CELLS, 30), ids=lambda one: f"{one.case}-{one.fleet.workers}")
def test_a_scenario_ends_with_all_chunks_and_the_same_every_time(scenario):
    row = simulate(scenario, seed=3)
    assert made(simulate(scenario, seed=3)) == made(row)
    assert row["attempts"] >= row["units"]
    assert row["times the ideal"] >= 1
    assert row["paid hours"] >= row["busy hours"]
    # A listing at the start, and one or two for every worker that was lost without a word.
    assert row["LIST"] <= 1 + 2 * row["lost"] + row["chunks"] // 1_000


def test_a_quiet_day_is_what_can_be_worked_out_by_hand():
    fleet = Fleet(workers=10, cells_per_s=1_000.0, unit_s=2.0, message_s=0.0)
    row = simulate(Scenario("quiet", fleet, CELLS, 10_000))
    busy_s = CELLS / 1_000.0 + 2.0 * row["units"]
    assert row["busy hours"] == pytest.approx(busy_s / 3600, abs=0.05)
    assert 0.99 < row["minutes"] * 60 / (busy_s / 10) < 1.2
    assert (row["lost"], row["attempts"], row["LIST"]) == (0, row["units"], 1)


@settings(deadline=None, max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(
    losses=st.floats(0, 20),  # and one that is lost ten times, too
    throttled=st.floats(0, 0.02),  # a chunk that meets it four times is left to another run
    stragglers=st.floats(0, 0.5),
    workers=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_whatever_befalls_workers_every_chunk_is_made(losses, throttled, stragglers, workers, seed):
    fleet = Fleet(workers, losses_per_h=losses, throttled=throttled, stragglers=stragglers, cells_per_s=5_000.0)
    row = simulate(Scenario("bad", fleet, 400_000, 5_000), seed=seed)  # it raises where one is missing
    assert row["chunks"] == 80
    assert row["attempts"] >= row["units"] + row["lost"]


def test_lost_workers_cost_time_and_what_they_had_made_stands():
    quiet = Fleet(20, cells_per_s=500.0)
    bad = simulate(Scenario("bad", replace(quiet, losses_per_h=30.0), CELLS, 2_000))
    good = simulate(Scenario("good", quiet, CELLS, 2_000))
    assert bad["lost"] > 10
    assert bad["minutes"] > good["minutes"]
    # Chunks that a worker had finished are found by listing, so less than a unit is made again for each that is lost.
    unit_hours = good["busy hours"] / good["units"]
    assert bad["busy hours"] - good["busy hours"] < bad["lost"] * unit_hours


@pytest.fixture
def results():
    rows = tuple(simulate(scenario) for scenario in scenarios(CELLS, 30))
    return Results({}, {"scale": Section(rows, "c", "2026-01-01", "x", 1.0)})


def test_the_page_and_the_plot_show_what_was_simulated(results, tmp_path):
    page = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
    (tmp_path / "scale.md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    write_scale(results, tmp_path)
    renewed = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert renewed.partition(BEGIN)[0] == page.read_text(encoding="utf-8").partition(BEGIN)[0]
    assert renewed.partition(END)[2] == page.read_text(encoding="utf-8").partition(END)[2]
    assert "| quiet | 30 |" in scale_text(results)
    assert scale_text(results) in renewed
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert {row["case"] for row in results.rows("scale")} >= set(DAYS)
    (tmp_path / "scale.md").write_text("no markers")
    with pytest.raises(ValueError, match="holds no"):
        write_scale(results, tmp_path)
