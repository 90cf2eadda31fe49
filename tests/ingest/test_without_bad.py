"""Bad samples hold back their chunks and no others; --without-bad finishes without them, and says so."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import cache

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem
from scipy import sparse

from index.build import ScBaseCountOptions, index_scbasecount
from ingest.cli.qc import judge_dataset
from ingest.errors import ConfigError
from ingest.hvg.find import check_request, find_hvgs, read_data
from ingest.hvg.parameters import HvgParameters
from ingest.opened import open_plan
from ingest.pool import Failure
from ingest.preparing import divide_work, profile_of_plan
from ingest.qc.parameters import QcRules
from ingest.repairing import repair_dataset
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.source import Source
from ingest.status import dataset_status
from ingest.store.open import open_store
from ingest.testing.datasets import SilentObserver, make_dataset, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.h5ad_same import assert_same
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount
from ingest.testing.scbasecount_damage import DAMAGES, damage_sample
from ingest.verifying import verify_dataset
from ingest.without_bad import find_culprits, run_without_bad

SPEC = ScBaseCountSpec(
    mean_cells=15,
    n_genes=60,
    mean_molecules=20,
    releases=("2026-01-12",),
    features=("GeneFull_Ex50pAS",),
    organisms=("Homo_sapiens",),
)
WORK = WorkSettings(workers=1)
DATA = DataSettings(cells_per_chunk=20)
MIXED = replace(DATA, shuffle="window", shuffle_window=60)
BAD = "SRX1041167"
"""Dense, neither the first nor the last, and of several chunks' size."""
KINDS = {
    "missing": {"no-such-file", "source-gone"},
    "truncated": {"truncated", "source-changed"},
    "other-genes": {"other-genes", "source-changed"},
    "no-counts": {"no-counts", "source-changed"},
    "obs-count": {"obs-count", "source-changed"},
    "other-cells": {"other-cells", "source-changed"},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_scbasecount(tmp_path_factory.mktemp("scb") / "bucket", SPEC)


@pytest.fixture
def copy(built, tmp_path):
    found = type(built)(tmp_path / "bucket", built.spec)
    shutil.copytree(built.path, found.path)
    return found


def file_of(built, accession=BAD):
    return built.file(accession, release=SPEC.releases[0], feature=SPEC.features[0], organism=SPEC.organisms[0])


def index_of(built, path, **options):
    index_scbasecount(ScBaseCountOptions(path, root=str(built.path), **options))
    return path


def finish_without_bad(url):
    opened = open_plan(open_store(str(url)))
    work = divide_work(profile_of_plan(opened, WORK), opened, opened.ledger.done(), WORK)
    said = []

    def run_once(opened, work):
        return run_plan(opened, work, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)

    opened, report = run_without_bad(opened, work, WORK, run_once, lambda _, left_out: said.extend(left_out))
    return opened, report, said


def cells_of(dest):
    """Read all chunks with plain anndata: name -> (gene -> count)."""
    found = {}
    for path in sorted((dest / "chunks").glob("*.h5ad")):
        chunk = anndata.read_h5ad(path)
        matrix = sparse.csr_matrix(chunk.X).toarray()
        for name, row in zip(chunk.obs_names, matrix, strict=True):
            assert name not in found
            found[name] = row
    return found, list(chunk.var_names)


@cache
def cells_of_sample(path):
    """Read a sample that nothing has changed: name -> (gene -> count)."""
    file = anndata.read_h5ad(path)
    return dict(zip(file.obs_names, sparse.csr_matrix(file.X).toarray(), strict=True))


def expected_cells(built, accessions):
    return {
        f"{accession}:{name}": row
        for accession in accessions
        for name, row in cells_of_sample(file_of(built, accession)).items()
    }


def accessions(built):
    return [path.stem for path in file_of(built).parent.glob("*.h5ad")]


def check_same(dest, expected):
    found, _ = cells_of(dest)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def _cases():
    """Every damage once, before and after indexing in turn; `long` has it both ways, and with other settings."""
    for at, damage in enumerate(DAMAGES):
        for when in ("before indexing", "after indexing"):
            for name, data in (("", DATA), (", mixed", MIXED)):
                short = data is DATA and (at % 2 == 1) is (when == "after indexing")
                marks = () if short else pytest.mark.long
                yield pytest.param(damage, when, data, marks=marks, id=f"{when}{name}-{damage}")


@pytest.mark.parametrize(("damage", "when", "data"), list(_cases()))
@pytest.mark.sampled(2)
def test_a_bad_sample(built, copy, tmp_path, damage, when, data):
    if when == "before indexing":
        damage_sample(file_of(copy), damage)
    # Not looking into the files: the barcodes are what proves the cells when they are read.
    index = index_of(copy, tmp_path / "index.feather", trust_order=damage == "other-cells")
    table = pd.read_feather(index)
    if damage == "other-cells":  # the sample that obs_metadata lists out of order is another story
        table = table[~table["SRX_accession"].isin(_out_of_order(built, table))].reset_index(drop=True)
        table.to_feather(index)
    if when == "after indexing":
        damage_sample(file_of(copy), damage)
    made = make_dataset(str(tmp_path / "dest"), index, data=data, work=WORK)
    assert made.report.exit_code == 3
    planned = made.opened.index.rows(0, len(table)).to_pandas()
    mine = np.flatnonzero(planned["SRX_accession"] == BAD) // data.cells_per_chunk
    quarantined = made.report.driven.quarantined
    assert set(quarantined) == set(mine.tolist())
    assert {failure.kind for failure in quarantined.values()} <= KINDS[damage]
    assert {Source.parse(failure.source).label for failure in quarantined.values()} == {BAD}
    assert not (tmp_path / "dest" / "_SUCCESS.json").exists()

    opened, report, said = finish_without_bad(tmp_path / "dest")
    assert report.exit_code == 0
    assert [entry.n_cells for entry in said] == [(table["SRX_accession"] == BAD).sum()]
    good = [name for name in table["SRX_accession"].unique() if name != BAD]
    check_same(tmp_path / "dest", expected_cells(built, good))
    _check_told(tmp_path / "dest", opened, said[0])
    assert verify_dataset(opened, deep=True).exit_code == 0
    assert verify_dataset(opened, source=True).findings == ()
    status = dataset_status(opened)
    assert status.complete
    assert status.cells_done == len(table) - said[0].n_cells
    assert BAD in status.left_out[0]


def _out_of_order(built, table):
    for name in table["SRX_accession"].unique():
        barcodes = table[table["SRX_accession"] == name]["cell_barcode"]
        if list(barcodes) != list(cells_of_sample(file_of(built, name))):
            yield name


def _check_told(dest, opened, entry):
    n_left = entry.n_cells
    processing = json.loads((dest / "processing_config.json").read_text())
    assert sum(processing["dropped_cells"].values()) == n_left
    assert [(one["kind"], one["n_cells"]) for one in processing["left_out"]] == [(entry.kind, n_left)]
    success = json.loads((dest / "_SUCCESS.json").read_text())
    assert success["left_out_cells"] == n_left
    assert success["n_cells"] == opened.plan.n_cells - n_left
    chunks = json.loads((dest / "chunk_index.json").read_text())["chunks"]
    assert [one["first_cell"] for one in chunks] == [0, *(one["end_cell"] for one in chunks[:-1])]
    assert chunks[-1]["end_cell"] == success["n_cells"]
    cells = pd.read_feather(dest / "metadata" / "cells.feather")
    assert BAD not in set(cells["SRX_accession"])
    assert len(cells) == success["n_cells"]
    for one in chunks:
        mine = cells.iloc[one["first_cell"] : one["end_cell"]]
        with h5py.File(dest / one["key"]) as file:
            assert list(read_elem(file["obs/cell_barcode"])) == list(mine["cell_barcode"])
    assert BAD not in json.loads((dest / "metadata" / "experiments.json").read_text())["experiments"]
    assert BAD not in np.load(dest / "metadata" / "presence.npz")["datasets"]


def test_several_bad_samples_at_once_and_a_chunk_of_nothing_else(built, copy, tmp_path):
    bad = {"SRX1009491": "truncated", BAD: "no-counts", "SRX1049086": "missing"}
    for accession, damage in bad.items():
        damage_sample(file_of(copy, accession), damage)
    index = index_of(copy, tmp_path / "index.feather")
    dest = tmp_path / "dest"
    assert make_dataset(str(dest), index, data=DataSettings(cells_per_chunk=7), work=WORK).report.exit_code == 3
    opened, report, said = finish_without_bad(dest)
    assert report.exit_code == 0
    assert {opened.labels[entry.source] for entry in said} == set(bad)
    empty = [chunk for chunk in json.loads((dest / "chunk_index.json").read_text())["chunks"] if not chunk["n_cells"]]
    assert empty
    assert anndata.read_h5ad(dest / empty[0]["key"]).shape == (0, len(opened.genes))
    check_same(dest, expected_cells(built, set(accessions(built)) - set(bad)))
    assert verify_dataset(opened, source=True).exit_code == 0


def test_a_finished_dataset_stays_as_it_is(copy, tmp_path):
    damage_sample(file_of(copy), "truncated")
    dest = tmp_path / "dest"
    make_dataset(str(dest), index_of(copy, tmp_path / "i.feather"), data=DATA, work=WORK)
    finish_without_bad(dest)
    before = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    _, report, said = finish_without_bad(dest)
    assert (report.exit_code, said) == (0, [])
    after = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file()}
    assert before == after


