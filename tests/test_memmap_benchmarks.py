"""What is said of memory-mapped arrays was measured on right archives, in processes that were wholly looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks import memmap_child, memmap_convert, memmap_epoch, memmap_tahoe
from benchmarks.findings import findings
from benchmarks.loading_settings import LoadSettings
from benchmarks.memmap_convert import into_page_cache, measure_conversion
from benchmarks.memmap_data import ARRAYS, _with_both, _with_raw, _write_digests, _write_files, array_digests
from benchmarks.memmap_epoch import BareArchive
from benchmarks.memmap_folder import FolderSurvey
from benchmarks.memmap_report import conversion_ratios, row_ratios
from benchmarks.processes import TreeGauge
from benchmarks.report import report_text
from benchmarks.results import Results


def _counts(n_cells=40, n_genes=300, seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(rng.poisson(0.1, (n_cells, n_genes)).astype(np.float32))


def _cells(counts):
    adata = anndata.AnnData(counts.copy())
    adata.obs_names = [f"c{cell}" for cell in range(adata.n_obs)]
    adata.var_names = [f"g{gene}" for gene in range(adata.n_vars)]
    adata.obs["kind"] = "T cell"
    adata.var["name"] = "a gene"
    return adata


def _write_archive(folder, counts):
    """Write arrays as an archive has them, with numpy alone."""
    folder.mkdir()
    counts.data.astype(np.float32).tofile(folder / "data.npy")
    counts.indices.astype(np.uint16).tofile(folder / "col_ptr.npy")
    counts.indptr.astype(np.uint16).tofile(folder / "row_ptr.npy")
    return folder


def test_the_digests_are_those_of_the_arrays_in_the_smallest_types(tmp_path):
    counts = _counts()
    _with_raw(_cells(counts)).write_h5ad(tmp_path / "raw.h5ad", compression="gzip")
    _write_digests(tmp_path / "raw.h5ad", tmp_path / "arrays.json")
    right = json.loads((tmp_path / "arrays.json").read_text())
    archive = _write_archive(tmp_path / "archive", counts)
    assert array_digests(archive) == right
    with (archive / "data.npy").open("r+b") as file:
        file.write(b"\x01")
    assert array_digests(archive) != right


def test_files_have_their_counts_where_bionemo_scdl_looks(tmp_path):
    counts = _counts()
    _with_raw(_cells(counts)).write_h5ad(tmp_path / "raw.h5ad")
    _with_both(_cells(counts)).write_h5ad(tmp_path / "both.h5ad")
    _write_files(_cells(counts), tmp_path / "files")
    for name in ("raw.h5ad", "both.h5ad"):
        read = anndata.read_h5ad(tmp_path / name)
        assert (counts != read.raw.X).nnz == 0
        assert list(read.var["name"]) == ["a gene"] * 300
    assert anndata.read_h5ad(tmp_path / "raw.h5ad").X is None
    assert anndata.read_h5ad(tmp_path / "both.h5ad").X.max() == pytest.approx(np.log1p(1e4 * _largest_share(counts)))
    parts = [anndata.read_h5ad(path).raw.X for path in sorted((tmp_path / "files").iterdir())]
    assert [part.shape[0] for part in parts] == [4] * 10
    assert (sp.vstack(parts) != counts).nnz == 0


def _largest_share(counts):
    return (counts.toarray() / np.asarray(counts.sum(axis=1))).max()


def _run_child(tmp_path, text):
    """Measure ``convert`` of a module that says `text`."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "memmap_fake.py").write_text(text)
    program = tmp_path / "python"  # is handed -m benchmarks.memmap_child and what follows
    told = f"import sys, benchmarks; benchmarks.__path__.append('{tmp_path}/benchmarks'); "
    told += "from benchmarks.memmap_child import main; sys.exit(main(*sys.argv[3:]))"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{told}" "$@"\n')
    program.chmod(0o755)
    return measure_conversion(program, "memmap_fake", "how", tmp_path / "source", tmp_path / "archive")


