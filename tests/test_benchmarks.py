"""What the benchmarks show is what was measured, and the two ways they compare bring the same cells and counts."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from benchmarks.bare_read import band_ranges
from benchmarks.census import select
from benchmarks.findings import Finding, findings, seed_ratios
from benchmarks.processes import Gauge, peak_rss_bytes
from benchmarks.report import BEGIN, END, report_text, with_report
from benchmarks.results import Results
from benchmarks.scripts import json_rows
from benchmarks.seed_way import chunks_of, sample_of, write_chunk
from benchmarks.values import Measured
from ingest.cells import read_cells
from ingest.cli.pools import pool_for
from ingest.committing import commit_plan
from ingest.preparing import divide_work, draft_dataset
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.store.open import open_store
from ingest.testing.census import CensusSpec, build_census

DOCS = Path(__file__).resolve().parents[1] / "docs"


def _measured(way, size, seconds, **more):
    return Measured(
        way,
        cells=1_000,
        seconds=seconds,
        workers=2,
        cells_per_chunk=size,
        chunks=10,
        bytes_written=4_000_000,
        cpu_seconds={"workers": seconds, "driver": 0.1, "store": 0.1},
        peak_rss_bytes=1 << 30,
        **more,
    )


@pytest.fixture
def results():
    comparison, dense, encoding = [], [], []
    for turn, noise in enumerate((1.0, 2.0, 1.0)):
        for size in (100, 5_000):
            for way, seconds in (("seed", 2.4), ("ours", 0.2), ("read", 0.1)):
                row = _measured(way, size, noise * seconds).row(round=turn, size=size, density=0.5, store="fast")
                comparison.append(row)
            encoding += [
                {"way": way, "cells": size, "nnz": 9, "seconds": noise * seconds, "cpu_seconds": 1.0, "bytes": 90}
                | {"bytes_per_cell": 90 / size, "bytes_per_nnz": 10.0, "round": turn, "size": size}
                for way, seconds in (("write_h5ad", 3.0), ("ours", 0.25))
            ]
        for way, seconds in (("ours", 1.0), ("read", 0.8)):
            dense.append(_measured(way, 25_000, noise * seconds).row(round=turn, size=25_000))
        stages = {"way": "stages", "round": turn, "size": 25_000, "cells": 1_000}
        dense.append({**stages, "cpu_seconds": {"read": 0.6 * noise, "encode": 0.4 * noise}})
    hvg = [
        {"way": way, "round": turn, "size": 5_000, "nnz": 10**9, "seconds": 1.0, "peak_rss_mib": 512}
        | {"work_cpu_seconds": noise * seconds}
        for turn, noise in enumerate((1.0, 2.0, 1.0))
        for way, seconds in (("decode", 2.0), ("dispersion", 2.4))
    ]
    found = Results(
        {"cpus": 2, "cpu_model": "X", "memory_gib": 8, "filesystem": "ext4", "system": "L", "python": "3"}, {}
    )
    for name, rows in (("comparison", comparison), ("dense", dense), ("encoding", encoding), ("hvg", hvg)):
        found = found.with_section(name, rows, f"python -m benchmarks --only {name}", 1.0)
    return found


def test_ratios_are_formed_within_a_round(results):
    assert seed_ratios(results, 100) == pytest.approx([12, 12, 12], rel=1e-3)  # the disturbed round disturbs both


def test_findings_say_what_is_met_and_what_was_not_measured(results):
    found = {one.question: one for one in findings(results)}
    assert found["times the seed's way, 100 cells a file"].met is True
    assert found["of the bare read's speed, 25,000 cells a file"].values == pytest.approx([0.8] * 3, rel=1e-3)
    assert found["CPU-seconds over the stages' sum, 25,000 cells a file"].values == pytest.approx([1.0] * 3)
    assert found["of the bare read's speed, 5,000 cells a file"].met is None
    assert found["kB a cell, 100 cells a file"].met is True
    hvg = found["`hvg`'s CPU-seconds over decoding the chunks, 5,000 cells a file"]
    assert (hvg.values, hvg.met) == (pytest.approx([1.2] * 3), True)
    assert Finding("", [3.0, 4.0, 9.0], least=5).met is False
    assert Finding("", [3.0, 4.0, 9.0], most=5).met is True


def test_results_survive_the_file(results, tmp_path):
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    assert json.loads((tmp_path / "results.json").read_text())["format_version"] == 1
    renewed = results.with_section("comparison", [], "again", 0.0)
    assert renewed.rows("comparison") == []
    assert renewed.rows("dense") == results.rows("dense")


def test_the_report_goes_between_the_markers_and_leaves_the_prose(results):
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    renewed = with_report(page, report_text(results))
    assert renewed.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert renewed.partition(END)[2] == page.partition(END)[2]
    assert "| times the seed's way, 100 cells a file | 12 (12 to 12) | at least 10, aim 20 | yes |" in renewed
    assert "| 100, the seed's way | 10 | 417 | 0.6667 |" in renewed
    assert "| 5,000, `hvg` | 1.00 | 2.40 | 2.4 | 0.50 |" in renewed
    assert with_report(renewed, report_text(results)) == renewed
    with pytest.raises(ValueError, match="holds no"):
        with_report("no markers", "")


def test_what_scripts_print_becomes_tables(results):
    text = 'chatter\n{"rows": 100000, "parts": {"draft": 1.25}, "target": null}\n{"chunks": 3}\n'
    report = report_text(results.with_section("planner", json_rows(text), "x", 1.0))
    assert "| rows | parts | target |\n| --- | ---: | ---: |\n| 100,000 | draft 1.25 | - |" in report
    assert "| chunks |\n| --- |\n| 3 |" in report


def test_mixed_chunks_are_shown_beside_source_order(results):
    mixing = {"whole_bits": 3.92, "before": {"mean_bits": 0.53, "min_bits": 0.0}, "after": {"mean_bits": 2.63}}
    mixing["after"]["min_bits"] = 2.4
    rows = [
        _measured("ours", 5_000, noise * seconds, projected_bytes=1 << 30).row(
            round=turn, size=5_000, window=window, **({"mixing": mixing} if window else {})
        )
        for turn, noise in enumerate((1.0, 3.0))
        for window, seconds in ((None, 1.0), (15_000, 1.25))
    ]
    report = report_text(results.with_section("shuffle", rows, "x", 1.0))
    assert "| source order | 667 | 2.00 | 1 (1 to 1) | 1.00 | 1.00 | 4.00 | 0.53 | 0.00 |" in report
    assert "| windows of 15,000 | 533 | 2.50 | 1.25 (1.25 to 1.25) | 1.00 | 1.00 | 4.00 | 2.63 | 2.40 |" in report
    assert "Files of 5,000 cells. Bits: entropy of `dataset_id` in a file, 3.92 in all cells together." in report


def test_the_plot_is_drawn(results, tmp_path):
    from benchmarks.plot import draw

    draw(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_bands_are_cut_into_even_ranges_of_all_cells():
    assert band_ranges(50_000, 8)[0] == (0, 3 * 2_048)
    for n_cells, parts in ((50_000, 8), (5_000, 8), (1, 2), (2_048, 1)):
        ranges = band_ranges(n_cells, parts)
        assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
        assert ranges[-1][1] == n_cells


def test_the_gauge_measures_a_process_and_no_other():
    import os

    gauge = Gauge([os.getpid()])
    gauge.start()
    sum(number * number for number in range(1_000_000))
    usage = gauge.stop()
    assert usage.cpu_seconds["workers"] > 0
    assert usage.peak_rss_bytes == peak_rss_bytes(os.getpid()) > 10_000_000
    assert usage.requests == {}


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=400, n_genes=200, mean_nnz_per_cell=30)
    return build_census(tmp_path_factory.mktemp("bench") / "census", spec)


def test_a_selection_is_exact_scattered_and_always_the_same(census, tmp_path):
    chosen = select(census, tmp_path, 0.5).joinids
    assert len(chosen) == 200
    assert np.all(np.diff(chosen) > 0)
    assert 60 < np.count_nonzero(chosen < 200) < 140
    (tmp_path / "again").mkdir()
    assert np.array_equal(select(census, tmp_path / "again", 0.5).joinids, chosen)


def test_a_sample_of_chunks_is_spread_over_the_selection():
    chunks = chunks_of(np.arange(1_050), 100)
    assert [len(chunk) for chunk in chunks] == [100] * 10 + [50]
    assert [int(chunk[0]) for chunk in sample_of(chunks, 4)] == [0, 300, 600, 900]
    assert len(sample_of(chunks, 20)) == 11


class _Nobody:
    def began(self): ...
    def moved(self, n_cells, bytes_written, retries): ...
    def troubled(self, failure, retried): ...
    def draining(self, n_units): ...


@pytest.mark.filterwarnings("ignore:Transforming to str index")  # get_anndata numbers the cells of each chunk
def test_both_ways_bring_the_same_cells_and_counts(census, tmp_path):
    selection = select(census, tmp_path, 0.5)
    settings = WorkSettings(workers=1, pool="serial")
    draft = draft_dataset(
        read_cells(selection.index), DataSettings(cells_per_chunk=80), settings, cache=tmp_path / "cache"
    )
    opened = commit_plan(open_store(str(tmp_path / "dest")), draft)
    work = divide_work(draft.profile, opened, opened.ledger.done(), settings)
    report = run_plan(opened, work, settings, pool_for(settings), _Nobody(), stop_requested=lambda: False)
    assert report.exit_code == 0
    ours = sorted((tmp_path / "dest" / "chunks").iterdir())
    theirs = chunks_of(selection.joinids, 80)
    assert len(ours) == len(theirs) == 3
    for path, joinids in zip(ours, theirs, strict=True):
        nnz = write_chunk(census.uri, joinids, tmp_path / "theirs.h5ad")
        mine, seeds = anndata.read_h5ad(path), anndata.read_h5ad(tmp_path / "theirs.h5ad")
        assert mine.obs["soma_joinid"].tolist() == seeds.obs["soma_joinid"].tolist() == joinids.tolist()
        assert mine.var_names.tolist() == seeds.var["feature_id"].tolist()
        assert (mine.X != seeds.X).nnz == 0
        assert mine.X.nnz == nnz
