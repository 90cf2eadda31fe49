"""Datasets of dense chunks: made, looked after and summed up as those of h5ad are."""

from __future__ import annotations

import json
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from pyarrow import feather
from scipy import sparse

from ingest.digest import content_digest
from ingest.encode.decode import decode_chunk
from ingest.errors import ConfigError, SourceError
from ingest.finish import finish
from ingest.repairing import repair_dataset
from ingest.settings import DataSettings, WorkSettings
from ingest.status import dataset_status
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import (
    SilentObserver,
    make_dataset,
    open_serial_pool,
    write_h5ad_index,
    write_sources,
)
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.verifying import verify_dataset

DENSE = DataSettings(cells_per_chunk=7, format="h5", dtype="int16")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def index(sources, tmp_path_factory):
    return write_h5ad_index(tmp_path_factory.mktemp("index") / "index.feather", sources)


@pytest.fixture
def dest(index, tmp_path):
    made = make_dataset(str(tmp_path / "dest"), index, data=DENSE)
    assert made.report.exit_code == 0
    return DamageableDataset(tmp_path / "dest", "h5")


def load(dest, name):
    return json.loads((dest.path / name).read_bytes())


def truth(sources):
    return np.vstack([np.asarray(anndata.read_h5ad(path).to_df()) for path in sources])


def repair(dest):
    return repair_dataset(dest.open(), None, WorkSettings(workers=1), open_serial_pool, SilentObserver())


def test_every_count_is_the_sources(dest, sources):
    rows = []
    for path in sorted((dest.path / "chunks").iterdir()):
        assert path.suffix == ".h5"
        with h5py.File(path) as file:
            assert file["X"].dtype == np.int16
            assert file["obs/gene_count"][()].tolist() == (file["X"][()] != 0).sum(axis=1).tolist()
            assert file["obs/umi_count"][()].tolist() == file["X"][()].sum(axis=1, dtype=np.int64).tolist()
            rows.append(file["X"][()])
    assert [len(part) for part in rows] == [7] * 8 + [4]
    np.testing.assert_array_equal(np.vstack(rows), truth(sources))


def test_the_content_is_that_of_h5ad_where_the_type_is(index, tmp_path):
    digests = [
        make_dataset(
            str(tmp_path / f"{form}-{dtype}"), index, data=replace(DENSE, format=form, dtype=dtype)
        ).report.finished.digest
        for form, dtype in (("h5", "float32"), ("h5ad", "float32"), ("h5", "int32"), ("h5ad", "int32"), ("h5", "int16"))
    ]
    assert digests[0] == digests[1] != digests[2] == digests[3] != digests[4]


def test_verify_believes_nothing(dest):
    assert verify_dataset(dest.open(), deep=True, source=True, work=WorkSettings(workers=1)).exit_code == 0
    flip_bit(dest.chunk(1))
    with h5py.File(dest.chunk(2), "r+") as file:  # every sum of the cell stays
        row = file["X"][3]
        file["X"][3] = np.roll(row, 1)
        assert not np.array_equal(row, file["X"][3])
    dest.reseal(2)
    with h5py.File(dest.chunk(3), "r+") as file:
        file["obs/score"][0] = 99.0
    dest.reseal(3)
    with h5py.File(dest.chunk(4), "r+") as file:
        file["cells"][0] = b"somebody else"
    dest.reseal(4)
    with h5py.File(dest.chunk(5), "r+") as file:
        file["obs/umi_count"][0] += 1
    dest.reseal(5)
    report = verify_dataset(dest.open(), deep=True)
    found = {(finding.chunk, finding.kind) for finding in report.findings}
    wanted = {(1, "chunk-sha256"), (2, "content"), (3, "obs"), (4, "obs-names"), (5, "undecodable-chunk")}
    assert found >= wanted
    assert {chunk for chunk, _ in found} == {1, 2, 3, 4, 5}


def test_repair_makes_the_same_again(dest):
    whole = {path.name: path.read_bytes() for path in (dest.path / "chunks").iterdir()}
    flip_bit(dest.chunk(1))
    dest.chunk(8).unlink()
    report = repair(dest)
    assert (report.exit_code, report.repaired) == (0, (1, 8))
    assert {path.name: path.read_bytes() for path in (dest.path / "chunks").iterdir()} == whole
    assert verify_dataset(dest.open(), deep=True).exit_code == 0