_CONVERT = """
import pathlib, time
def convert(how, source, archive):
    held = bytearray(60 << 20)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    pathlib.Path(archive).mkdir()
    (pathlib.Path(archive) / "data.npy").write_bytes(bytes(8 << 20))
    del held
"""


def test_a_conversion_is_measured_from_its_beginning_to_its_end(tmp_path):
    row = _run_child(tmp_path, _CONVERT)
    assert row["archive_bytes"] == 8 << 20
    assert row["written_bytes"] >= 8 << 20
    assert row["peak_bytes"] > 60 << 20
    assert row["cpu_seconds"] >= 0.25
    assert row["process_s"] >= row["seconds"] + row["import_s"]


def test_a_conversion_that_fails_is_one_error(tmp_path, capfd):
    with pytest.raises(RuntimeError, match=r"benchmarks.memmap_child memmap_fake how ended with 1"):
        _run_child(tmp_path, "def convert(how, source, archive):\n    raise ValueError('no such way')\n")
    assert "no such way" in capfd.readouterr().err


def test_processes_that_end_count_as_they_were_last_seen():
    inner = "import time; held = bytearray(60 << 20)\nwhile time.process_time() < 0.8: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}]); print('over', flush=True)"
    outer += "; input()"
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    gauge = TreeGauge(process.pid)
    assert process.stdout.readline() == "over\n"
    used = gauge.usage()
    process.communicate("\n")
    assert used.cpu_seconds >= 0.3
    assert used.peak_bytes > 60 << 20


def test_a_wrong_archive_is_no_measurement(tmp_path, monkeypatch):
    data = SimpleNamespace(sources=lambda _: tmp_path / "raw.h5ad", digests=lambda: dict.fromkeys(ARRAYS, "another"))
    (tmp_path / "raw.h5ad").write_bytes(b"source")
    _write_archive(tmp_path / "archive", _counts())
    monkeypatch.setattr(memmap_convert, "measure_conversion", lambda *_: {"seconds": 1.0})
    with pytest.raises(ValueError, match="is not what the file holds"):
        memmap_convert._measure(memmap_convert.WAYS[0], Path(sys.executable), data, tmp_path / "archive")


def test_of_every_source_theirs_is_measured_beside_ours():
    for source in {way.source for way in memmap_convert.WAYS} - {"chunks"}:
        modules = [way.module for way in memmap_convert.WAYS if way.source == source]
        assert modules[0] == "memmap_scdl"
        assert "memmap_ours" in modules
    assert len({(way.source, way.way) for way in memmap_convert.WAYS}) == len(memmap_convert.WAYS)


def test_an_archive_is_read_without_its_library(tmp_path):
    counts = _counts()
    bare = BareArchive(_write_archive(tmp_path / "archive", counts), counts.shape[0])
    for cell in range(counts.shape[0]):
        entries = slice(counts.indptr[cell], counts.indptr[cell + 1])
        wanted = counts.data[entries].tobytes(), counts.indices[entries].astype(np.uint16).tobytes()
        assert bare.row(cell) == wanted


class _Dataset:
    """Has what `memmap_epoch` asks a library for; `wrong` is a row that it gives wrongly."""

    wrong = None

    def __init__(self, _place):
        self._counts = _counts()

    def __len__(self):
        return self._counts.shape[0]

    def get_row(self, number):
        entries = slice(self._counts.indptr[number], self._counts.indptr[number + 1])
        values = self._counts.data[entries] + (number == self.wrong)
        return (values, self._counts.indices[entries].astype(np.uint16)), None, None


class _Loader:
    lost = 0

    def __init__(self, settings):
        self._size = settings.batch_cells

    def epoch(self, _number):
        counts = _counts()
        for start in range(0, counts.shape[0] - self.lost, self._size):
            yield counts[start : start + self._size]


def _epoch(monkeypatch, capsys, tmp_path, loader=_Loader, dataset=_Dataset, seconds="60"):
    _write_archive(tmp_path / "archive", _counts())
    fake = SimpleNamespace(open_loader=lambda _, settings: loader(settings), SingleCellMemMapDataset=dataset)
    monkeypatch.setitem(sys.modules, "benchmarks.memmap_fake", fake)
    settings = LoadSettings(batch_cells=10).text()
    assert memmap_epoch.main("memmap_fake", str(tmp_path / "archive"), settings, seconds) == 0
    *said, row = capsys.readouterr().out.splitlines()
    assert said == ["measuring", "measured"]
    return json.loads(row)


