"""What is said of training loaders was delivered: cells are told apart by their counts, not by a loader's word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import loading_child, loading_env
from benchmarks.findings import findings, loading_ratios
from benchmarks.loading_data import read_truth
from benchmarks.loading_matrix import Delivered, Truth, as_csr, fingerprints, n_rows
from benchmarks.loading_plot import draw_loading
from benchmarks.loading_settings import LoadSettings
from benchmarks.loading_ways import FIRST, WAYS, WITH_WORKERS, ways_for
from benchmarks.processes import TreePeak
from benchmarks.report import report_text
from benchmarks.results import Results


def _counts(n_cells=40, n_genes=30, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(rng.poisson(0.4, (n_cells, n_genes)).astype(np.float32))


def _truth(counts):
    return Truth(np.sort(fingerprints(counts)), int(counts.sum()))


small_counts = st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=6)


@settings(deadline=None)  # other suites share the cores
@given(small_counts)
@example([[0] * 5, [1, 0, 0, 0, 2], [0] * 5, [0, 3, 0, 0, 0], [0] * 5])
def test_a_fingerprint_is_a_cells_counts_whatever_stands_around_it(rows):
    dense = np.array(rows, np.float32)
    together = fingerprints(dense)
    assert together.tolist() == [int(fingerprints(dense[row : row + 1])[0]) for row in range(len(dense))]
    same = {
        (together[a] == together[b]) == bool((dense[a] == dense[b]).all())
        for a in range(len(rows))
        for b in range(len(rows))
    }
    assert same == {True}


@settings(deadline=None)
@given(small_counts, st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_see_the_order_of_entries(rows, random):
    csr = sp.csr_matrix(np.array(rows, np.float32))
    mixed = csr.copy()
    for start, stop in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
        order = list(range(start, stop))
        random.shuffle(order)
        mixed.indices[start:stop], mixed.data[start:stop] = csr.indices[order], csr.data[order]
    assert fingerprints(mixed).tolist() == fingerprints(csr).tolist()


def test_every_form_of_a_batch_is_the_same_cells():
    counts = _counts()
    ragged = counts.data, counts.indices, np.diff(counts.indptr)
    for form in (counts, counts.toarray(), sp.csr_array(counts), ragged):
        assert n_rows(form) == 40
        assert fingerprints(form).tolist() == fingerprints(counts).tolist()
    assert (as_csr(ragged)[:, : counts.shape[1]] != counts[:, : as_csr(ragged).shape[1]]).nnz == 0


def _delivered(*batches):
    delivered = Delivered()
    for batch in batches:
        delivered.add(batch)
    return delivered


def test_an_epoch_is_every_cell_once_in_any_order():
    counts = _counts()
    counts = sp.vstack([counts, counts[:3]]).tocsr()  # a Census has twins
    order = np.random.default_rng(1).permutation(43)
    found = _delivered(counts[order[:20]], counts[order[20:]]).check(_truth(counts), whole=True)
    assert (found["cells"], found["distinct"], found["counts"]) == (43, 40, int(counts.sum()))
    part = _delivered(counts[order[:20]]).check(_truth(counts), whole=False)
    assert part["cells"] == 20


def _with_another_count(counts):
    changed = counts.copy()
    changed.data[7] += 1
    return changed


@pytest.mark.parametrize(
    ("batches", "whole"),
    [
        (lambda counts: [counts[:39]], True),
        (lambda counts: [counts, counts[:1]], True),
        (lambda counts: [counts[:39], counts[:1]], True),
        (lambda counts: [counts[:5], counts[:5]], False),
        (lambda counts: [_with_another_count(counts)], True),
        (lambda counts: [_with_another_count(counts)[:10]], False),
    ],
    ids=["lost", "one more", "one for another", "twice in a part", "another count", "another count in a part"],
)
def test_what_is_not_every_cell_once_is_told(batches, whole):
    counts = _counts()
    with pytest.raises(ValueError, match="came"):
        _delivered(*batches(counts)).check(_truth(counts), whole=whole)


def test_the_truth_is_read_from_the_file_by_h5py_alone(tmp_path):
    import anndata

    counts = _counts(5_000, 20)
    anndata.AnnData(counts).write_h5ad(tmp_path / "whole.h5ad", compression="gzip")
    read_truth(tmp_path / "whole.h5ad").write(tmp_path / "truth.npz")
    truth = Truth.read(tmp_path / "truth.npz")
    assert truth.total == int(counts.sum())
    assert truth.cells.tolist() == sorted(fingerprints(counts).tolist())


def test_one_twin_is_not_another_cell_a_second_time_nor_a_count_a_part_of_one():
    three = sp.csr_matrix(np.array([[1, 0], [1, 0], [0, 1]], np.float32))
    for delivered in (three[[0, 2, 2]], three * 1.5):
        with pytest.raises(ValueError, match="3 cells"):
            _delivered(delivered).check(_truth(three), whole=True)


def _measure(monkeypatch, capsys, tmp_path, loader, *arguments):
    counts = _counts()
    _truth(counts).write(tmp_path / "truth.npz")
    fake = SimpleNamespace(open_loader=lambda _place, settings: loader(counts, settings))
    monkeypatch.setitem(sys.modules, "benchmarks.loading_fake", fake)
    words = ["loading_fake", "place", LoadSettings(batch_cells=10).text(), "--truth", str(tmp_path / "truth.npz")]
    assert loading_child.main([*words, *arguments]) == 0
    *said, row = capsys.readouterr().out.splitlines()
    return said, json.loads(row)


class _Fake:
    """Delivers the cells in order, `lost` of them not."""

    lost = 0

    def __init__(self, counts, settings):
        self._counts, self._size, self.epochs = counts, settings.batch_cells, []

    def epoch(self, number):
        self.epochs.append(number)
        for start in range(0, self._counts.shape[0] - self.lost, self._size):
            yield self._counts[start : start + self._size]


def test_a_child_checks_one_epoch_and_measures_another(monkeypatch, capsys, tmp_path):
    said, row = _measure(monkeypatch, capsys, tmp_path, _Fake)
    assert said == ["measuring", "measured"]
    assert row["checked"]["whole"] is True
    assert (row["checked"]["cells"], row["rows"]) == (40, 40)
    assert row["rows_per_s"] > 0
    assert row["cold_s"] >= row["first_batch_s"]
    _, part = _measure(monkeypatch, capsys, tmp_path, _Fake, "--batches", "2", "--checked", "2")
    assert (part["checked"]["cells"], part["checked"]["whole"], part["rows"]) == (20, False, 20)
    said, first = _measure(monkeypatch, capsys, tmp_path, _Fake, "--first")
    assert said == []
    assert "rows" not in first


def test_a_child_refuses_to_measure_what_loses_cells(monkeypatch, capsys, tmp_path):
    class Losing(_Fake):
        lost = 10

    with pytest.raises(ValueError, match="30 cells"):
        _measure(monkeypatch, capsys, tmp_path, Losing)


def test_settings_travel_as_text():
    told = LoadSettings(block_cells=7, form="dense", workers=3)
    assert LoadSettings.parse(told.text()) == told
    assert LoadSettings().fetch_batches == 16


def test_ways_have_names_of_their_own_and_the_same_cells_a_batch():
    for ways in (WAYS, FIRST, WITH_WORKERS):
        assert len({(way.name, way.settings.form) for way in ways}) == len(ways)
        assert {way.settings.batch_cells for way in ways} == {512}
    shared = {way.name: way.settings for way in WAYS if way.settings.form == "csr"}
    assert shared["ours, lz4"] == shared["annbatch"] == shared["scDataset"]
    for size in (32, 512):
        assert shared[f"ours, lz4, blocks of {size}"] == shared[f"annbatch, blocks of {size}"]


def test_without_a_newer_python_its_ways_are_left_out_and_quick_ones_are_small():
    assert {way.python for way in ways_for(WAYS, newer=False, quick=False)} == {"", "3.11"}
    assert ways_for(WAYS, newer=True, quick=False) == WAYS
    for way in ways_for(WAYS, newer=True, quick=True):
        assert way.settings.buffer_cells <= 2_048
        assert way.batches in (None, 4)


def _program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_that_is_only_a_stand_in_is_none(monkeypatch, tmp_path):
    _program(tmp_path / "python3.12", "echo no such version >&2; exit 127")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert loading_env.find_python("3.12") is None
    assert loading_env.find_python("3.99") is None
    _program(tmp_path / "python3.12", f'exec "{sys.executable}" "$@"')
    assert loading_env.find_python("3.12") == Path(sys.executable)


def test_an_environment_that_cannot_be_made_is_one_error_and_tried_again(monkeypatch, tmp_path):
    monkeypatch.setattr(loading_env, "user_cache_path", lambda _: tmp_path)
    base = _program(tmp_path / "python", "echo no venv here >&2; exit 3")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended with 3: no venv here"):
            loading_env.peer_python("3.11", base)


def test_memory_is_that_of_all_processes_together():
    inner = "import time; held = bytearray(60 << 20); print('held', flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; held = bytearray(60 << 20); subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.stdout.readline()
        assert 120 << 20 < TreePeak(process.pid).stop() < 400 << 20
    finally:
        os.killpg(process.pid, 9)
        process.communicate()
    assert TreePeak(os.getpid()).stop() > 0


def _row(way, form, turn, speed, **more):
    checked = {"cells": 50_000, "distinct": 45_000, "counts": 9, "whole": True}
    return {
        **{"round": turn, "way": way, "form": form, "workers": 0, "block_cells": 64, "buffer_cells": 8_192},
        **{"rows": 50_000, "rows_per_cpu_s": speed, "rows_per_s": speed, "peak_bytes": 1 << 30, "checked": checked},
        **{"first_batch_s": 0.5, "import_s": 1.0, "cold_s": 1.5, **more},
    }


@pytest.fixture
def results():
    speeds = {"ours, lz4": 60_000, "ours, deflate": 30_000, "annbatch": 30_000, "scDataset": 6_000, "AnnLoader": 1_500}
    loading = [
        _row(way, form, turn, noise * speed)
        for turn, noise in enumerate((1.0, 0.5, 1.0))
        for way, speed in speeds.items()
        for form in ("csr", "dense")
    ]
    found = Results({}, {})
    for name, rows in (
        ("loading", loading),
        ("loading_first", [_row("ours, deflate, 100 files", "csr", 0, 1)]),
        ("loading_workers", [_row("ours, lz4", "csr", 0, 40_000, workers=2)]),
        ("loading_far", [_row("ours, lz4", "csr", 0, 20_000, delay_ms=20, gets=500)]),
    ):
        found = found.with_section(name, rows, f"python -m benchmarks --only {name}", 1.0)
    return found


def test_ratios_of_loaders_are_formed_within_a_round(results):
    assert loading_ratios(results, "ours, lz4", "annbatch") == pytest.approx([2, 2, 2])
    found = {one.question: one for one in findings(results)}
    assert found["times the cells a CPU-second that are annbatch's, lz4"].met is True
    assert found["times the cells a CPU-second that are scDataset's on gzip h5ad, deflate"].values == [5, 5, 5]
    assert found["times the cells a CPU-second that are AnnLoader's on gzip h5ad, lz4"].met is True
    assert found["seconds from opening 100 files to the first batch"].met is True


def test_what_was_not_measured_is_not_spoken_of():
    assert not [one for one in findings(Results({}, {})) if "CPU-second that" in one.question]


def test_the_report_has_loaders_by_form(results):
    text = report_text(results)
    assert "| ours, lz4 | 64 x 128 | 60,000 | 60,000 | 1.00 | every cell, once |" in text
    assert "delivered dense float32" in text
    assert "| ours, deflate, 100 files | 0.50 | 1.00 | 1.50 |" in text
    assert "| ours, lz4, 2 | 40,000 | 40,000 | 1.00 |" in text
    assert "| 20 ms away, ours, lz4 | 20,000 | 20,000 | 0.50 | 5.0 |" in text


def test_the_picture_of_loaders_is_drawn(results, tmp_path):
    draw_loading(results, tmp_path / "loading.png")
    assert (tmp_path / "loading.png").read_bytes().startswith(b"\x89PNG")