def test_a_chunk_without_receipt_is_adopted_if_it_holds_the_same(dest, index):
    """Written by another machine's library: other bytes, the same cells."""
    with h5py.File(dest.chunk(0), "r+") as file:
        settings = {"chunks": (1, file["X"].shape[1]), "compression": "gzip", "compression_opts": 9}
        rows = file["X"][()]
        del file["X"]
        file.create_dataset("X", data=rows, **settings)
    theirs = dest.chunk(0).read_bytes()
    dest.receipt(0).unlink()
    again = make_dataset(str(dest.path), index, data=DENSE)
    assert again.report.exit_code == 0
    assert again.report.driven.totals.adopted == 1
    assert dest.chunk(0).read_bytes() == theirs
    with h5py.File(dest.chunk(1), "r+") as file:
        file["X"][0] = np.roll(file["X"][0], 1)
    dest.receipt(1).unlink()
    refused = make_dataset(str(dest.path), index, data=DENSE)
    assert refused.report.exit_code == 3
    assert [failure.kind for failure in refused.report.driven.quarantined.values()] == ["other-content"]


def test_status_and_offsets_know_the_files(dest):
    status = dataset_status(dest.open())
    assert (status.complete, status.n_done, status.lost) == (True, 9, ())
    assert status.bytes_done == sum(path.stat().st_size for path in (dest.path / "chunks").iterdir())
    offsets = feather.read_table(dest.path / "chunk_offsets.feather").to_pandas()
    assert set(offsets["dataset"]) == {"X"}
    for chunk in range(9):
        with h5py.File(dest.chunk(chunk)) as file:
            node = file["X"].id
            wanted = [node.get_chunk_info(at) for at in range(node.get_num_chunks())]
            mine = offsets[offsets["chunk"] == chunk]
            assert mine["offset"].tolist() == [info.byte_offset for info in wanted]
            assert mine["size"].tolist() == [info.size for info in wanted]
            assert set(mine["elements"]) == {np.prod(file["X"].chunks)}
    dest.chunk(3).unlink()
    assert dataset_status(dest.open()).lost == (3,)


def test_the_summaries_say_what_the_files_hold(dest):
    chunks = [h5py.File(dest.chunk(chunk)) for chunk in range(9)]
    every = np.vstack([file["X"][()] for file in chunks])
    genes = chunks[0]["genes"].asstr()[()].tolist()
    for file in chunks:
        file.close()
    config = load(dest, "config.json")
    assert config["total_cells_downloaded"] == len(every) == 60
    assert (config["n_batches"], config["batch_size"]) == (9, 7)
    assert config["gene_list"] == genes
    assert config["max_expression_value"] == every.max()
    assert config["sparsity"] == pytest.approx((every == 0).mean())
    assert config["download_timestamp"] == load(dest, "_ingest/plan.json")["provenance"]["created"]
    assert [(one["srx_accession"], one["n_cells"]) for one in config["source_samples"]] == [
        ("sample0", 30),
        ("sample1", 30),
    ]
    summary = load(dest, "chunk_summary.json")
    assert summary["bytes_uncompressed_dense"] == every.nbytes
    assert summary["compression_ratio"] == every.nbytes / summary["bytes"]
    assert load(dest, "processing_config.json")["data"]["format"] == "h5"


# Types


def write_one(folder, matrix):
    path = write_h5ad_variant(folder / "one.h5ad", sparse.csr_matrix(matrix))
    return path, write_h5ad_index(folder / "one.feather", [path])


