"""A DEST in which somebody has changed a file, and sealed it again: a typed error, a finding or an answer."""

from __future__ import annotations

import fnmatch
import json
import random
import shutil

import pytest

from ingest.errors import CorruptError
from ingest.load.dataset import open_chunks
from ingest.testing.entry_points.base import attempt
from ingest.testing.entry_points.dest import DEST
from ingest.testing.entry_points.files import ARCHIVE, CONFIG
from ingest.testing.hostile import parquet
from ingest.testing.hostile.dests import changed, dest_changes, json_keys, write_good_dest
from ingest.testing.hostile.documents import SPELLINGS
from ingest.testing.watch import Canaries, watched_memory

MEMORY_BYTES = 512 << 20
FAST = [entry for entry in DEST if entry.name in ("status", "verify", "load", "chosen hvgs", "gc")]
SLOW = [entry for entry in DEST if entry not in FAST]


@pytest.fixture(scope="module")
def dest(tmp_path_factory):
    return write_good_dest(tmp_path_factory.mktemp("dest"))


@pytest.fixture(scope="module")
def answers(dest):
    return {entry.name: attempt(entry, dest) for entry in DEST}


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "outside.h5ad"
    path.write_bytes(b"canary")
    with Canaries([path]) as watched:
        yield watched


def check(entry, path, name):
    with watched_memory() as peak:
        outcome = attempt(entry, path)
    assert outcome.fault is None, f"{name} by {entry.name}"
    assert peak.taken_bytes < MEMORY_BYTES, f"{name} by {entry.name}"
    return outcome


