"""Status tells done, in hand, quarantined and missing apart, without reading a receipt or a chunk."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from ingest.collecting import find_garbage
from ingest.layout import CHUNKS, RECEIPTS
from ingest.pool import Failure
from ingest.status import dataset_status, spans
from ingest.testing.damage import DamageableDataset
from ingest.testing.datasets import SilentObserver, make_dataset, write_h5ad_index


def unmake(dest: DamageableDataset, *chunks: int) -> None:
    (dest.path / "_SUCCESS.json").unlink(missing_ok=True)
    for chunk in chunks:
        dest.receipt(chunk).unlink()


def test_a_finished_dataset(dest):
    status = dataset_status(dest.open())
    assert (status.complete, status.n_done, status.n_chunks) == (True, 9, 9)
    assert (status.cells_done, status.n_cells) == (60, 60)
    assert status.bytes_done == sum(path.stat().st_size for path in (dest.path / "chunks").iterdir())
    assert (status.in_hand, status.quarantined, status.missing, status.unreadable) == ((), (), (), ())
    assert (status.retry, status.proceed) == (None, None)
    assert status.cells_per_s is not None
    (run,) = status.runs
    assert (run.command, run.outcome, run.cells, run.retries) == ("run", "ended", 60, 0)
    assert None not in (run.user, run.host, run.version, run.started, run.ended, run.cells_per_s)
    json.dumps(asdict(status))


def test_without_the_summaries_a_dataset_is_not_complete(dest):
    unmake(dest)
    status = dataset_status(dest.open())
    assert (status.complete, status.n_done) == (False, 9)
    assert status.proceed == f"run {dest.path}"


def test_every_chunk_is_told_once(dest):
    unmake(dest, 3, 4, 5, 6, 7, 8)
    ledger = dest.open().ledger
    ledger.start_run("20300101T000000-open", {"command": "run", "user": "ada"})
    ledger.claim("20300101T000000-open", 1, [2, 3, 4])
    ledger.claim("20300101T000000-open", 2, [5, 6])
    ledger.record_failures("20300101T000000-open-0000001", [Failure((4,), "transient", "timeout", "slow")])
    ledger.record_failures("20300101T000000-open-0000002", [Failure((5,), "source", "nan", "NaN in sample1")])
    ledger.record_failures("20290101T000000-dead-0000001", [Failure((5, 7), "internal", "worker-died", "killed")])
    status = dataset_status(dest.open())
    assert (status.n_done, status.cells_done, status.in_hand, status.missing) == (3, 21, (3, 4, 6), (8,))
    told = [(one.chunk, one.kind, one.message, one.attempts) for one in status.quarantined]
    assert told == [(5, "nan", "NaN in sample1", 2), (7, "worker-died", "killed", 1)]
    assert status.retry == f"repair {dest.path}"
    assert [(run.outcome, run.user) for run in status.runs][-1] == (None, "ada")


def test_claims_of_ended_runs_and_causes_of_made_chunks_do_not_count(dest):
    unmake(dest, 8)
    ledger = dest.open().ledger
    ledger.record_failures("a-0000001", [Failure((1, 2), "transient", "timeout", "slow")])
    status = dataset_status(dest.open())
    assert (status.in_hand, status.quarantined, status.missing) == ((), (), (8,))


def test_a_real_quarantine_is_told_with_its_cause(tmp_path, finished):
    shutil.copytree(finished.parent / "sources", tmp_path / "sources")
    index = write_h5ad_index(tmp_path / "index.feather", sorted((tmp_path / "sources").iterdir()))
    made = make_dataset(str(tmp_path / "dest"), index)
    dest = DamageableDataset(tmp_path / "dest")
    unmake(dest, 0, 8)
    for chunk in (0, 8):
        dest.chunk(chunk).unlink()
    (tmp_path / "sources" / "sample1.h5ad").touch()
    resume(made.reopen())
    status = dataset_status(dest.open())
    (one,) = status.quarantined
    assert (one.chunk, one.handling, one.kind) == (8, "source", "source-changed")
    assert "sample1" in str(one.source)
    assert (status.n_done, status.complete, len(status.runs)) == (8, False, 2)


def resume(opened) -> None:
    from ingest.preparing import divide_work, profile_of_plan
    from ingest.running import run_plan
    from ingest.settings import WorkSettings
    from ingest.testing.datasets import open_serial_pool

    work = WorkSettings(workers=1)
    divided = divide_work(profile_of_plan(opened, work), opened, opened.ledger.done(), work)
    run_plan(opened, divided, work, open_serial_pool, SilentObserver(), stop_requested=lambda: False)


def test_a_damaged_record_is_named_and_passed_over(dest):
    unmake(dest, 8)
    path = dest.path / "_ingest" / "failures" / "a-0000001-000.json"
    path.parent.mkdir()
    path.write_bytes(b"{")
    assert dataset_status(dest.open()).unreadable == ("_ingest/failures/a-0000001-000.json",)


def test_what_a_file_manager_leaves_in_every_folder_is_in_nobodys_way(dest):
    unmake(dest, 8)
    dest.open().ledger.start_run("20300101T000000-open", {"command": "run"})
    (dest.path / "_ingest" / "amendments").mkdir()
    for folder in {path.parent for path in dest.path.rglob("*")} | {dest.path / "_ingest" / "amendments"}:
        (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    status = dataset_status(dest.open())
    assert (status.unreadable, status.missing, [run.outcome for run in status.runs]) == ((), (8,), ["ended", None])
    assert find_garbage(dest.open()).open_runs == ("20300101T000000-open",)
    resume(dest.open())
    assert dataset_status(dest.open()).complete


def test_no_receipt_and_no_chunk_is_read(dest, monkeypatch):
    unmake(dest, 8)
    opened = dest.open()
    read = []
    get = opened.store.get
    monkeypatch.setattr(opened.store, "get", lambda key: read.append(key) or get(key))
    dataset_status(opened)
    assert read
    assert not [key for key in read if key.startswith((RECEIPTS, CHUNKS))]
    assert not [key for key in read if "/unit-" in key]  # claims of ended runs neither


@given(st.sets(st.integers(0, 40)))
def test_spans_are_the_numbers_in_fewest_ranges(chunks):
    found = spans(sorted(chunks))
    assert [chunk for first, last in found for chunk in range(first, last + 1)] == sorted(chunks)
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(found))
