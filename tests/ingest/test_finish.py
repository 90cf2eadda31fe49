from __future__ import annotations

import importlib.metadata
import io
import json
import statistics
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiledbsoma
from pyarrow import feather

from ingest import worker
from ingest.cells import read_cells
from ingest.errors import CorruptError, PreconditionError
from ingest.finish import finish
from ingest.ledger.receipts import parse_receipt
from ingest.opened import open_plan
from ingest.settings import DataSettings
from ingest.source import Source, address_of
from ingest.store.local import LocalStore
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.testing.faults import FaultyStore
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

SUMMARIES = {
    "gene_list.json",
    "chunk_index.json",
    "chunk_offsets.feather",
    "chunk_summary.json",
    "processing_config.json",
    "config.json",
    "metadata/experiments.json",
    "metadata/presence.npz",
    "metadata/cells.feather",
    "_SUCCESS.json",
}


@pytest.fixture(scope="module")
def dest(tmp_path_factory):
    """Two files of one name in two folders, over genes that only partly agree."""
    folder = tmp_path_factory.mktemp("finish")
    files = []
    for number, var_ids in enumerate([["g1", "g2", "g3", "g4"], ["g3", "g5", "g1"]]):
        (folder / f"{number}").mkdir()
        matrix = sample_counts(20, len(var_ids), seed=number, density=0.5)
        files.append(write_h5ad_variant(folder / f"{number}" / "sample.h5ad", matrix, var_ids=var_ids))
    index = write_h5ad_index(folder / "index.feather", files)
    frame = pd.read_feather(index)
    frame["tissue"] = pd.Categorical(["lung", "liver", None, "lung"] * 10)
    frame["nnz"] = [None if row % 3 else 2.0 for row in range(40)]
    frame.to_feather(index)
    made = make_dataset(str(folder / "dest"), index, data=DataSettings(cells_per_chunk=7))
    assert made.report.exit_code == 0
    return folder / "dest"


@pytest.fixture(scope="module")
def chunks(dest):
    return [anndata.read_h5ad(path) for path in sorted((dest / "chunks").iterdir())]


def load(dest, name):
    return json.loads((dest / name).read_bytes())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def test_all_summaries_are_there_with_their_format(dest):
    names = {str(path.relative_to(dest)) for path in dest.rglob("*") if path.is_file()}
    assert names >= SUMMARIES
    assert all(load(dest, name)["format_version"] == 1 for name in SUMMARIES if name.endswith(".json"))


def test_chunk_index_against_the_chunks(dest, chunks):
    index = load(dest, "chunk_index.json")
    assert index["complete"] is True
    assert index["n_chunks"] == len(index["chunks"]) == len(chunks) == 6
    first = 0
    for entry, cells in zip(index["chunks"], chunks, strict=True):
        assert (entry["first_cell"], entry["end_cell"]) == (first, first + cells.n_obs)
        assert entry["nnz"] == cells.X.nnz == (cells.X.toarray() != 0).sum()
        assert entry["sum"] == cells.X.sum()
        assert entry["maximum"] == cells.X.max()
        assert entry["dtype"] == str(cells.X.dtype) == "float32"
        assert entry["sources"] == cells.obs["source"].value_counts().loc[lambda counts: counts > 0].to_dict()
        path = dest / entry["key"]
        assert entry["bytes"] == path.stat().st_size
        first += cells.n_obs
    assert index["chunks"][2]["samples"] == ["sample", "sample-2"]


def test_storage_statistics_against_the_chunks(dest, chunks):
    summary = load(dest, "chunk_summary.json")
    sizes = [path.stat().st_size for path in (dest / "chunks").iterdir()]
    assert summary["n_cells"] == 40
    assert summary["n_genes"] == 5
    assert summary["bytes"] == sum(sizes)
    assert summary["bytes_per_cell"] == sum(sizes) / 40
    assert summary["nnz"] == sum(cells.X.nnz for cells in chunks)
    plain = sum(c.X.data.nbytes + c.X.indices.nbytes + 8 * len(c.X.indptr) for c in chunks)
    assert summary["bytes_uncompressed_csr"] == plain
    assert summary["compression_ratio"] == plain / sum(sizes)
    assert summary["per_chunk"]["bytes"] == {"min": min(sizes), "median": statistics.median(sizes), "max": max(sizes)}
    assert summary["per_chunk"]["n_cells"] == {"min": 5, "median": 7.0, "max": 7}