def go_through(dest, answers, tmp_path, changes, others):
    """Have each change read; what `verify` sees nothing of, a loader reads as it was."""
    folder = tmp_path / "case"
    for at, change in enumerate(changes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        copy = changed(dest, folder, change)
        found = {entry.name: check(entry, copy, change[0]) for entry in (*FAST, *others(at))}
        unseen = found["verify"].answer == answers["verify"].answer
        assert not unseen or found["load"].answer in (None, answers["load"].answer), change[0]


def test_the_good_one_is_good(answers):
    assert {name for name, outcome in answers.items() if outcome.fault or outcome.kind} == set()


def test_some_changes_of_every_file(dest, answers, tmp_path):
    changes, draw = list(dest_changes(dest)), random.Random(8)  # noqa: S311 # repeatable, not secret
    assert len(changes) > 5000
    by_key = {}
    for change in changes:
        by_key.setdefault(change[1], []).append(change)
    some = [change for of_key in by_key.values() for change in draw.sample(of_key, min(3, len(of_key)))]
    go_through(dest, answers, tmp_path, some, lambda at: [SLOW[at // 8 % len(SLOW)]] if at % 8 == 0 else [])


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("_ingest/receipts/000000000-000000000.json:chunks.0.sha256=8", "hvg"),
        ("_ingest/receipts/000000000-000000000.json:chunks=short", "verify"),
        ("planned:_ingest/survey-*.feather:source:minus", "status"),
        ("chunk_index.json:chunks.0.maximum=6", "memmap"),
        ("metadata/cells.feather:source:nulls", "load"),
        ("chunk_offsets.feather:dataset:nulls", "load"),
        ("metadata/cells.feather:name-bytes", "load"),
    ],
)
def test_changes_that_once_ended_in_something_else(dest, tmp_path, name, reader):
    [change] = [change for change in dest_changes(dest) if fnmatch.fnmatchcase(change[0], name)]
    check(next(entry for entry in DEST if entry.name == reader), changed(dest, tmp_path, change), name)


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
def test_every_change_of_every_file(dest, answers, tmp_path, part):
    go_through(dest, answers, tmp_path, list(dest_changes(dest))[part::8], lambda at: [SLOW[at % len(SLOW)]])


@pytest.mark.parametrize("name", SPELLINGS)
def test_plan_and_receipts_that_are_no_documents(dest, tmp_path, name):
    for key in ("_ingest/plan.json", next(key for key in json_keys(dest) if "/receipts/" in key)):
        folder = tmp_path / key.rpartition("/")[2]
        folder.mkdir()
        copy = changed(dest, folder, (name, key, SPELLINGS[name]((dest / key).read_bytes())))
        outcome = check(FAST[1], copy, name)
        assert outcome.kind is not None or outcome.answer != attempt(FAST[1], dest).answer, f"{key} was believed"


def test_a_plan_of_endlessly_many_chunks_is_refused(dest, tmp_path):
    """Whatever walks over the numbers of all chunks would never come to an end."""
    document = json.loads((dest / "_ingest/plan.json").read_bytes())
    from ingest.testing.hostile.dests import resealed

    for name, value in (
        ("n_cells", 2**62),
        ("n_cells", 10**30),
        ("cells_per_chunk", 0),
        ("format", -1),
        ("sources", []),
    ):
        other = {**document, "identity": {**document["identity"], name: value}}
        folder = tmp_path / f"{name}-{value}"[:40]
        folder.mkdir()
        data = resealed((dest / "_ingest/plan.json").read_bytes(), other)
        for entry in FAST[:2]:
            assert check(entry, changed(dest, folder / entry.name, (name, "_ingest/plan.json", data)), name).kind


def test_a_loader_reads_no_file_outside_of_the_dataset(dest, tmp_path, canary):
    """Keys in chunk_index.json are made of numbers; one that leads elsewhere is damage."""
    for key in ("../../outside.h5ad", str(tmp_path / "outside.h5ad"), "chunks/../../../outside.h5ad"):
        document = json.loads((dest / "chunk_index.json").read_bytes())
        document["chunks"][0]["key"] = key
        folder = tmp_path / f"case{len(key)}"
        folder.mkdir()
        copy = changed(dest, folder, ("leads-out", "chunk_index.json", json.dumps(document).encode()))
        with pytest.raises(CorruptError, match="is not chunk 0"):
            open_chunks(copy)
    assert not canary.disturbed()


def test_sizes_that_no_file_has_ask_for_no_memory(dest, tmp_path):
    document = json.loads((dest / "chunk_index.json").read_bytes())
    for entry in document["chunks"]:
        entry["bytes"] = 1 << 50
    (tmp_path / "case").mkdir()
    copy = changed(dest, tmp_path / "case", ("huge", "chunk_index.json", json.dumps(document).encode()))
    check(FAST[2], copy, "huge")


def spoilt(good: bytes, name: str):
    yield from ((f"cut-{share}", good[: len(good) * share // 100]) for share in (0, 30, 80, 99))
    yield "zeros", bytes(len(good))
    yield "ones", b"\xff" * len(good)
    if name.endswith(".json"):
        yield from ((key, spell(good)) for key, spell in SPELLINGS.items() if not key.startswith("version"))
    if name.endswith(".parquet"):
        yield from ((key, spoil(good)) for key, spoil in parquet.BYTES.items())


def test_archives(dest, tmp_path):
    """Of an archive whatever has a form is looked at; its arrays have none, so that their length is all."""
    from ingest.load.memmap.convert.api import create_archive

    archive = create_archive(str(dest), tmp_path / "archive", data_dtype="auto", pool="serial")
    for path in sorted(path for path in archive.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for name, data in spoilt(good, path.name):
            path.write_bytes(data)
            outcome = check(ARCHIVE[0], archive, f"{path.name}: {name}")
            assert (
                outcome.kind is not None or not name.startswith("cut") or path.name in ("version.json", "plan.json")
            ), name
        path.write_bytes(good)


@pytest.mark.parametrize("name", SPELLINGS)
def test_settings(tmp_path, name):
    path = tmp_path / "config.json"
    path.write_bytes(SPELLINGS[name](json.dumps({"cells_per_chunk": 10, "quality_control": {"mad": 5}}).encode()))
    for entry in CONFIG:
        check(entry, path, name)