def test_a_count_beyond_int16_widens_its_chunk_alone_and_is_on_record(tmp_path):
    matrix = sample_counts(20, 12, seed=5).toarray()
    matrix[9, 3], matrix[3, 3] = 32_768, 32_767
    path, index = write_one(tmp_path, matrix)
    made = make_dataset(str(tmp_path / "dest"), index, data=DENSE)
    assert made.report.exit_code == 0
    dest = DamageableDataset(tmp_path / "dest", "h5")
    types, rows = [], []
    for chunk in range(3):
        with h5py.File(dest.chunk(chunk)) as file:
            types.append(file["X"].dtype.name)
            rows.append(file["X"][()].astype(np.int64))
    assert types == ["int16", "int32", "int16"]
    np.testing.assert_array_equal(np.vstack(rows), truth([path]))
    index_of = load(dest, "chunk_index.json")["chunks"]
    assert [entry["dtype"] for entry in index_of] == types
    assert [entry.get("notes") for entry in index_of] == [None, ["widened-to-int32"], None]
    assert load(dest, "processing_config.json")["chunks_with_note"] == {"widened-to-int32": 1}
    assert load(dest, "config.json")["max_expression_value"] == 32_768
    assert verify_dataset(dest.open(), deep=True, source=True, work=WorkSettings(workers=1)).exit_code == 0


def test_fractions_are_refused_or_kept_as_they_are(tmp_path):
    matrix = sample_counts(20, 12, seed=5).toarray().astype(np.float32)
    matrix[matrix > 0] += 0.25
    path, index = write_one(tmp_path, matrix)
    with pytest.raises(ConfigError, match="fractions need float32"):
        make_dataset(str(tmp_path / "a"), index, data=replace(DENSE, allow_noninteger=True))
    data = replace(DENSE, allow_noninteger=True, dtype="float32")
    made = make_dataset(str(tmp_path / "b"), index, data=data)
    assert made.report.exit_code == 0
    dest = DamageableDataset(tmp_path / "b", "h5")
    rows = []
    for chunk in range(3):
        with h5py.File(dest.chunk(chunk)) as file:
            assert file["X"].dtype == np.float32
            rows.append(file["X"][()])
    np.testing.assert_array_equal(np.vstack(rows), truth([path]))
    assert verify_dataset(dest.open(), deep=True).exit_code == 0


def test_a_fraction_that_the_survey_did_not_see_spoils_its_chunk_alone(tmp_path, monkeypatch):
    matrix = sample_counts(20, 12, seed=5).toarray().astype(np.float32)
    matrix[9, 3] = 7.5
    _, index = write_one(tmp_path, matrix)
    monkeypatch.setattr("ingest.fetch.h5ad_matrix._sample_fault", lambda *_: None)
    made = make_dataset(str(tmp_path / "dest"), index, data=DENSE)
    assert made.report.exit_code == 3
    assert {chunk: fault.kind for chunk, fault in made.report.driven.quarantined.items()} == {1: "fractional"}
    dest = DamageableDataset(tmp_path / "dest", "h5")
    assert [dest.chunk(chunk).exists() for chunk in range(3)] == [True, False, True]
    monkeypatch.undo()
    with pytest.raises(SourceError, match="no integer counts"):
        make_dataset(str(tmp_path / "other"), index, data=DENSE)


@pytest.mark.parametrize(("form", "dtype"), [("h5", "uint16"), ("h5", "float64"), ("h5ad", "int16"), ("h5ad", "")])
def test_no_other_types(form, dtype, index, tmp_path):
    with pytest.raises(ConfigError) as caught:
        make_dataset(str(tmp_path / "dest"), index, data=replace(DENSE, format=form, dtype=dtype))
    assert caught.value.kind == "bad-dtype"
    assert not (tmp_path / "dest" / "_ingest" / "plan.json").exists()


# What the index says


def with_columns(index, path, **columns):
    frame = pd.read_feather(index)
    for name, values in columns.items():
        frame[name] = values
    frame.to_feather(path)
    return path


def test_what_the_index_says_of_counts_passes_for_nothing_else(index, tmp_path):
    said = with_columns(index, tmp_path / "i.feather", gene_count=range(60), umi_count=[0.5] * 60)
    made = make_dataset(str(tmp_path / "dest"), said, data=DENSE)
    dest = DamageableDataset(tmp_path / "dest", "h5")
    with h5py.File(dest.chunk(1)) as file:
        assert file["obs/gene_count"][()].tolist() == (file["X"][()] != 0).sum(axis=1).tolist()
        assert file["obs/index_gene_count"][()].tolist() == list(range(7, 14))
        assert file["obs/index_umi_count"][()].tolist() == [0.5] * 7
    assert verify_dataset(made.reopen(), deep=True).exit_code == 0
    block = decode_chunk(dest.chunk(1).read_bytes(), key="chunks/chunk_000001.h5")
    assert content_digest(block) == dest.read_receipt(1).chunks[0].content
    assert block.obs["gene_count"].to_pylist() == list(range(7, 14))