def test_config_at_a_glance(dest, chunks):
    config = load(dest, "config.json")
    every = np.vstack([cells.X.toarray() for cells in chunks])
    assert config["total_cells_downloaded"] == 40
    assert config["n_batches"] == 6
    assert config["batch_size"] == 7
    assert config["gene_list"] == chunks[0].var_names.tolist() == ["g1", "g2", "g3", "g4", "g5"]
    assert config["max_expression_value"] == every.max()
    assert config["sparsity"] == pytest.approx((every == 0).mean())
    assert config["download_timestamp"] == load(dest, "_ingest/plan.json")["provenance"]["created"]
    assert [(one["srx_accession"], one["n_cells"]) for one in config["source_samples"]] == [
        ("sample", 20),
        ("sample-2", 20),
    ]


def test_files_of_one_name_are_two_experiments(dest):
    experiments = load(dest, "metadata/experiments.json")["experiments"]
    assert {name: entry["n_cells"] for name, entry in experiments.items()} == {"sample": 20, "sample-2": 20}
    assert experiments["sample"]["tissue"] == "lung; liver"


def test_presence_says_what_each_file_measured(dest):
    with np.load(dest / "metadata" / "presence.npz", allow_pickle=False) as presence:
        assert presence["datasets"].tolist() == ["sample", "sample-2"]
        assert presence["genes"].tolist() == ["g1", "g2", "g3", "g4", "g5"]
        assert presence["presence"].tolist() == [[True, True, True, True, False], [True, False, True, False, True]]


def test_cells_map_into_memory_and_equal_the_obs_of_the_chunks(dest, chunks):
    before = pa.total_allocated_bytes()
    table = feather.read_table(dest / "metadata" / "cells.feather", memory_map=True)
    assert pa.total_allocated_bytes() - before < 4096
    for name in table.column_names:
        wanted = pd.concat([cells.obs[name].astype(object) for cells in chunks])
        found = table[name].to_pandas().astype(object)
        assert found.where(found.notna(), None).tolist() == wanted.where(wanted.notna(), None).tolist(), name


def test_offsets_are_those_of_the_files(dest):
    offsets = feather.read_table(dest / "chunk_offsets.feather").to_pandas()
    found = 0
    for chunk, path in enumerate(sorted((dest / "chunks").iterdir())):
        with h5py.File(path) as file:
            for name in ("X/data", "X/indices", "X/indptr"):
                mine = offsets[(offsets["chunk"] == chunk) & (offsets["dataset"] == name)]
                wanted = [file[name].id.get_chunk_info(at) for at in range(file[name].id.get_num_chunks())]
                assert mine["offset"].tolist() == [info.byte_offset for info in wanted]
                assert mine["size"].tolist() == [info.size for info in wanted]
                assert mine["hdf5_chunk"].tolist() == list(range(len(wanted)))
                assert set(mine["elements"]) == {file[name].chunks[0]}
                found += len(wanted)
    assert found == len(offsets)


def test_processing_config_has_every_setting_that_shaped_the_data(dest):
    config = load(dest, "processing_config.json")
    assert config["data"] == load(dest, "_ingest/plan.json")["identity"]
    assert config["settings"]["cells_per_chunk"] == 7
    assert config["versions"]["anndata"] == importlib.metadata.version("anndata")


def test_gene_list_is_the_columns(dest, chunks):
    genes = load(dest, "gene_list.json")
    assert genes["ids"] == chunks[0].var["feature_id"].tolist()
    assert genes["names"] == chunks[0].var["feature_name"].tolist()
    assert genes["lengths"] == chunks[0].var["feature_length"].tolist()


