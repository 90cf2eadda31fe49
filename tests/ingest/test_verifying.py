"""Verify names exactly what is wrong, whatever was done to the files; nothing more."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather

from ingest.chunk_check import read_object
from ingest.digest import content_digest, sums_digest
from ingest.encode.base import Offsets
from ingest.encode.decode import decode_chunk
from ingest.errors import CorruptError, NotFoundError, TransientError
from ingest.finish import finish
from ingest.layout import receipt_key
from ingest.ledger.receipts import parse_receipt
from ingest.opened import open_plan
from ingest.repairing import repair_dataset
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.summaries import OffsetTable
from ingest.summary_check import SUMMARY_KEYS
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.damage import DamageableDataset, add_one_count, flip_bit, swap_two_counts
from ingest.testing.datasets import (
    SilentObserver,
    make_dataset,
    open_serial_pool,
    write_census_index,
    write_h5ad_index,
)
from ingest.testing.faults import flipped
from ingest.validate import row_sums
from ingest.verifying import verify_dataset
from ingest.vocabulary import GeneRule

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def finished_census(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("census")
    spec = CensusSpec(n_cells=60, n_genes=30, mean_nnz_per_cell=8, n_datasets=2)
    index = write_census_index(folder / "census.feather", build_census(folder / "census", spec))
    make_dataset(str(folder / "of_census"), index, data=DataSettings(cells_per_chunk=20))
    return folder / "of_census"


@pytest.fixture
def census_dest(finished_census, tmp_path) -> DamageableDataset:
    shutil.copytree(finished_census, tmp_path / "dest")
    return DamageableDataset(tmp_path / "dest")


def kinds(report) -> set[tuple[int | None, str]]:
    return {(finding.chunk, finding.kind) for finding in report.findings}


# -- nothing wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"deep": True}, {"source": True}])
def test_a_finished_dataset_is_good(dest, how):
    seen = []
    report = verify_dataset(dest.open(), **how, on_chunk=lambda chunk, findings: seen.append((chunk, findings)))
    assert report.findings == ()
    assert (report.complete, report.exit_code, report.bad, report.strays) == (True, 0, (), ())
    assert (report.checked_chunks, report.checked_cells) == (9, 60)
    assert report.checked_bytes == sum(path.stat().st_size for path in (dest.path / "chunks").iterdir())
    assert seen == [(chunk, ()) for chunk in range(9)] + [(chunk, []) for chunk in range(9) if "source" in how]
    json.dumps(asdict(report))


@pytest.mark.parametrize("how", [{"deep": True}, {"source": True}])
def test_a_finished_census_dataset_is_good(census_dest, how):
    report = verify_dataset(census_dest.open(), **how)
    assert (report.findings, report.exit_code, report.checked_cells) == ((), 0, 54)


@pytest.mark.parametrize(
    "data",
    [
        DataSettings(cells_per_chunk=11, dtype="uint16"),
        DataSettings(cells_per_chunk=100, dtype="int32", genes=GeneRule(max_genes=5)),
        DataSettings(cells_per_chunk=1, max_cells=3),
    ],
)
def test_other_types_and_genes_and_sizes_are_good(tmp_path, data, finished):
    made = make_dataset(str(tmp_path / "dest"), finished.parent / "index.feather", data=data)
    assert verify_dataset(made.reopen(), source=True).findings == ()


# -- bytes ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_damage_is_named_and_nothing_else(dest):
    flip_bit(dest.chunk(1))
    dest.chunk(2).write_bytes(dest.chunk(2).read_bytes()[:-100])
    dest.chunk(3).unlink()
    flip_bit(dest.receipt(4), at=200)
    one, other = dest.chunk(5).read_bytes(), dest.chunk(6).read_bytes()
    dest.chunk(5).write_bytes(other)
    dest.chunk(6).write_bytes(one)
    dest.receipt(7).unlink()
    report = verify_dataset(dest.open(), deep=True)
    assert {(chunk, kind) for chunk, kind in kinds(report) if chunk not in (5, 6)} == {
        (1, "chunk-sha256"),
        (2, "chunk-size"),
        (3, "chunk-missing"),
        (4, "receipt-damaged"),
        (7, "receipt-missing"),
    }
    assert report.bad == (1, 2, 3, 4, 5, 6, 7)
    assert (report.missing, report.strays) == ((7,), (dest.open().plan.key(7),))
    assert (report.exit_code, report.complete) == (1, False)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_bit_anywhere_is_found(dest, place):
    flip_bit(dest.chunk(0), at=int(dest.chunk(0).stat().st_size * place))
    assert kinds(verify_dataset(dest.open())) == {(0, "chunk-sha256")}


def test_an_edited_receipt_is_found_even_when_it_is_sealed_again(dest):
    receipt = dest.read_receipt(2)
    dest.receipt(2).write_bytes(replace(receipt, plan="0" * 32).seal())
    entry = replace(dest.read_receipt(3).chunks[0], n_cells=6)
    dest.receipt(3).write_bytes(replace(receipt, chunks=(entry,)).seal())
    entry = replace(dest.read_receipt(5).chunks[0], rows="0" * 32)
    dest.receipt(5).write_bytes(replace(receipt, chunks=(entry,)).seal())
    dest.receipt(6).write_bytes(dest.receipt(7).read_bytes())
    assert kinds(verify_dataset(dest.open())) == {
        (2, "receipt-damaged"),
        (3, "receipt-disagrees"),
        (5, "receipt-disagrees"),
        (6, "receipt-damaged"),
    }


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"sources": ((99, 7),)}, "receipt-disagrees"),
        ({"sources": ((1, 7),)}, "receipt-disagrees"),
        ({"sources": ((0, 6), (1, 1))}, "receipt-disagrees"),
        ({"sources": ((0, 7), (0, 7))}, "receipt-disagrees"),
        ({"sources": ()}, "receipt-disagrees"),
        ({"dtype": "nonsense"}, "receipt-damaged"),
        ({"dtype": "O"}, "receipt-damaged"),
        ({"offsets": (Offsets("x", (1 << 62, 1 << 62), (1,), (1,)),)}, "receipt-damaged"),
    ],
)
def test_a_sealed_receipt_with_odd_fields_is_found_refused_and_mended(dest, finished, changes, kind):
    receipt = dest.read_receipt(2)
    dest.receipt(2).write_bytes(replace(receipt, chunks=(replace(receipt.chunks[0], **changes),)).seal())
    assert kinds(verify_dataset(dest.open())) == {(2, kind)}
    with pytest.raises(CorruptError):
        finish(dest.open())
    repaired = repair_dataset(dest.open(), None, WorkSettings(workers=1), open_serial_pool, SilentObserver())
    assert (repaired.repaired, repaired.exit_code) == ((2,), 0)
    assert (dest.path / "chunk_index.json").read_bytes() == (finished / "chunk_index.json").read_bytes()


def test_a_receipt_by_its_name_of_a_thousand_million_chunks_is_found(dest):
    (dest.path / receipt_key(0, 999_999_999)).write_bytes(dest.receipt(0).read_bytes())
    assert kinds(verify_dataset(dest.open())) == {(None, "receipt-unplanned")}
    assert finish(dest.open()).complete


def test_a_receipt_of_fewer_or_other_chunks_than_its_key_says_is_found(dest):
    joint = dest.join_receipts(3, 4, 5)
    receipt = parse_receipt(joint.read_bytes(), key=f"_ingest/receipts/{joint.name}")
    first, second, third = receipt.chunks
    joint.write_bytes(replace(receipt, chunks=(first, third)).seal())
    found = {finding.chunk: finding.message for finding in verify_dataset(dest.open()).findings}
    assert found.keys() == {4, 5}
    assert "records chunk 5, not 4" in found[4]
    assert "says nothing of chunk 5" in found[5]
    joint.write_bytes(replace(receipt, chunks=(first, replace(second, chunk=7), third)).seal())
    (finding,) = verify_dataset(dest.open()).findings
    assert (finding.chunk, finding.kind) == (4, "receipt-disagrees")
    assert "records chunk 7, not 4" in finding.message


def test_two_receipts_that_disagree_about_a_chunk_are_found(dest):
    own = dest.receipt(4).read_bytes()
    dest.join_receipts(3, 4, 5)
    assert verify_dataset(dest.open()).exit_code == 0
    receipt = parse_receipt(own, key=receipt_key(4, 4))
    dest.receipt(4).write_bytes(own)
    assert verify_dataset(dest.open()).exit_code == 0
    dest.receipt(4).write_bytes(replace(receipt, chunks=(replace(receipt.chunks[0], content="0" * 32),)).seal())
    assert (4, "receipts-disagree") in kinds(verify_dataset(dest.open()))


def test_a_file_of_the_plan_that_is_gone_is_found(dest):
    opened = dest.open()
    (dest.path / opened.plan.files["survey"]).unlink()
    (dest.path / opened.plan.files["index"]).unlink()
    report = verify_dataset(opened, source=True)
    assert [finding.kind for finding in report.findings] == ["plan-file", "plan-file"]
    assert all("cannot be read" in finding.message for finding in report.findings)
    assert report.checked_chunks == 9


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize(
    ("fault", "kind"), [(NotFoundError("gone"), "chunk-missing"), (CorruptError("cut short"), "chunk-sha256")]
)
def test_a_chunk_that_goes_between_the_listing_and_its_reading_is_found(dest, deep, fault, kind):
    class Goes(LocalStore):
        def _of(self, key):
            if key.endswith("chunk_000002.h5ad"):
                raise fault

        def get(self, key):
            self._of(key)
            return super().get(key)

        def get_range(self, key, start, length):
            self._of(key)
            return super().get_range(key, start, length)

    report = verify_dataset(open_plan(Goes(dest.path)), deep=deep)
    assert kinds(report) == {(2, kind)}


def test_bytes_are_handed_out_only_if_their_receipt_testifies_for_them(dest):
    store, entry = LocalStore(dest.path), dest.read_receipt(2).chunks[0]
    assert read_object(store, entry.key, entry.sha256, chunk=2) == dest.chunk(2).read_bytes()
    flip_bit(dest.chunk(2))
    with pytest.raises(CorruptError, match="is damaged") as caught:
        read_object(store, entry.key, entry.sha256, chunk=2)
    assert (caught.value.kind, caught.value.chunk) == ("chunk-sha256", 2)
    dest.chunk(2).unlink()
    with pytest.raises(CorruptError, match="is gone") as caught:
        read_object(store, entry.key, entry.sha256, chunk=2)
    assert caught.value.kind == "chunk-missing"


def test_a_receipt_of_no_planned_chunk_is_found(dest):
    entry = replace(dest.read_receipt(0).chunks[0], chunk=9)
    dest.receipt(9).write_bytes(replace(dest.read_receipt(0), chunks=(entry,)).seal())
    assert kinds(verify_dataset(dest.open())) == {(None, "receipt-unplanned")}


def test_one_receipt_for_several_chunks_is_as_good(dest):
    joint = dest.join_receipts(3, 4, 5)
    assert verify_dataset(dest.open(), deep=True).exit_code == 0
    flip_bit(joint)
    report = verify_dataset(dest.open())
    assert kinds(report) == {(chunk, "receipt-damaged") for chunk in (3, 4, 5)}


def test_a_damaged_index_is_found_and_bytes_are_still_checked(dest):
    opened = dest.open()
    flip_bit(dest.path / opened.plan.files["index"], at=-40)  # in the footer's tail: what is open stays readable
    dest.chunk(8).unlink()
    assert kinds(verify_dataset(opened, deep=True)) == {(None, "plan-file"), (8, "chunk-missing")}


class _FlippingStore(LocalStore):
    """Damages one of the ranges of the index, on its way."""

    def __init__(self, path, at):
        super().__init__(path)
        self.at, self.n_ranges = at, 0

    def get_range(self, key, start, length):
        data = super().get_range(key, start, length)
        if not key.startswith("_ingest/index-"):
            return data
        self.n_ranges += 1
        return flipped(data) if self.n_ranges == self.at else data


def test_a_bit_of_the_index_that_flips_on_its_way_is_no_finding(dest):
    quiet = _FlippingStore(dest.path, 0)
    assert verify_dataset(open_plan(quiet)).findings == ()
    for at in range(1, quiet.n_ranges + 1):
        store = _FlippingStore(dest.path, at)
        assert verify_dataset(open_plan(store)).findings == ()
        assert store.n_ranges == quiet.n_ranges + 1


def test_what_no_receipt_names_is_a_stray_and_no_fault(dest):
    (dest.path / "chunks" / "chunk_000099.h5ad").write_bytes(b"left over")
    report = verify_dataset(dest.open())
    assert (report.strays, report.exit_code) == (("chunks/chunk_000099.h5ad",), 0)


# -- content -------------------------------------------------------------------------------------------------------


def test_obs_edited_in_a_valid_file_takes_decoding_to_find(dest):
    with h5py.File(dest.chunk(3), "r+") as file:
        codes = file["obs/cell_type/codes"][()]
        file["obs/cell_type/codes"][...] = np.roll(codes, 1)
    dest.reseal(3)
    assert verify_dataset(dest.open()).exit_code == 0
    assert kinds(verify_dataset(dest.open(), deep=True)) == {(3, "obs"), (3, "content")}


def test_one_changed_count_of_the_same_size_takes_decoding_to_find(dest):
    add_one_count(dest.chunk(3))
    dest.reseal(3)
    assert verify_dataset(dest.open()).exit_code == 0
    found = kinds(verify_dataset(dest.open(), deep=True))
    assert {(3, "content"), (3, "cell-sums")} <= found <= {(3, "content"), (3, "cell-sums"), (3, "totals")}


def test_two_counts_exchanged_within_a_cell_are_found_by_content(dest):
    swap_two_counts(dest.chunk(3))
    dest.reseal(3)
    assert kinds(verify_dataset(dest.open(), deep=True)) == {(3, "content")}


def test_even_a_receipt_that_lies_with_its_chunk_is_contradicted_by_the_source(dest):
    swap_two_counts(dest.chunk(3))
    dest.reseal(3, content=content_digest(decode_chunk(dest.chunk(3).read_bytes(), key="")))
    assert verify_dataset(dest.open(), deep=True).exit_code == 0
    report = verify_dataset(dest.open(), source=True)
    assert (3, "source-differs") in kinds(report)
    assert report.bad == (3,)
    message = next(finding.message for finding in report.findings if finding.kind == "source-differs")
    assert "for gene ENSG" in message
    assert "of cell sample0:" in message


def test_what_differs_from_its_source_is_said_of_each_chunk_though_the_store_fails_then(dest, monkeypatch):
    for chunk in (3, 5):
        swap_two_counts(dest.chunk(chunk))
        dest.reseal(chunk, content=content_digest(decode_chunk(dest.chunk(chunk).read_bytes(), key="")))

    def fails(data, *, key):
        if key == "chunks/chunk_000003.h5ad" and data == dest.chunk(3).read_bytes():
            raise TransientError("503 on GetObject")
        return decode_chunk(data, key=key)

    monkeypatch.setattr("ingest.rereading.decode_chunk", fails)
    report = verify_dataset(dest.open(), source=True)
    assert kinds(report) == {(3, "source-differs"), (5, "source-differs")}
    assert report.bad == (3, 5)


def test_a_census_knows_the_sums_of_its_cells(census_dest):
    add_one_count(census_dest.chunk(1))
    block = decode_chunk(census_dest.chunk(1).read_bytes(), key="")
    census_dest.reseal(
        1,
        content=content_digest(block),
        cell_sums=sums_digest(*row_sums(block.counts)),
        sum=float(block.counts.data.sum()),
        maximum=float(block.counts.data.max()),
    )
    assert kinds(verify_dataset(census_dest.open(), deep=True)) == {(1, "index-raw-sum")}


@pytest.fixture(scope="module")
def census_cells(finished_census):
    return pd.read_feather(finished_census.parent / "census.feather")


def test_sums_of_fractions_may_be_added_in_another_order(census_cells, tmp_path):
    """By whoever wrote the index: what `run` takes, `verify --deep` does."""
    census_cells = census_cells.assign(raw_sum=np.nextafter(census_cells["raw_sum"].astype(float), np.inf))
    census_cells.to_feather(tmp_path / "index.feather")
    data = DataSettings(cells_per_chunk=20, allow_noninteger=True)
    made = make_dataset(str(tmp_path / "dest"), tmp_path / "index.feather", data=data)
    assert verify_dataset(made.reopen(), deep=True).findings == ()


@pytest.mark.parametrize("name", ["raw_sum", "nnz"])
def test_a_column_of_the_users_own_promises_nothing(census_cells, tmp_path, name):
    census_cells.assign(**{name: "plenty"}).to_feather(tmp_path / "index.feather")
    made = make_dataset(str(tmp_path / "dest"), tmp_path / "index.feather", data=DataSettings(cells_per_chunk=20))
    assert verify_dataset(made.reopen(), deep=True).findings == ()


@pytest.mark.parametrize(
    ("path", "kind"), [("obs/soma_joinid", "row-ids"), ("obs/_index", "obs-names"), ("var/feature_name", "genes")]
)
def test_names_of_cells_and_genes_are_compared(census_dest, path, kind):
    with h5py.File(census_dest.chunk(0), "r+") as file:
        values = file[path][()]
        file[path][...] = values[::-1]
    census_dest.reseal(0)
    assert (0, kind) in kinds(verify_dataset(census_dest.open(), deep=True))


def test_a_file_that_is_no_chunk_is_a_finding(dest):
    with h5py.File(dest.chunk(2), "r+") as file:
        del file["X/indptr"]
    dest.reseal(2)
    with h5py.File(dest.chunk(4), "r+") as file:
        file["X/indices"][0] = -5
    dest.reseal(4)
    assert kinds(verify_dataset(dest.open(), deep=True)) == {(2, "undecodable-chunk"), (4, "index-range")}


def test_a_source_that_has_changed_is_no_fault_of_the_chunks(finished, tmp_path):
    shutil.copytree(finished.parent / "sources", tmp_path / "sources")
    index = write_h5ad_index(tmp_path / "index.feather", sorted((tmp_path / "sources").iterdir()))
    made = make_dataset(str(tmp_path / "dest"), index)
    (tmp_path / "sources" / "sample1.h5ad").touch()
    report = verify_dataset(made.reopen(), source=True)
    assert report.bad == ()
    assert report.exit_code == 1
    assert {finding.kind for finding in report.findings} == {"source-changed"}
    assert finished.exists()


# -- summaries and unfinished datasets -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", SUMMARY_KEYS[:-1])
def test_a_lost_and_a_damaged_summary_are_found(dest, key):
    data = (dest.path / key).read_bytes()
    (dest.path / key).unlink()
    report = verify_dataset(dest.open())
    assert kinds(report) == {(None, "summary-missing")}
    assert report.missing_summaries == (key,)
    (dest.path / key).write_bytes(data[: len(data) // 2])
    assert kinds(verify_dataset(dest.open())) == {(None, "summary-differs")}


def test_an_archive_that_one_bit_calls_encrypted_is_found(dest):
    path = dest.path / "metadata" / "presence.npz"
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] ^= 1  # of the flags of its first member, in the central directory
    path.write_bytes(data)
    assert kinds(verify_dataset(dest.open())) == {(None, "summary-differs")}


def test_a_summary_that_says_the_same_in_other_words_is_good(dest):
    path = dest.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert verify_dataset(dest.open()).exit_code == 0
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "total_cells_downloaded": 61}))
    assert kinds(verify_dataset(dest.open())) == {(None, "summary-differs")}


@pytest.mark.parametrize("chunk_rows", [1, 7, 60, 1000])
def test_the_table_of_all_cells_may_be_spelled_in_other_batches(dest, chunk_rows):
    path = dest.path / "metadata" / "cells.feather"
    table = feather.read_table(path, memory_map=False)
    feather.write_feather(table, path, compression="zstd", chunksize=chunk_rows)
    assert verify_dataset(dest.open()).exit_code == 0
    for other in (table.slice(1), table.slice(0, 59), pa.concat_tables([table, table.slice(0, 1)]), table.slice(0, 0)):
        feather.write_feather(other, path, chunksize=chunk_rows)
        assert kinds(verify_dataset(dest.open())) == {(None, "summary-differs")}
    names = table.column_names
    feather.write_feather(table.rename_columns([*names[:-1], "other"]), path, chunksize=chunk_rows)
    assert kinds(verify_dataset(dest.open())) == {(None, "summary-differs")}


def test_without_the_last_file_a_dataset_is_incomplete_not_bad(dest):
    (dest.path / "_SUCCESS.json").unlink()
    report = verify_dataset(dest.open())
    assert (report.exit_code, report.missing_summaries, report.findings) == (3, ("_SUCCESS.json",), ())


def test_an_interrupted_dataset_is_checked_as_far_as_it_goes(dest):
    (dest.path / "_SUCCESS.json").unlink()
    for chunk in (6, 7, 8):
        dest.receipt(chunk).unlink()
    dest.chunk(8).unlink()
    report = verify_dataset(dest.open(), source=True)
    assert (report.exit_code, report.missing, report.checked_chunks) == (3, (6, 7, 8), 6)
    assert report.strays == tuple(dest.open().plan.key(chunk) for chunk in (6, 7))
    dest.chunk(0).unlink()
    assert verify_dataset(dest.open()).exit_code == 1


def test_offsets_of_all_files_are_not_held_as_python_numbers(dest, monkeypatch):
    """Of 200 million cells they are 15 million rows, a gigabyte."""
    held = []
    monkeypatch.setattr("ingest.verifying.summary_findings", lambda _, chunks, *__, **___: held.extend(chunks) or ())
    assert verify_dataset(dest.open()).exit_code == 0
    assert [chunk.chunk for chunk in held] == list(range(9))
    assert all(chunk.offsets == () for chunk in held)
    assert all(chunk.offsets for receipt in dest.open().ledger.receipts() for chunk in receipt.chunks)


def test_offsets_are_in_the_order_of_files_whoever_comes_first(dest):
    chunks = [chunk for receipt in dest.open().ledger.receipts() for chunk in receipt.chunks]
    in_order, mixed = OffsetTable(), OffsetTable()
    for chunk in chunks:
        in_order.add(chunk)
    for chunk in [*chunks[4:], *chunks[:4]]:
        mixed.add(chunk)
    assert mixed.table().to_pylist() == in_order.table().to_pylist()