def test_samples_are_the_accessions_that_the_index_gives(index, tmp_path):
    accessions = [*["SRX1"] * 20, *["SRX2"] * 20, *["SRX3"] * 15, *[None] * 5]
    frame = {
        "SRX_accession": pd.Categorical(accessions),
        "tissue": pd.Categorical([*["lung"] * 25, *["", "blood"] * 17, "lung"]),
        "organism": pd.Categorical(["Homo sapiens"] * 40 + ["mus_musculus"] * 20),
    }
    said = with_columns(index, tmp_path / "i.feather", **frame)
    make_dataset(str(tmp_path / "dest"), said, data=DENSE)
    dest = DamageableDataset(tmp_path / "dest", "h5")
    assert load(dest, "config.json")["source_samples"] == [
        {"srx_accession": "SRX1", "n_cells": 20, "tissue": "lung", "organism": "Homo sapiens"},
        {"srx_accession": "SRX2", "n_cells": 20, "tissue": "blood; lung", "organism": "Homo sapiens"},
        {"srx_accession": "SRX3", "n_cells": 15, "tissue": "blood", "organism": "Mus musculus"},
        {"srx_accession": "sample1", "n_cells": 5, "tissue": "blood; lung", "organism": "Mus musculus"},
    ]
    experiments = load(dest, "metadata/experiments.json")["experiments"]
    assert experiments["SRX2"]["files"] == ["sample0", "sample1"]
    with np.load(dest.path / "metadata" / "presence.npz", allow_pickle=False) as presence:
        assert presence["datasets"].tolist() == ["SRX1", "SRX2", "SRX3", "sample1"]
        assert presence["presence"].all()


# metadata/cells.json

JSON = "metadata/cells.json"


def test_cells_as_json_are_the_table_of_cells(index, tmp_path):
    scores = [float("nan"), float("inf"), *[0.5] * 58]
    said = with_columns(index, tmp_path / "i.feather", score=scores, kind=pd.Categorical(["é", None] * 30))
    work = WorkSettings(workers=1, cells_json=True)
    made = make_dataset(str(tmp_path / "dest"), said, data=DENSE, work=work)
    dest = DamageableDataset(tmp_path / "dest", "h5")
    document = load(dest, JSON)
    table = feather.read_table(dest.path / "metadata" / "cells.feather")
    assert (document["format_version"], document["complete"]) == (1, True)
    assert document["columns"] == table.column_names
    wanted = table.to_pylist()
    wanted[0]["score"] = wanted[1]["score"] = None
    assert document["cells"] == wanted
    lines = (dest.path / JSON).read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[1:-1]] == wanted, "an object a line"
    assert verify_dataset(made.reopen(), deep=True).exit_code == 0


def test_cells_json_is_written_for_those_who_ask_and_then_kept_true(index, tmp_path):
    first = make_dataset(str(tmp_path / "dest"), index, data=DENSE)
    dest = DamageableDataset(tmp_path / "dest", "h5")
    assert not (dest.path / JSON).exists()
    assert finish(first.reopen(), cells_json=True).complete
    whole = (dest.path / JSON).read_bytes()
    (dest.path / JSON).write_bytes(whole.replace(b"neuron", b"hadron"))
    report = verify_dataset(dest.open())
    assert [(finding.kind, finding.key) for finding in report.findings] == [("summary-differs", JSON)]
    assert repair(dest).exit_code == 0
    assert (dest.path / JSON).read_bytes() == whole


def test_a_cells_json_that_is_gone_is_missed_where_the_plan_has_it(index, tmp_path):
    make_dataset(str(tmp_path / "dest"), index, data=DENSE, work=WorkSettings(workers=1, cells_json=True))
    dest = DamageableDataset(tmp_path / "dest", "h5")
    (dest.path / JSON).unlink()
    assert verify_dataset(dest.open()).missing_summaries == (JSON,)
    assert finish(dest.open()).complete
    assert (dest.path / JSON).exists()