def test_names_are_unique_in_the_whole_dataset(chunks):
    names = [name for cells in chunks for name in cells.obs_names]
    assert len(set(names)) == 40
    assert names[0].startswith("sample:")
    assert names[-1].startswith("sample-2:")


def test_finishing_twice_changes_nothing(dest):
    before = contents(dest)
    store = FaultyStore(LocalStore(dest))
    finished = finish(open_plan(store))
    assert finished.complete
    assert finished.digest == load(dest, "_SUCCESS.json")["digest"]
    assert contents(dest) == before
    assert not any(operation.name == "replace" for operation in store.log)
    assert not any("chunks/" in operation.key for operation in store.log), "finishing reads no chunk"


@pytest.fixture
def copy(dest, tmp_path):
    """The dataset before its summaries."""
    for name, data in contents(dest).items():
        if name not in SUMMARIES:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
    return tmp_path


def receipt_of(folder, chunk):
    return folder / "_ingest" / "receipts" / f"{chunk:09d}-{chunk:09d}.json"


def test_an_incomplete_dataset_says_so_and_counts_what_is_there(copy, chunks, dest):
    whole = receipt_of(copy, 1).read_bytes()
    receipt_of(copy, 1).unlink()
    finished = finish(open_plan(LocalStore(copy)))
    assert not finished.complete
    assert not (copy / "_SUCCESS.json").exists()
    for name in ("chunk_index.json", "config.json", "chunk_summary.json", "metadata/experiments.json"):
        assert load(copy, name)["complete"] is False
    assert load(copy, "config.json")["total_cells_downloaded"] == finished.n_cells == 33
    assert sum(entry["n_cells"] for entry in load(copy, "metadata/experiments.json")["experiments"].values()) == 33
    table = feather.read_table(copy / "metadata" / "cells.feather")
    there = [chunks[number].obs["row"] for number in (0, 2, 3, 4, 5)]
    assert table["row"].to_pylist() == pd.concat(there).tolist()
    # The missing chunk comes: everything is as if it had never been missing.
    receipt_of(copy, 1).write_bytes(whole)
    assert finish(open_plan(LocalStore(copy))).complete
    assert contents(copy) == contents(dest)


def test_no_chunk_at_all(copy):
    for chunk in range(6):
        receipt_of(copy, chunk).unlink()
    finished = finish(open_plan(LocalStore(copy)))
    assert (finished.complete, finished.n_chunks, finished.n_cells) == (False, 0, 0)
    assert feather.read_table(copy / "metadata" / "cells.feather").num_rows == 0


@pytest.mark.parametrize("how", ["other-cells", "other-sources", "other-plan", "flipped", "renamed", "beyond"])
def test_a_receipt_that_disagrees_stops_before_anything_is_written(copy, how):

    path = receipt_of(copy, 2)
    receipt = parse_receipt(path.read_bytes(), key=f"_ingest/receipts/{path.name}")
    if how == "other-cells":
        receipt = replace(receipt, chunks=(replace(receipt.chunks[0], rows="0" * 32),))
    if how == "other-sources":
        receipt = replace(receipt, chunks=(replace(receipt.chunks[0], sources=((1, 7),)),))
    if how == "other-plan":
        receipt = replace(receipt, plan="0" * 32)
    path.write_bytes(receipt.seal())
    if how == "flipped":
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"nnz":', b'"nnz":1', 1))
    if how == "renamed":
        path.rename(receipt_of(copy, 9))
    if how == "beyond":
        far = replace(receipt, chunks=(replace(receipt.chunks[0], chunk=1 << 40),))
        (copy / far.key).write_bytes(far.seal())
    with pytest.raises(CorruptError):
        finish(open_plan(LocalStore(copy)))
    assert not SUMMARIES & set(contents(copy))


