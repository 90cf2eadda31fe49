"""What the benchmark of streaming operations shows is what was measured, and its ways write the same numbers."""

from __future__ import annotations

import pytest

from benchmarks import stream_data
from benchmarks.findings import findings
from benchmarks.report import report_text
from benchmarks.results import Results, Section
from benchmarks.stream import _check_same, _facts
from benchmarks.stream_report import OPERATIONS as WORDS
from benchmarks.stream_report import dense_ratios, growth, operation_ratios
from benchmarks.stream_ways import OPERATIONS, WAYS


def row(turn, way, cells, seconds, peak):
    times = {"seconds": seconds, "work_cpu_seconds": 2 * seconds, "peak_rss_mib": peak, "bytes": 1 << 20}
    return {"round": turn, "operation": "to csc", "way": way, "cells": cells, **times}


@pytest.fixture
def results():
    rows = [
        row(turn, way, cells, noise * seconds, peak)
        for turn, noise in enumerate((1.0, 3.0, 2.0))
        for way, cells, seconds, peak in (
            ("ours", 20_000, 0.5, 300), ("ours", 200_000, 5.0, 315),
            ("in memory", 20_000, 2.0, 700), ("backed", 20_000, 4.0, 500),
        )
    ]  # fmt: skip
    dense = [
        {"density": 0.2, "round": turn, "way": way, "seconds": seconds, "cpu_seconds": seconds, "bytes": 10**9}
        for turn in range(3)
        for way, seconds in (("ours", 0.5), ("read twice", 0.4))
    ]
    made = {"command": "c", "when": "2026-01-01", "commit": "x", "seconds": 1.0}
    return Results({}, {"stream": Section(tuple(rows), **made), "stream_dense": Section(tuple(dense), **made)})


def test_ratios_are_of_one_round_and_of_the_same_cells(results):
    assert operation_ratios(results, "to csc", "in memory") == [4, 4, 4]
    assert operation_ratios(results, "to csc", "backed", "work_cpu_seconds") == [8, 8, 8]
    assert operation_ratios(results, "sort", "backed") == []
    assert growth(results, "to csc") == [1.05] * 3
    assert dense_ratios(results, 0.2) == [0.8] * 3


def test_what_was_wanted_is_in_the_report(results):
    found = {finding.question: (finding.values, finding.met) for finding in findings(results) if finding.values}
    assert found == {
        "times as fast as anndata and scanpy in memory: CSR to CSC": ([4, 4, 4], True),
        "times as fast as backed mode: CSR to CSC": ([8, 8, 8], True),
        "of its memory with ten times the cells: CSR to CSC": ([1.05] * 3, True),
        "of the speed of reading a dense block twice, by CPU-seconds, 20% not zero": ([0.8] * 3, True),
    }
    text = report_text(results)
    assert "| CSR to CSC, 20,000 cells: in memory | 4.00 | 4 (4 to 4) | 8.00 | 4 (4 to 4) | 700 | 1.0 |" in text
    assert "| 20% not zero | 2.0 | 2.5 | 0.8 (0.8 to 0.8) | 0.8 (0.8 to 0.8) |" in text


@pytest.mark.parametrize("operation", ["filter", "to csc", "to csr", "dense to csr", "sort"])
def test_every_way_writes_the_same_numbers(tmp_path, monkeypatch, operation):
    monkeypatch.setattr("benchmarks.stream_ways._SLICE_CELLS", 23)
    assert set(OPERATIONS) == set(WORDS)
    source = tmp_path / f"{OPERATIONS[operation]}-60.h5ad"
    stream_data._make(OPERATIONS[operation], 60, source)
    rows = []
    for way, call in WAYS.items():
        out = tmp_path / "out.h5ad"
        call(operation, source, out)
        rows.append({"operation": operation, "way": way, **_facts(out)})
        out.unlink()
    _check_same(rows)
    with pytest.raises(ValueError, match="not what is written by ours"):
        _check_same([*rows, {**rows[0], "nnz": 1}])