def test_an_epoch_is_counted_and_rows_are_held_against_the_archive(monkeypatch, capsys, tmp_path):
    row = _epoch(monkeypatch, capsys, tmp_path)
    assert (row["cells"], row["whole"], row["checked"]) == (40, True, 40)


def test_an_epoch_may_be_cut_short(monkeypatch, capsys, tmp_path):
    row = _epoch(monkeypatch, capsys, tmp_path, seconds="-1")
    assert (row["cells"], row["whole"]) == (20, False)


def test_an_epoch_that_loses_cells_and_rows_that_are_wrong_are_told(monkeypatch, capsys, tmp_path):
    class Losing(_Loader):
        lost = 10

    class Wrong(_Dataset):
        wrong = 34  # drawn

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="30 cells came in a whole epoch of 40"):
        _epoch(monkeypatch, capsys, tmp_path / "a", loader=Losing)
    with pytest.raises(ValueError, match="row 34 is not what the archive has"):
        _epoch(monkeypatch, capsys, tmp_path / "b", dataset=Wrong)


def test_a_folder_is_surveyed_by_the_files_own_word(tmp_path):
    _write_files(_cells(_counts()), tmp_path / "files")
    survey = FolderSurvey.of(tmp_path / "files")
    assert (survey.files, survey.cells, survey.entries, survey.raw) == (10, 40, _counts().nnz, True)
    assert survey.archive_bytes == 6 * _counts().nnz + 8 * 40
    assert "10 files, 40 cells" in survey.text()
    survey.check_room(tmp_path, 2)
    with pytest.raises(SystemExit, match="GiB free, 1000000000000 archives want"):
        survey.check_room(tmp_path, 10**12)


def test_a_folder_that_cannot_be_converted_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="error: no h5ad files in"):
        FolderSurvey.of(tmp_path)
    anndata.AnnData(np.eye(3, dtype=np.float32)).write_h5ad(tmp_path / "dense.h5ad")
    with pytest.raises(SystemExit, match=r"dense.h5ad has no CSR matrix in X \(--take says where to look\)"):
        FolderSurvey.of(tmp_path)
    with pytest.raises(SystemExit, match="has no CSR matrix in raw/X"):
        FolderSurvey.of(tmp_path, "raw")


def test_an_archive_that_is_there_is_neither_written_over_nor_removed(tmp_path):
    _write_files(_cells(_counts()), tmp_path / "files")
    there = _write_archive(tmp_path / "archive-ours", _counts())
    with pytest.raises(SystemExit, match="archive-ours is there already"):
        memmap_tahoe.main([str(tmp_path / "files"), "--scratch", str(tmp_path), "--with", "ours"])
    assert sorted(path.name for path in there.iterdir()) == sorted(ARRAYS)


@pytest.mark.parametrize("words", [[], ["folder"], ["folder", "--archive", "x"]], ids=["nothing", "no scratch", "both"])
def test_what_is_to_be_replicated_has_to_be_said(words, capsys):
    with pytest.raises(SystemExit) as ended:
        memmap_tahoe.main(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_two_archives_that_differ_are_told(tmp_path):
    one, other = (_write_archive(tmp_path / name, _counts()) for name in ("one", "other"))
    memmap_tahoe._compare(one, other)
    with (other / "row_ptr.npy").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SystemExit, match=r"row_ptr.npy differ"):
        memmap_tahoe._compare(one, other)
    (other / "col_ptr.npy").write_bytes(bytes((one / "col_ptr.npy").stat().st_size))
    with pytest.raises(SystemExit, match=r"col_ptr.npy differ"):
        memmap_tahoe._compare(one, other)


def test_a_source_is_read_whole(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 100)
    into_page_cache(tmp_path / "folder")
    into_page_cache(tmp_path / "folder" / "file")


