"""Datasets in window order, made from real files: each cell once and right, whoever makes, breaks or stops it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import tiledbsoma
from scipy import sparse

from ingest import rereading, window_store
from ingest.cells import read_cells
from ingest.committing import commit_plan
from ingest.errors import ConfigError, ForeignPlanError, NotCountsError, SourceChangedError, TransientError
from ingest.open_sources import OpenSources
from ingest.opened import open_plan
from ingest.pool import UnitTask
from ingest.preparing import divide_work, draft_dataset, profile_of_plan
from ingest.repairing import repair_dataset
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.store.open import open_store
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import (
    SilentObserver,
    make_dataset,
    open_serial_pool,
    write_census_index,
    write_h5ad_index,
)
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant
from ingest.verifying import verify_dataset
from ingest.vocabulary import GeneRule
from ingest.without_bad import run_without_bad
from ingest.worker import ChunkWorker, ChunkWorkerFactory

SIZE = 20
WINDOW = 80
SHUFFLED = DataSettings(cells_per_chunk=SIZE, shuffle="window", shuffle_window=WINDOW, shuffle_seed=3)
WORK = WorkSettings(workers=1)
LAYOUTS = ["csr", "dense", "csc", "csr", "csr", "dense", "csc", "csr"]
N_GENES = 12


def files_of(folder, n_cells=37):
    folder.mkdir()
    return [
        write_h5ad_variant(
            folder / f"s{at}.h5ad",
            sample_counts(n_cells, N_GENES, seed=at),
            layout=layout,
            obs=sample_obs(n_cells, seed=at),
        )
        for at, layout in enumerate(LAYOUTS)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return files_of(tmp_path_factory.mktemp("files") / "h5ad")


@pytest.fixture(scope="module")
def index(files, tmp_path_factory):
    return write_h5ad_index(tmp_path_factory.mktemp("index") / "i.feather", files)


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=9_000, n_genes=300, mean_nnz_per_cell=40, n_datasets=6, seed=3)
    return build_census(tmp_path_factory.mktemp("census") / "c", spec)


@pytest.fixture(scope="module")
def census_index(census, tmp_path_factory):
    return write_census_index(tmp_path_factory.mktemp("index") / "c.feather", census)


def truth(files):
    """What plain anndata has in the files: name -> counts."""
    found = {}
    for file in files:
        data = anndata.read_h5ad(file)
        matrix = data.X.toarray() if sparse.issparse(data.X) else data.X
        found |= {f"{file.stem}:{name}": row for name, row in zip(data.obs_names, matrix, strict=True)}
    return found


def chunks_of(url):
    return [anndata.read_h5ad(path) for path in sorted((Path(url) / "chunks").iterdir())]


def check_cells(chunks, expected):
    seen = Counter(name for chunk in chunks for name in chunk.obs_names)
    assert set(seen) == set(expected)
    assert set(seen.values()) == {1}
    for chunk in chunks:
        for name, row in zip(chunk.obs_names, chunk.X.toarray(), strict=True):
            assert (row == expected[name]).all(), name


def digest_of(made):
    return json.loads(open_store(made.url).get("_SUCCESS.json"))["digest"]


@pytest.mark.parametrize("max_cells", [None, 83, 1])
def test_every_cell_once_and_chunks_of_many_files(tmp_path, files, index, max_cells):
    made = make_dataset(str(tmp_path / "dest"), index, data=replace(SHUFFLED, max_cells=max_cells), work=WORK)
    assert made.report.exit_code == 0
    chunks, expected = chunks_of(made.url), truth(files)
    if max_cells is not None:
        expected = dict(list(expected.items())[:max_cells])
    check_cells(chunks, expected)
    assert all(chunk.n_obs == SIZE for chunk in chunks[:-1])
    if max_cells is None:
        assert all(len(set(chunk.obs["source"])) >= 2 for chunk in chunks[:-1])
    # Metadata stands with its cell, in chunks and in the table of all cells.
    indexed = pd.read_feather(index).set_index(["source", "row"])
    cells = pd.read_feather(Path(made.url) / "metadata" / "cells.feather")
    assert (pd.concat([chunk.obs for chunk in chunks])["row"].to_numpy() == cells["row"].to_numpy()).all()
    for chunk in chunks:
        for _, cell in chunk.obs.iterrows():
            assert indexed.loc[(cell["source"], cell["row"]), "score"] == cell["score"]
    assert verify_dataset(made.reopen(), deep=True, source=True, work=WORK).findings == ()


@pytest.mark.parametrize(
    "data",
    [
        DataSettings(cells_per_chunk=SIZE, format="h5", dtype="int16"),
        DataSettings(cells_per_chunk=SIZE, dtype="uint16", codec="zstd"),
        DataSettings(cells_per_chunk=SIZE, codec="lz4", genes=GeneRule(("g3", "g1"))),
        DataSettings(cells_per_chunk=SIZE, codec="none", dtype="int32"),
    ],
)
@pytest.mark.sampled(3)
def test_every_format(tmp_path, files, index, data):
    genes = anndata.read_h5ad(files[0]).var_names
    if data.genes.wanted:
        data = replace(data, genes=GeneRule((genes[3], genes[1])))
    data = replace(data, shuffle="window", shuffle_window=WINDOW, shuffle_seed=3)
    made = make_dataset(str(tmp_path / "dest"), index, data=data, work=WORK)
    columns = [genes.get_loc(gene) for gene in data.genes.wanted or genes]
    expected = {name: row[columns] for name, row in truth(files).items()}
    if data.format == "h5":
        for path in sorted((Path(made.url) / "chunks").iterdir()):
            with h5py.File(path) as chunk:
                for name, row in zip(chunk["cells"].asstr()[:], chunk["X"][:], strict=True):
                    assert (row == expected.pop(name)).all()
        assert not expected
    else:
        check_cells(chunks_of(made.url), expected)
    assert verify_dataset(made.reopen(), deep=True, source=True, work=WORK).findings == ()


def test_a_census_as_plain_tiledbsoma_reads_it(tmp_path, census, census_index):
    data = DataSettings(cells_per_chunk=500, shuffle="window", shuffle_window=2_000, shuffle_seed=8)
    made = make_dataset(str(tmp_path / "dest"), census_index, data=data, work=WORK)
    chunks = chunks_of(made.url)
    with tiledbsoma.open(f"{census.uri}/census_data/homo_sapiens/ms/RNA/X/raw") as array:
        table = array.read().tables().concat()
    whole = sparse.coo_matrix(
        (table["soma_data"].to_numpy(), (table["soma_dim_0"].to_numpy(), table["soma_dim_1"].to_numpy())),
        (census.n_cells, census.spec.n_genes),
    ).tocsr()
    wanted = pd.read_feather(census_index)
    joinids = np.concatenate([chunk.obs["soma_joinid"].to_numpy() for chunk in chunks])
    assert sorted(joinids) == sorted(wanted["soma_joinid"])
    for chunk in chunks:
        assert (whole[chunk.obs["soma_joinid"].to_numpy()] != chunk.X).nnz == 0
        assert chunk.obs_names.tolist() == chunk.obs["soma_joinid"].astype(str).tolist()
    mixing = json.loads(open_store(made.url).get("processing_config.json"))["mixing"]
    bits = [bits_of(chunk.obs["dataset_id"]) for chunk in chunks if chunk.n_obs == 500]
    assert mixing["after"]["mean_bits"] == pytest.approx(np.mean(bits), abs=1e-3)
    assert mixing["after"]["min_bits"] == pytest.approx(min(bits), abs=1e-3)
    in_order = [bits_of(wanted["dataset_id"][low : low + 500]) for low in range(0, len(wanted) - 499, 500)]
    assert mixing["before"]["mean_bits"] == pytest.approx(np.mean(in_order), abs=1e-3)
    assert mixing["whole_bits"] == pytest.approx(bits_of(wanted["dataset_id"]), abs=1e-3)
    assert mixing["after"]["mean_bits"] > mixing["before"]["mean_bits"]
    assert verify_dataset(made.reopen(), deep=True, source=True, work=WORK).findings == ()


def bits_of(column):
    shares = column.value_counts(normalize=True)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize("work", [WorkSettings(workers=1), WorkSettings(workers=2), WorkSettings(workers=7)])
def test_the_same_whoever_makes_it(tmp_path, index, work):
    one = make_dataset(str(tmp_path / "one"), index, data=SHUFFLED, work=WORK)
    other = make_dataset(str(tmp_path / "other"), index, data=SHUFFLED, work=work)
    assert digest_of(one) == digest_of(other)


def open_small(factory, size, *, memory_bytes):
    """A pool whose workers read a row or two at once, and hold no window ahead."""
    return open_serial_pool(replace(factory, slab_bytes=1 << 20, window_bytes=0), size, memory_bytes=memory_bytes)


def run_again(url, work=WORK, pool=open_serial_pool, stop_requested=lambda: False):
    opened = open_plan(open_store(url))
    divided = divide_work(profile_of_plan(opened, work), opened, opened.ledger.done(), work)
    return run_plan(opened, divided, work, pool, SilentObserver(), stop_requested=stop_requested)


@pytest.mark.parametrize("pool", [open_serial_pool, open_small])
def test_windows_begun_are_finished_by_whoever_comes_next(tmp_path, index, pool):
    whole = make_dataset(str(tmp_path / "whole"), index, data=SHUFFLED, work=WORK)
    made = make_dataset(str(tmp_path / "part"), index, data=SHUFFLED, work=WORK, stop_requested=lambda: True)
    assert made.report.exit_code == 130
    opened = made.reopen()
    worker = ChunkWorker(factory_of(opened))
    assert worker.run(UnitTask(1, (2, 5, 6, 12), "r-1")).done == (2, 5, 6, 12)  # windows in parts
    report = run_again(made.url, pool=pool)
    assert report.exit_code == 0
    assert report.driven.totals.n_chunks == opened.plan.n_chunks - 4
    assert digest_of(made) == digest_of(whole)


def factory_of(opened, **said):
    known = {
        "dest": opened.store.url,
        "endpoint_url": None,
        "run_id": "r",
        "slab_bytes": 1 << 28,
        "upload_bytes": 1 << 26,
        "window_bytes": 1 << 26,
        "threads": 2,
        "scratch": opened.store.url,
    }
    return ChunkWorkerFactory(**{**known, **said})


def test_a_damaged_chunk_is_made_again_alone(tmp_path, index):
    made = make_dataset(str(tmp_path / "dest"), index, data=SHUFFLED, work=WORK)
    before, path = digest_of(made), Path(made.url) / made.opened.plan.key(5)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    report = repair_dataset(made.reopen(), None, WORK, open_serial_pool, SilentObserver())
    assert report.repaired == (5,)
    assert digest_of(made) == before
    assert verify_dataset(made.reopen(), deep=True, source=True, work=WORK).findings == ()


def test_two_drivers(tmp_path, index):
    made = make_dataset(str(tmp_path / "dest"), index, data=SHUFFLED, work=WORK, stop_requested=lambda: True)
    rival = iter([False, False])

    def stop_requested():
        # Another driver goes the whole way while this one is between two units.
        if next(rival, None) is None and not made.reopen().ledger.done():
            assert run_again(made.url).exit_code == 0
        return False

    assert run_again(made.url, WorkSettings(workers=2), open_small, stop_requested).exit_code == 0
    assert digest_of(made) == digest_of(make_dataset(str(tmp_path / "other"), index, data=SHUFFLED, work=WORK))


def test_another_order_is_another_plan(tmp_path, index):
    make_dataset(str(tmp_path / "dest"), index, data=SHUFFLED, work=WORK)
    for other, said in (
        (replace(SHUFFLED, shuffle_seed=4), "order window:80:3 there, window:80:4 here"),
        (replace(SHUFFLED, shuffle="none", shuffle_window=None), "order window:80:3 there, source here"),
    ):
        with pytest.raises(ForeignPlanError, match=f": {said}$"):
            make_dataset(str(tmp_path / "dest"), index, data=other, work=WORK)


def test_a_window_that_does_not_fit_is_refused_before_anything_is_written(index):
    work = WorkSettings(workers=1, memory_bytes=700 << 20)
    drafted = draft_dataset(read_cells(index), replace(SHUFFLED, shuffle_window=10**7), work, cache=None)
    fat = replace(drafted.profile, largest_window_nnz=10**8)
    with pytest.raises(ConfigError, match="a window of 296 cells takes 381 MiB") as caught:
        divide_work(fat, drafted, (), work)
    assert caught.value.kind == "memory"


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trouble(monkeypatch):
    """A place for trouble when a source is read: (source, rows) -> error or None; and what was asked of it."""
    real = OpenSources.read

    class asked_of:  # noqa: N801  # a namespace
        error = staticmethod(lambda *_: None)
        log: list = []  # noqa: RUF012  # of one test
        unsorted = False

    def read(self, number, coordinates):
        asked_of.log.append((number, coordinates.tolist()))
        if (error := asked_of.error(number, coordinates.tolist())) is not None:
            raise error
        return replace(real(self, number, coordinates), was_unsorted=asked_of.unsorted)

    monkeypatch.setattr(OpenSources, "read", read)
    return asked_of


def drafted(tmp_path, index, data=SHUFFLED):
    return commit_plan(open_store(str(tmp_path / "dest")), draft_dataset(read_cells(index), data, WORK, cache=None))


def home_of(opened, number, row):
    """The chunk that the plan puts a row of a source into."""
    rows = opened.index.rows(0, opened.plan.n_cells).to_pandas()
    [at] = np.flatnonzero((rows["source"] == opened.plan.identity.sources[number]) & (rows["row"] == row))
    return int(at) // SIZE


def everything(opened, **said):
    worker = ChunkWorker(factory_of(opened, **said))
    return worker.run(UnitTask(1, tuple(range(opened.plan.n_chunks)), "r-0000001"))


@pytest.mark.parametrize("window_bytes", [0, 1 << 26])
def test_one_bad_cell_holds_back_its_own_chunk_alone(tmp_path, index, trouble, window_bytes):
    opened = drafted(tmp_path, index)
    bad = home_of(opened, 3, 7)
    trouble.error = lambda number, rows: NotCountsError("row 7 holds nan") if number == 3 and 7 in rows else None
    outcome = everything(opened, window_bytes=window_bytes)
    [failure] = outcome.failures
    assert (failure.chunks, failure.handling, failure.kind) == ((bad,), "source", "not-counts")
    assert failure.source == opened.plan.identity.sources[3]
    assert set(outcome.done) == set(range(opened.plan.n_chunks)) - {bad}
    # What else the chunk would have needed is not read any more.
    rows = opened.index.rows(0, opened.plan.n_cells).to_pandas()
    number = rows["source"].map(list(opened.plan.identity.sources).index)
    home = {key: at // SIZE for at, key in enumerate(zip(number, rows["row"], strict=True))}
    last = max(at for at, (number, asked) in enumerate(trouble.log) if number == 3 and 7 in asked)
    assert all(home[number, row] != bad for number, asked in trouble.log[last + 1 :] for row in asked)


@pytest.mark.parametrize(("error", "times"), [(TransientError("gone"), 1), (SourceChangedError("another"), 2)])
def test_a_lost_source_is_asked_once_and_what_it_is_blamed_for_twice(tmp_path, index, trouble, error, times):
    opened = drafted(tmp_path, index)
    trouble.error = lambda number, _: error if number == 3 else None
    outcome = everything(opened)
    assert sum(number == 3 for number, _ in trouble.log) == times
    rows = opened.index.rows(0, opened.plan.n_cells).to_pandas()
    lacking = set((np.flatnonzero(rows["source"] == opened.plan.identity.sources[3]) // SIZE).tolist())
    assert {chunk for failure in outcome.failures for chunk in failure.chunks} == lacking
    assert set(outcome.done) == set(range(opened.plan.n_chunks)) - lacking


def test_what_was_sorted_is_noted(tmp_path, index, trouble):
    trouble.unsorted = True
    opened = drafted(tmp_path, index)
    everything(opened)
    assert all(receipt.chunks[0].notes == ("unsorted-indices",) for receipt in opened.ledger.receipts())


def test_the_worker_stops_between_chunks_and_windows(tmp_path, index, trouble):
    opened = drafted(tmp_path, index)
    worker = ChunkWorker(factory_of(opened))

    def stop(*_):
        if len(trouble.log) > 12:
            worker.stop_soon()

    trouble.error = stop
    outcome = worker.run(UnitTask(1, tuple(range(opened.plan.n_chunks)), "r-0000001"))
    assert not outcome.failures
    assert 0 < len(outcome.undone) < opened.plan.n_chunks or outcome.done == ()
    assert {*outcome.done, *outcome.undone} == set(range(opened.plan.n_chunks))
    assert opened.ledger.done() == set(outcome.done)
    run_again(opened.store.url)
    assert json.loads(opened.store.get("_SUCCESS.json"))["n_cells"] == opened.plan.n_cells


def test_without_a_bad_file(tmp_path):
    files = files_of(tmp_path / "files")
    index = write_h5ad_index(tmp_path / "i.feather", files)
    opened = drafted(tmp_path, index)
    expected = {name: row for name, row in truth(files).items() if not name.startswith("s4:")}
    files[4].unlink()
    work = divide_work(profile_of_plan(opened, WORK), opened, (), WORK)

    def run_once(opened, work):
        return run_plan(opened, work, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)

    opened, report = run_without_bad(opened, work, WORK, run_once, lambda *_: None)
    assert report.exit_code == 0
    check_cells(chunks_of(opened.store.url), expected)
    assert verify_dataset(open_plan(open_store(opened.store.url)), deep=True, source=True, work=WORK).findings == ()


def test_comparing_with_sources_reads_no_window_twice(tmp_path, index, trouble, monkeypatch):
    made = make_dataset(str(tmp_path / "dest"), index, data=SHUFFLED, work=WORK)
    monkeypatch.setattr(rereading, "_ROWS", 50)  # less than a window
    trouble.log.clear()
    assert verify_dataset(made.reopen(), source=True, work=WORK).findings == ()
    asked = Counter((number, row) for number, rows in trouble.log for row in rows)
    assert set(asked.values()) == {1}
    units = list(rereading._units(made.reopen(), [0, 1, 3, 4, 9]))
    assert units == [[0, 1, 3], [4], [9]]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_rows_are_read_once_in_the_order_of_their_source(tmp_path, index, trouble):
    opened = drafted(tmp_path, index)
    everything(opened)
    asked = Counter((number, row) for number, rows in trouble.log for row in rows)
    assert len(asked) == opened.plan.n_cells
    assert set(asked.values()) == {1}
    assert all(rows == sorted(rows) for _, rows in trouble.log)


def test_a_band_of_two_windows_of_a_unit_is_read_once(tmp_path, census_index, trouble):
    data = DataSettings(cells_per_chunk=500, shuffle="window", shuffle_window=1_000, shuffle_seed=8)
    opened = drafted(tmp_path, census_index, data)
    everything(opened)
    bands = Counter(band for _, rows in trouble.log for band in {row // 2048 for row in rows})
    # A band of 2048 cells is in three windows of 1,000: the last of them reads it a second time, none a third.
    assert max(bands.values()) <= 2
    trouble.log.clear()
    wide = drafted(tmp_path / "wide", census_index, replace(data, shuffle_window=4_000))
    everything(wide)
    bands = Counter(band for _, rows in trouble.log for band in {row // 2048 for row in rows})
    assert set(bands.values()) == {1}


def test_room_is_asked_for_before_every_read(tmp_path, index, trouble, monkeypatch):
    class Watched(window_store.Room):
        def wait(self):
            trouble.log.append("wait")
            super().wait()

    monkeypatch.setattr("ingest.unit_maker.Room", Watched)
    everything(drafted(tmp_path, index), slab_bytes=1 << 20)
    assert trouble.log[::2] == ["wait"] * (len(trouble.log) // 2)
    assert "wait" not in trouble.log[1::2]
    assert len(trouble.log) > 100


def test_what_ends_a_unit_does_not_wait_for_room(tmp_path, index, monkeypatch):
    waiting = threading.Event()

    class Watched(window_store.Room):
        def wait(self):
            if self._handed_out:
                waiting.set()
            super().wait()

    def full(*_):
        assert waiting.wait(60)
        raise ConfigError("the disk is full", kind="disk-full")

    monkeypatch.setattr("ingest.unit_maker.Room", Watched)
    monkeypatch.setattr("ingest.unit_maker.ChunkMaker.add", full)
    opened, ended = drafted(tmp_path, index), []
    thread = threading.Thread(target=lambda: ended.append(everything(opened, window_bytes=0)), daemon=True)
    thread.start()
    thread.join(60)
    assert ended, "the reader waits for room that nobody will make"
    assert [failure.kind for failure in ended[0].failures] == ["disk-full"]


def test_memory_is_that_of_a_window(tmp_path, index, monkeypatch):
    held = {"now": 0, "most": 0}

    class Watched(window_store.Room):
        def take(self, n_bytes):
            held["now"] += n_bytes
            held["most"] = max(held["most"], held["now"])
            super().take(n_bytes)

        def give(self, n_bytes):
            held["now"] -= n_bytes
            super().give(n_bytes)

    monkeypatch.setattr("ingest.unit_maker.Room", Watched)
    opened = drafted(tmp_path, index)
    everything(opened, window_bytes=0, slab_bytes=1 << 20)
    assert held["now"] == 0
    bounded = held["most"]
    held["most"] = 0
    for path in (Path(opened.store.url) / "_ingest" / "receipts").iterdir():
        path.unlink()
    everything(opened, window_bytes=1 << 40, slab_bytes=1 << 20)
    assert held["now"] == 0
    nbytes = window_nbytes(opened)
    assert bounded <= max(nbytes) + max(nbytes) // (WINDOW // SIZE)
    assert held["most"] <= sum(nbytes)


def window_nbytes(opened):
    """What each window holds when it is whole, names and places included."""
    sizes = []
    for first in range(0, opened.plan.n_chunks, WINDOW // SIZE):
        cells = min(opened.plan.n_cells, (first + WINDOW // SIZE) * SIZE) - first * SIZE
        nnz = sum(
            receipt.chunks[0].nnz
            for receipt in opened.ledger.receipts()
            if first <= receipt.chunks[0].chunk < first + WINDOW // SIZE
        )
        sizes.append(4 * nnz + 200 * cells)
    return sizes
