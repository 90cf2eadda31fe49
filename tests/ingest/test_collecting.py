"""What no receipt names goes, in two steps; whatever is named, unknown or changed stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ingest.collecting import collect_garbage, find_garbage, mark_garbage
from ingest.errors import ConflictError
from ingest.store.open import open_store
from ingest.testing.damage import DamageableDataset
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.verifying import verify_dataset

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("collect")


@pytest.fixture(scope="module")
def finished(folder) -> Path:
    index = write_h5ad_index(folder / "index.feather", write_sources(folder / "sources", n_files=1))
    make_dataset(str(folder / "finished"), index)
    return folder / "finished"


@pytest.fixture
def dest(finished, tmp_path) -> DamageableDataset:
    shutil.copytree(finished, tmp_path / "dest")
    return DamageableDataset(tmp_path / "dest")


def litter(dest: DamageableDataset) -> set[str]:
    """Leave what killed processes leave; return the keys."""
    left = {
        "chunks/chunk_000099.h5ad",
        "_ingest/index-00000000000000000000000000000000.feather",
        "_ingest/genes-00000000000000000000000000000000.json",
        "_ingest/receipts/000000099-000000099.json",
        "chunks/.ingest-tmp-1-aaaa",
    }
    for key in left:
        (dest.path / key).write_bytes(b"left over")
    return left


def files(dest: DamageableDataset) -> set[str]:
    return {str(path.relative_to(dest.path)) for path in dest.path.rglob("*") if path.is_file()}


def test_a_clean_dataset_has_no_garbage(dest):
    garbage = find_garbage(dest.open())
    assert (garbage.candidates, garbage.blocked, mark_garbage(dest.open(), garbage)) == ((), False, None)
    before = files(dest)
    assert collect_garbage(dest.open(), grace_s=0).removed == ()
    assert files(dest) - {".ingest-lock"} == before - {".ingest-lock"}


def test_garbage_is_listed_marked_and_removed_a_day_later(dest):
    before = files(dest)
    left = litter(dest)
    (dest.path / "notes.txt").write_text("mine")
    garbage = find_garbage(dest.open(), now=NOON)
    assert {candidate.key for candidate in garbage.candidates} == left
    assert {candidate.why for candidate in garbage.candidates} == {"no-receipt", "no-plan", "no-chunk", "temporary"}
    assert (garbage.due, garbage.size) == ((), 9 * len(left))
    assert mark_garbage(dest.open(), garbage, now=NOON) is not None
    json.dumps(asdict(garbage))

    early = collect_garbage(dest.open(), now=NOON + DAY - timedelta(seconds=1))
    assert (early.removed, {candidate.key for candidate in early.waiting}) == ((), left)
    again = find_garbage(dest.open(), now=NOON + DAY)
    assert mark_garbage(dest.open(), again) is None  # all of it is marked already
    done = collect_garbage(dest.open(), now=NOON + DAY)
    assert {candidate.key for candidate in done.removed} == left
    assert (done.changed, done.waiting, done.lost) == ((), (), ())
    assert files(dest) - {".ingest-lock"} == (before | {"notes.txt"}) - {".ingest-lock"}
    assert verify_dataset(dest.open(), deep=True).exit_code == 0


def test_the_first_collection_only_marks_even_without_a_grace_period(dest):
    litter(dest)
    assert collect_garbage(dest.open(), grace_s=0).removed == ()
    assert len(collect_garbage(dest.open(), grace_s=0).removed) == 5


def test_what_changed_since_it_was_marked_waits_anew(dest):
    stray = dest.path / "chunks" / "chunk_000099.h5ad"
    stray.write_bytes(b"left over")
    mark_garbage(dest.open(), find_garbage(dest.open(), now=NOON), now=NOON)
    store = open_store(str(dest.path))
    store.replace("chunks/chunk_000099.h5ad", b"written again", expected=store.stat("chunks/chunk_000099.h5ad").version)
    later = collect_garbage(dest.open(), now=NOON + 2 * DAY)
    assert (later.removed, len(later.waiting)) == ((), 1)
    assert stray.read_bytes() == b"written again"
    assert len(collect_garbage(dest.open(), now=NOON + 3 * DAY).removed) == 1


def test_a_version_that_changes_between_looking_and_removing_stays(dest, monkeypatch):
    stray = dest.path / "chunks" / "chunk_000099.h5ad"
    stray.write_bytes(b"left over")
    mark_garbage(dest.open(), find_garbage(dest.open(), now=NOON), now=NOON)
    opened = dest.open()
    delete = opened.store.delete

    def raced(key, *, expected):
        if key.startswith("chunks/"):
            stray.write_bytes(b"somebody else's")
        delete(key, expected=expected)

    monkeypatch.setattr(opened.store, "delete", raced)
    collected = collect_garbage(opened, now=NOON + DAY)
    assert (collected.removed, collected.changed) == ((), ("chunks/chunk_000099.h5ad",))
    assert stray.exists()


def unfinish(dest: DamageableDataset) -> None:
    """As a driver leaves it that was killed between an object and its receipt."""
    (dest.path / "_SUCCESS.json").unlink()
    dest.receipt(2).unlink()
    dest.open().ledger.start_run("20260105T110000-killed", {"command": "run"})


def test_nothing_is_removed_while_a_run_is_open_unless_forced(dest):
    unfinish(dest)
    garbage = find_garbage(dest.open(), now=NOON)
    assert (garbage.blocked, garbage.open_runs) == (True, ("20260105T110000-killed",))
    mark_garbage(dest.open(), garbage, now=NOON)
    with pytest.raises(ConflictError, match="has not ended") as caught:
        collect_garbage(dest.open(), now=NOON + DAY)
    assert caught.value.kind == "run-open"
    assert dest.chunk(2).exists()
    removed = collect_garbage(dest.open(), now=NOON + DAY, force=True).removed
    assert [candidate.key for candidate in removed] == [dest.open().plan.key(2)]


def test_a_stray_that_was_adopted_since_stays(dest):
    receipt = dest.receipt(2).read_bytes()
    unfinish(dest)
    mark_garbage(dest.open(), find_garbage(dest.open(), now=NOON), now=NOON)
    dest.receipt(2).write_bytes(receipt)
    collected = collect_garbage(dest.open(), now=NOON + DAY, force=True)
    assert (collected.removed, dest.chunk(2).exists()) == ((), True)


def test_a_killed_run_blocks_nothing_once_the_dataset_is_complete(dest):
    litter(dest)
    dest.open().ledger.start_run("20260105T110000-killed", {"command": "run"})
    assert not find_garbage(dest.open()).blocked
    collect_garbage(dest.open(), grace_s=0)
    assert len(collect_garbage(dest.open(), grace_s=0).removed) == 5


def test_a_commit_that_overtakes_the_removal_is_reported(dest, monkeypatch):
    receipt = dest.receipt(2).read_bytes()
    unfinish(dest)
    mark_garbage(dest.open(), find_garbage(dest.open(), now=NOON), now=NOON)
    opened = dest.open()
    delete = opened.store.delete

    def raced(key, *, expected):
        dest.receipt(2).write_bytes(receipt)
        delete(key, expected=expected)

    monkeypatch.setattr(opened.store, "delete", raced)
    assert collect_garbage(opened, now=NOON + DAY, force=True).lost == (2,)
    assert verify_dataset(dest.open()).bad == (2,)


def test_a_damaged_marking_marks_nothing(dest):
    litter(dest)
    key = mark_garbage(dest.open(), find_garbage(dest.open(), now=NOON), now=NOON)
    (dest.path / key).write_bytes(b'{"format_version": 1, "marked": "yesterday"}')
    assert collect_garbage(dest.open(), now=NOON + 9 * DAY).removed == ()


def test_on_s3(folder, finished, s3_server, monkeypatch):  # noqa: ARG001 # it wrote the index
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    made = make_dataset(f"{s3_server.create_bucket('collect')}/lung", folder / "index.feather")
    made.opened.store.put_new("chunks/chunk_000099.h5ad", b"left over")
    assert collect_garbage(made.reopen(), now=NOON).removed == ()
    removed = collect_garbage(made.reopen(), now=NOON + DAY).removed
    assert [candidate.key for candidate in removed] == ["chunks/chunk_000099.h5ad"]
    assert verify_dataset(made.reopen()).strays == ()