def test_a_chunk_made_without_bad_rows_is_repaired_without_them(copy, tmp_path):
    damage_sample(file_of(copy), "truncated")
    dest = tmp_path / "dest"
    make_dataset(str(dest), index_of(copy, tmp_path / "i.feather"), data=DATA, work=WORK)
    opened, _, said = finish_without_bad(dest)
    chunk = said[0].chunks[0][0]
    path = dest / opened.plan.key(chunk)
    right = path.read_bytes()
    (tmp_path / "right.h5ad").write_bytes(right)
    path.write_bytes(right[:100] + b"?" + right[101:])
    report = repair_dataset(opened, None, WORK, open_serial_pool, SilentObserver())
    assert report.repaired == (chunk,)
    assert report.exit_code == 0
    # Cell for cell, which is what is promised; bytes of two makings in one process were seen to differ by one.
    assert_same(anndata.read_h5ad(path), anndata.read_h5ad(tmp_path / "right.h5ad"))


def test_one_bad_count_costs_its_own_chunk(built, copy, tmp_path):
    """The file's other cells are good, and stay."""
    index = index_of(copy, tmp_path / "index.feather")
    dest = tmp_path / "dest"
    data = DataSettings(cells_per_chunk=5)
    make_dataset(str(dest), index, data=data, work=WORK, stop_requested=lambda: True)
    file = file_of(copy)
    before = file.stat()
    with h5py.File(file, "r+") as opened:
        opened["X"][opened["X"].shape[0] // 2, 3] = -1
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # found when read, not by the version
    _, report, said = finish_without_bad(dest)
    assert report.exit_code == 0
    assert [(entry.kind, len(entry.chunks)) for entry in said] == [("negative", 1)]
    found, _ = cells_of(dest)
    expected = expected_cells(built, accessions(built))
    assert 0 < len(expected) - len(found) == said[0].n_cells <= 5
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_a_folder_that_is_gone_is_no_proof(built, copy, tmp_path):
    index = index_of(copy, tmp_path / "index.feather")
    dest = tmp_path / "dest"
    made = make_dataset(str(dest), index, data=DATA, work=WORK, stop_requested=lambda: True)
    assert made.report.exit_code == 130
    shutil.move(copy.path, tmp_path / "unmounted")
    with pytest.raises(ConfigError) as raised:
        finish_without_bad(dest)
    assert raised.value.kind == "sources-gone"
    assert not (dest / "_ingest" / "amendments").exists()
    shutil.move(tmp_path / "unmounted", copy.path)
    _, report, said = finish_without_bad(dest)
    assert (report.exit_code, said) == (0, [])
    check_same(dest, expected_cells(built, accessions(built)))


def test_trouble_that_may_pass_is_never_left_out(copy, tmp_path, monkeypatch):
    from ingest.errors import TransientError
    from ingest.fetch.h5ad import H5adFetcher

    index = index_of(copy, tmp_path / "index.feather")
    dest = tmp_path / "dest"
    make_dataset(str(dest), index, data=DATA, work=WORK, stop_requested=lambda: True)
    read = H5adFetcher.read

    def fails(self, rows):
        if BAD in self._file.name:
            raise TransientError("503", kind="network")
        return read(self, rows)

    monkeypatch.setattr(H5adFetcher, "read", fails)
    monkeypatch.setattr("ingest.open_sources.Budget", lambda **_: _no_patience())
    opened, report, said = finish_without_bad(dest)
    assert said == []
    assert not opened.amendments
    assert report.exit_code != 0


def _no_patience():
    from ingest.retry import Budget

    return Budget(attempts=1)


@pytest.mark.parametrize("handling", ["transient", "internal", "conflict", "corrupt", "config"])
def test_only_a_source_at_fault_is_a_culprit(copy, tmp_path, handling):
    index = index_of(copy, tmp_path / "index.feather")
    made = make_dataset(str(tmp_path / "dest"), index, data=DATA, work=WORK)
    source = made.opened.plan.identity.sources[3]

    def ended(handling):
        failure = Failure((1,), handling, "no-such-file", "it is said", source=source)
        return replace(made.report, driven=replace(made.report.driven, quarantined={1: failure}))

    assert find_culprits(made.opened, ended(handling)) == []
    assert [culprit.source for culprit in find_culprits(made.opened, ended("source"))] == [3]


def test_one_file_of_its_own_that_is_gone_is_no_proof(tmp_path):
    files = write_sources(tmp_path / "sources", n_files=1)
    index = write_h5ad_index(tmp_path / "index.feather", files)
    dest = tmp_path / "dest"
    make_dataset(str(dest), index, work=WORK, stop_requested=lambda: True)
    files[0].unlink()
    with pytest.raises(ConfigError) as raised:
        finish_without_bad(dest)
    assert raised.value.kind == "sources-gone"


def test_files_of_any_kind_are_left_out(tmp_path):
    files = write_sources(tmp_path / "sources", n_files=3)
    index = write_h5ad_index(tmp_path / "index.feather", files)
    dest = tmp_path / "dest"
    make_dataset(str(dest), index, work=WORK, stop_requested=lambda: True)
    files[1].unlink()
    opened, report, said = finish_without_bad(dest)
    assert report.exit_code == 0
    assert [entry.kind for entry in said] == ["source-gone"]
    found, genes = cells_of(dest)
    assert len(found) == 60
    assert list(opened.genes.ids) == genes


class Unmoved(SilentObserver):
    def reached(self, n_cells):
        pass


@pytest.mark.parametrize("format_name", ["h5ad", "h5"])
def test_what_is_left_out_is_no_part_of_what_is_computed(copy, tmp_path, format_name):
    index = index_of(copy, tmp_path / "index.feather")
    damage_sample(file_of(copy), "no-counts")
    data = replace(DATA, format=format_name, dtype="float32" if format_name == "h5ad" else "int16")
    assert make_dataset(str(tmp_path / "dest"), index, data=data, work=WORK).report.exit_code == 3
    opened, report, _ = finish_without_bad(tmp_path / "dest")
    assert report.exit_code == 0
    cells = pd.read_feather(tmp_path / "dest" / "metadata" / "cells.feather")
    request = check_request(read_data(opened), HvgParameters.of(batch_key="SRX_accession"), memory_bytes=1 << 30)
    assert dict(request.batches) == cells["SRX_accession"].astype(str).value_counts().to_dict()
    found = find_hvgs(request, WORK, open_serial_pool, lambda _word: Unmoved())
    assert found.moments.n_cells == len(cells)
    assert verify_dataset(opened, deep=True).exit_code == 0
    # `qc` numbers the cells that chunks hold, too, and its index has no others.
    judge_dataset(
        read_data(opened), QcRules.of({"mad": 1}), open_store(str(tmp_path / "qc")), replace(WORK, pool="serial")
    )
    judged = pd.read_feather(tmp_path / "qc" / "qc_cells.feather")
    assert len(judged) == len(cells)
    assert 0 < judged["kept"].sum() < len(cells)
    if format_name == "h5ad":
        counts, _ = cells_of(tmp_path / "dest")
        assert judged["n_genes_by_counts"].tolist() == [int((row > 0).sum()) for row in counts.values()]
    kept = cells[judged["kept"].to_numpy()].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_feather(tmp_path / "qc" / "qc_index.feather"), kept)