def test_a_late_driver_does_not_write_less_over_more(copy, dest):
    """One driver finishes without chunk 1 while another makes it: both end with the whole."""
    whole = receipt_of(copy, 1).read_bytes()
    receipt_of(copy, 1).unlink()

    class Late(LocalStore):
        def put_new(self, key, data):
            if key == "config.json" and not receipt_of(copy, 1).exists():
                receipt_of(copy, 1).write_bytes(whole)
                assert finish(open_plan(LocalStore(copy))).complete
            return super().put_new(key, data)

    assert finish(open_plan(Late(copy))).complete
    assert contents(copy) == contents(dest)


def test_a_lost_race_for_a_summary_is_run_again(copy, dest):
    (copy / "config.json").write_bytes(b"old")
    lost = []

    class Raced(LocalStore):
        def replace(self, key, data, *, expected):
            if len(lost) < 2:
                lost.append(key)
                raise PreconditionError("somebody was faster", key=key)
            return super().replace(key, data, expected=expected)

    assert finish(open_plan(Raced(copy))).complete
    assert contents(copy) == contents(dest)
    (copy / "config.json").write_bytes(b"old")
    lost.clear()
    Raced.replace = lambda *_, **__: (_ for _ in ()).throw(PreconditionError("always"))
    with pytest.raises(PreconditionError):
        finish(open_plan(Raced(copy)))


def test_a_damaged_index_stops_the_end(copy):
    [path] = (copy / "_ingest").glob("index-*.feather")
    data = path.read_bytes()
    stopped = 0
    for at in range(0, len(data), 40):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x08]) + data[at + 1 :])
        try:
            finish(open_plan(LocalStore(copy)))
        except CorruptError:
            stopped += 1
    assert stopped > len(data) // 40 // 3


# -- a Census ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    spec = CensusSpec(n_cells=600, n_genes=60, mean_nnz_per_cell=12)
    return build_census(tmp_path_factory.mktemp("census") / "c", spec)


def test_an_index_of_joinids_alone_has_presence_and_promises(census, tmp_path, monkeypatch):

    monkeypatch.setattr(worker, "open_store", lambda *_, **__: LocalStore(tmp_path / "dest"))
    source = Source("soma", address_of(census.uri), "", "homo_sapiens")
    wanted = [5, 599, 17, 300, 301]
    pd.DataFrame({"source": str(source), "soma_joinid": wanted}).to_feather(tmp_path / "i.feather")
    made = make_dataset(str(tmp_path / "dest"), tmp_path / "i.feather", data=DataSettings(cells_per_chunk=3))
    assert made.report.exit_code == 0
    cells = anndata.concat([anndata.read_h5ad(p) for p in sorted((tmp_path / "dest" / "chunks").iterdir())])
    assert cells.obs_names.tolist() == [str(joinid) for joinid in sorted(wanted)]
    with tiledbsoma.open(f"{census.uri}/census_data/homo_sapiens") as human:
        matrix = human.ms["RNA"].X["raw"].read((sorted(wanted),)).coos((600, 60)).concat().to_scipy().tocsr()
        obs = human.obs.read(column_names=["nnz", "raw_sum"]).concat().to_pandas().loc[sorted(wanted)]
        presence = human.ms["RNA"]["feature_dataset_presence_matrix"].read().coos().concat().to_scipy().toarray()
    assert (cells.X.toarray() == matrix[sorted(wanted)].toarray()).all()
    assert cells.obs["nnz"].tolist() == obs["nnz"].tolist()
    assert cells.obs["raw_sum"].tolist() == obs["raw_sum"].tolist()
    with np.load(io.BytesIO((tmp_path / "dest" / "metadata" / "presence.npz").read_bytes())) as found:
        assert found["presence"].sum() == presence.astype(bool).sum()
        assert len(found["datasets"]) == presence.astype(bool).any(axis=1).sum()


def test_limits_of_read_cells_reach_the_dataset(tmp_path):
    files = write_sources(tmp_path, n_files=1, n_cells=9, n_genes=3)
    index = write_h5ad_index(tmp_path / "i.feather", files)
    made = make_dataset(str(tmp_path / "dest"), index, data=DataSettings(max_cells=4, cells_per_chunk=3))
    assert made.opened.plan.n_cells == len(read_cells(index, limit=4)) == 4