def _conversion(way, turn, seconds, source="raw.h5ad"):
    return {
        **{"round": turn, "source": source, "way": way, "cells": 50_000, "import_s": 1.0, "seconds": seconds},
        **{"cpu_seconds": seconds, "peak_bytes": (1 + (way != "ours")) << 30, "written_bytes": 1 << 30},
        **{"process_s": seconds + 2, "archive_bytes": 3 << 30},
    }


def _epoch_row(way, turn, speed, batch=512, workers=0):
    return {
        **{"round": turn, "way": way, "batch": batch, "workers": workers, "rows_per_cpu_s": speed, "rows_per_s": speed},
        **{"first_batch_s": 0.5, "peak_bytes": 1 << 30, "checked": {"whole": True}},
    }


@pytest.fixture
def results():
    turns = tuple(enumerate((1.0, 2.0, 1.0)))
    conversions = [
        _conversion(way, turn, noise * seconds)
        for turn, noise in turns
        for way, seconds in (("bionemo-scdl", 12.0), ("bionemo-scdl, 5,000 rows at a time", 18.0), ("ours", 3.0))
    ]
    conversions += [_conversion("ours", turn, 2.0, "chunks") for turn, _ in turns]
    epochs = [
        _epoch_row(way, turn, speed / noise, batch, workers)
        for turn, noise in turns
        for batch, workers in ((512, 0), (64, 0), (512, 2))
        for way, speed in (("bionemo-scdl", 20_000), ("ours, the same lines", 50_000), ("ours, `get_rows`", 100_000))
    ]
    found = Results({}, {})
    for name, rows in (("memmap_convert", conversions), ("memmap_rows", epochs)):
        found = found.with_section(name, rows, f"python -m benchmarks --only {name}", 1.0)
    return found


def test_ratios_are_of_the_ways_that_come_first_and_within_a_round(results):
    assert conversion_ratios(results, "raw.h5ad") == pytest.approx([4, 4, 4])
    assert conversion_ratios(results, "raw.h5ad", "peak_bytes") == pytest.approx([2, 2, 2])
    assert conversion_ratios(results, "chunks") == []
    assert row_ratios(results, "ours, the same lines", 64) == pytest.approx([2.5, 2.5, 2.5])


def test_findings_of_memory_mapped_arrays(results):
    found = {one.question: one for one in findings(results)}
    assert found["times as fast as bionemo-scdl converts one gzip file"].met is True
    assert found["of bionemo-scdl's memory, converting that"].values == pytest.approx([0.5] * 3)
    assert found["times the cells a CPU-second that are bionemo-scdl's, `get_rows`, batches of 512"].met is True
    assert not [one for one in findings(Results({}, {})) if "bionemo-scdl" in one.question]


def test_the_report_has_conversions_and_batches(results):
    text = report_text(results)
    assert "| one gzip file: bionemo-scdl | 12.00 | 1 (1 to 1) | 12.00 | 2.00 | 1.00 | 14.00 |" in text
    assert "| one gzip file: ours | 3.00 | 4 (4 to 4) | 3.00 | 1.00 | 1.00 | 5.00 |" in text
    assert "| chunks that `run` wrote: ours | 2.00 | - | 2.00 | 1.00 | 1.00 | 4.00 |" in text
    assert "50,000 cells, archives of 3.00 GiB" in text
    assert "| 64, ours, the same lines | 50,000 | 2.5 (2.5 to 2.5) | 50,000 | 1.00 | 0.50 |" in text
    assert "| 512, bionemo-scdl, 2 workers | 20,000 | 1 (1 to 1) |" in text


def test_a_child_says_when_it_begins_and_ends(monkeypatch, capsys):
    did = []
    fake = SimpleNamespace(convert=lambda *told: did.append(told))
    monkeypatch.setitem(sys.modules, "benchmarks.memmap_fake", fake)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=lambda: did.append("answered")))
    assert memmap_child.main("memmap_fake", "how", "source", "archive") == 0
    ready, done, row = capsys.readouterr().out.splitlines()
    assert (ready, done) == ("ready", "done")
    assert did == ["answered", ("how", "source", "archive"), "answered"]
    assert set(json.loads(row)) == {"import_s", "seconds"}
