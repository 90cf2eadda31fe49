"""Repair makes exactly the bad again: the others are not touched, and the result is the original."""

from __future__ import annotations

import json
import pickle
import shutil
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anndata
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.amendments import Amendment, LeftOut
from ingest.chunks import commit_chunk
from ingest.errors import ConfigError, CorruptError, PreconditionError
from ingest.layout import SUCCESS_KEY
from ingest.ledger.receipts import parse_receipt
from ingest.pool import Failure
from ingest.recommit import Recommit
from ingest.repairing import RepairReport, repair_dataset
from ingest.settings import WorkSettings
from ingest.store.local import LocalStore
from ingest.store.open import open_store
from ingest.testing.damage import DamageableDataset, add_one_count, flip_bit, swap_two_counts
from ingest.testing.datasets import (
    SilentObserver,
    make_dataset,
    open_serial_pool,
    write_h5ad_index,
)
from ingest.verifying import verify_dataset
from ingest.worker import ChunkWorkerFactory

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.opened import OpenPlan

WORK = WorkSettings(workers=1)


def repair(opened: OpenPlan, bad=None, open_pool=open_serial_pool) -> RepairReport:
    return repair_dataset(opened, bad, WORK, open_pool, SilentObserver())


def digest(path: Path) -> str:
    return str(json.loads((path / SUCCESS_KEY).read_bytes())["digest"])


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and "_ingest" not in file.parts and not file.name.startswith(".")
    }


def touched(dest: DamageableDataset, before: dict[str, tuple[int, int]]) -> set[str]:
    now = dest.versions()
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


# -- exactly the bad -----------------------------------------------------------------------------------------------


def test_what_is_good_is_left_alone(dest):
    before = dest.versions()
    report = repair(dest.open())
    assert (report.wanted, report.run_id, report.exit_code) == ((), None, 0)
    assert touched(dest, before) == set()


def test_every_kind_of_damage_is_mended_and_nothing_else_touched(dest, finished):
    flip_bit(dest.chunk(1))
    dest.chunk(2).write_bytes(dest.chunk(2).read_bytes()[:-100])
    dest.chunk(3).unlink()
    flip_bit(dest.receipt(4))
    one, other = dest.chunk(5).read_bytes(), dest.chunk(6).read_bytes()
    dest.chunk(5).write_bytes(other)
    dest.chunk(6).write_bytes(one)
    (dest.path / "config.json").unlink()
    before = dest.versions()
    report = repair(dest.open())
    assert report.wanted == report.repaired == (1, 2, 3, 4, 5, 6)
    assert (report.failures, report.exit_code) == ({}, 0)
    # Chunk 4 was right, so only its receipt is new; of the others the receipts were right.
    named = {dest.chunk(chunk).name for chunk in (1, 2, 3, 5, 6)} | {dest.receipt(4).name}
    assert touched(dest, before) == named
    assert contents(dest.path) == contents(finished)
    assert digest(dest.path) == digest(finished)
    assert verify_dataset(dest.open(), source=True).exit_code == 0
    json.dumps(asdict(report))


def test_chunks_named_by_the_caller_are_examined_not_believed_bad(dest):
    flip_bit(dest.chunk(2))
    before = dest.versions()
    report = repair(dest.open(), bad=[2, 3])
    assert (report.repaired, report.exit_code, report.verified) == ((2, 3), 0, None)
    assert touched(dest, before) == {dest.chunk(2).name}


@pytest.mark.parametrize("edit", [swap_two_counts, add_one_count])
def test_wrong_content_under_a_right_sha256_is_replaced_with_its_receipt(dest, finished, edit):
    edit(dest.chunk(3))
    dest.reseal(3)
    before = dest.versions()
    bad = verify_dataset(dest.open(), deep=True).bad
    assert bad == (3,)
    assert repair(dest.open(), bad).exit_code == 0
    assert touched(dest, before) == {dest.chunk(3).name, dest.receipt(3).name}
    assert contents(dest.path) == contents(finished)


def test_a_receipt_that_disagrees_is_replaced_and_its_right_chunk_kept(dest, finished):
    entry = replace(dest.read_receipt(5).chunks[0], rows="0" * 32, content="0" * 32)
    dest.receipt(5).write_bytes(replace(dest.read_receipt(5), chunks=(entry,)).seal())
    before = dest.versions()
    report = repair(dest.open())
    assert (report.repaired, report.exit_code) == ((5,), 0)
    assert touched(dest, before) == {dest.receipt(5).name}
    assert digest(dest.path) == digest(finished)


def test_a_chunk_of_other_bytes_and_equal_content_stays_when_only_its_receipt_is_lost(dest, finished):
    # As another CPU class would have compressed it.
    anndata.read_h5ad(dest.chunk(4)).write_h5ad(dest.chunk(4))
    flip_bit(dest.receipt(4))
    before = dest.versions()
    assert repair(dest.open()).exit_code == 0
    assert touched(dest, before) == {dest.receipt(4).name}
    assert verify_dataset(dest.open(), source=True).exit_code == 0
    assert digest(dest.path) == digest(finished)


@pytest.mark.parametrize("also_receipt", [False, True])
def test_one_of_several_chunks_of_a_receipt(dest, finished, also_receipt):
    joint = dest.join_receipts(3, 4, 5)
    add_one_count(dest.chunk(4))
    if also_receipt:
        flip_bit(joint)
    before = dest.versions()
    report = repair(dest.open())
    assert report.repaired == ((3, 4, 5) if also_receipt else (4,))
    own = {dest.receipt(chunk).name for chunk in (3, 4, 5)} | {joint.name}
    assert touched(dest, before) == {dest.chunk(4).name} | (own if also_receipt else set())
    verified = verify_dataset(dest.open(), deep=True)
    assert (verified.exit_code, verified.checked_cells) == (0, verified.n_cells)
    assert digest(dest.path) == digest(finished)


@pytest.mark.parametrize("receipts", ["own", "joint", "damaged", "lost"])
def test_what_was_made_whole_is_repaired_whole_although_it_may_lack_rows(dest, finished, receipts):
    """One driver amended for want of a source, late: another had made these chunks, and the source is there."""
    opened = dest.open()
    in_middle = next(n for n in range(opened.plan.n_chunks) if len(dest.read_receipt(n).chunks[0].sources) == 2)
    chunks = (in_middle - 1, in_middle, in_middle + 1)
    cells = {n: dict(dest.read_receipt(n).chunks[0].sources) for n in chunks}
    if receipts == "joint":
        dest.join_receipts(*chunks)
    left_out = [
        LeftOut(source, "unreadable", "it is said", tuple((n, cells[n][source]) for n in chunks if source in cells[n]))
        for source in (0, 1)
    ]
    opened.ledger.amend(Amendment(opened.plan.identity.digest, "late", tuple(left_out)))
    dest.chunk(in_middle + 1).unlink()
    if receipts == "damaged":
        flip_bit(dest.receipt(in_middle))
    elif receipts == "lost":
        dest.receipt(in_middle).unlink()
    else:
        flip_bit(dest.chunk(in_middle))
    report = repair(dest.open(), chunks[1:])
    assert (report.repaired, report.exit_code, report.finished.left_out) == (chunks[1:], 0, ())
    assert contents(dest.path) == contents(finished)
    assert verify_dataset(dest.open(), source=True).exit_code == 0


@pytest.mark.parametrize("summary", [None, b"{", b"[]", b'{"format_version": 1, "chunks": [{"chunk": 1}]}'])
def test_where_nothing_says_what_a_chunk_held_amendments_do(dest, summary):
    opened = dest.open()
    ((source, cells),) = dest.read_receipt(1).chunks[0].sources
    left_out = LeftOut(source, "unreadable", "it is said", ((1, cells),))
    opened.ledger.amend(Amendment(opened.plan.identity.digest, "late", (left_out,)))
    dest.receipt(1).unlink()
    (dest.path / "chunk_index.json").unlink()
    if summary is not None:
        (dest.path / "chunk_index.json").write_bytes(summary)
    report = repair(dest.open(), [1])
    assert (report.exit_code, report.finished.left_out) == (0, (left_out,))
    assert verify_dataset(dest.open(), deep=True).exit_code == 0


def test_a_receipt_of_several_chunks_is_corrected_for_one(dest, finished):
    add_one_count(dest.chunk(4))
    dest.reseal(4)
    joint = dest.join_receipts(3, 4, 5)
    before = dest.versions()
    report = repair(dest.open(), verify_dataset(dest.open(), deep=True).bad)
    assert (report.repaired, report.exit_code) == ((4,), 0)
    assert touched(dest, before) == {dest.chunk(4).name, joint.name}
    assert contents(dest.path) == contents(finished)


def test_a_flip_that_changes_no_content_is_adopted_when_no_receipt_testifies_against_it(dest, finished):
    # HDF5 leaves gaps in a file; without a receipt the content is all that can be agreed about.
    flip_bit(dest.chunk(2))
    flip_bit(dest.receipt(2))
    before = dest.versions()
    assert repair(dest.open()).exit_code == 0
    assert dest.receipt(2).name in touched(dest, before) <= {dest.receipt(2).name, dest.chunk(2).name}
    assert verify_dataset(dest.open(), source=True).exit_code == 0
    assert digest(dest.path) == digest(finished)


def test_lost_and_wrong_summaries_are_written_again(dest, finished):
    (dest.path / "metadata" / "presence.npz").unlink()
    (dest.path / "chunk_index.json").write_text("{}")
    before = dest.versions()
    report = repair(dest.open())
    assert (report.wanted, report.exit_code) == ((), 0)
    assert contents(dest.path) == contents(finished)
    assert touched(dest, before) == set()


DAMAGE = {
    "flip": lambda dest, chunk, at: flip_bit(dest.chunk(chunk), at=at % dest.chunk(chunk).stat().st_size),
    "truncate": lambda dest, chunk, at: dest.chunk(chunk).write_bytes(dest.chunk(chunk).read_bytes()[: at % 5000]),
    "delete": lambda dest, chunk, _: dest.chunk(chunk).unlink(),
    "flip receipt": lambda dest, chunk, at: flip_bit(dest.receipt(chunk), at=at % dest.receipt(chunk).stat().st_size),
    "delete receipt": lambda dest, chunk, _: dest.receipt(chunk).unlink(),
}


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(
    damages=st.dictionaries(
        st.integers(0, 8), st.tuples(st.sampled_from(sorted(DAMAGE)), st.integers(0, 1 << 20)), max_size=4
    )
)
def test_any_damage_is_named_exactly_and_mended(finished, tmp_path_factory, damages):
    dest = DamageableDataset(tmp_path_factory.mktemp("any") / "dest")
    shutil.copytree(finished, dest.path)
    for chunk, (kind, at) in damages.items():
        DAMAGE[kind](dest, chunk, at)
    before = dest.versions()
    report = repair(dest.open())
    assert report.verified is not None
    assert report.verified.bad == report.wanted == report.repaired == tuple(sorted(damages))
    assert report.exit_code == 0
    names = {path.name for chunk in damages for path in (dest.chunk(chunk), dest.receipt(chunk))}
    assert touched(dest, before) <= names
    assert digest(dest.path) == digest(finished)
    assert verify_dataset(dest.open(), deep=True).exit_code == 0


def test_the_commit_of_a_repair_travels(dest):
    factory = ChunkWorkerFactory(str(dest.path), None, "run", 1, 1, 1, "", commit=Recommit({3: "key"}))
    assert pickle.loads(pickle.dumps(factory)) == factory  # noqa: S301 # our own, as a pool sends it


# -- quarantined and unfinished ------------------------------------------------------------------------------------


def test_the_quarantined_are_tried_again_and_the_merely_missing_are_not(dest):
    opened = dest.open()
    for chunk in (6, 7, 8):
        dest.receipt(chunk).unlink()
        dest.chunk(chunk).unlink()
    (dest.path / SUCCESS_KEY).unlink()
    opened.ledger.record_failures("a-0000001", [Failure((7,), "source", "nan", "NaN in sample1.h5ad")])
    report = repair(opened)
    assert (report.wanted, report.repaired) == ((7,), (7,))
    assert report.exit_code == 3
    assert opened.ledger.done() == {0, 1, 2, 3, 4, 5, 7}
    assert json.loads((dest.path / "config.json").read_bytes())["complete"] is False


def test_an_object_in_the_way_of_a_quarantined_chunk_is_replaced(dest, finished):
    dest.receipt(7).unlink()
    dest.chunk(7).write_bytes(b"something else")
    (dest.path / SUCCESS_KEY).unlink()
    opened = dest.open()
    opened.ledger.record_failures("a-0000001", [Failure((7,), "conflict", "other-content", "something else is there")])
    assert repair(opened).exit_code == 0
    assert contents(dest.path) == contents(finished)


# -- what a repair refuses -----------------------------------------------------------------------------------------


def test_a_receipt_that_contradicts_the_source_is_a_conflict_and_nothing_is_replaced(dest):
    entry = replace(dest.read_receipt(2).chunks[0], content="0" * 32)
    dest.receipt(2).write_bytes(replace(dest.read_receipt(2), chunks=(entry,)).seal())
    flip_bit(dest.chunk(2))
    before = dest.versions()
    report = repair(dest.open())
    assert (report.repaired, report.exit_code) == ((), 1)
    assert {chunk: (failure.handling, failure.kind) for chunk, failure in report.failures.items()} == {
        2: ("conflict", "other-content")
    }
    assert touched(dest, before) == set()


def test_a_changed_source_mends_nothing(tmp_path, finished):
    shutil.copytree(finished.parent / "sources", tmp_path / "sources")
    index = write_h5ad_index(tmp_path / "index.feather", sorted((tmp_path / "sources").iterdir()))
    make_dataset(str(tmp_path / "dest"), index)
    dest = DamageableDataset(tmp_path / "dest")
    (tmp_path / "sources" / "sample1.h5ad").touch()
    flip_bit(dest.chunk(0))
    flip_bit(dest.chunk(8))
    report = repair(dest.open())
    assert report.repaired == (0,)
    assert {chunk: failure.kind for chunk, failure in report.failures.items()} == {8: "source-changed"}
    assert report.exit_code != 0
    assert verify_dataset(dest.open()).bad == (8,)


def test_a_damaged_plan_and_unknown_chunks_are_refused(dest):
    with pytest.raises(ConfigError, match="chunk 9 is not in the plan of 9"):
        repair(dest.open(), bad=[9])
    opened = dest.open()
    flip_bit(dest.path / opened.plan.files["index"], at=-40)
    for bad in (None, [3]):
        with pytest.raises(CorruptError, match="no chunk can be made") as caught:
            repair(opened, bad)
        assert caught.value.kind == "plan-damaged"


def test_a_run_makes_no_chunk_from_a_damaged_index(dest, finished):
    dest.receipt(3).unlink()
    opened = dest.open()
    flip_bit(dest.path / opened.plan.files["index"])
    with pytest.raises(CorruptError, match="no chunk can be made"):
        make_dataset(str(dest.path), finished.parent / "index.feather")
    assert opened.ledger.done() == set(range(9)) - {3}


# -- races ---------------------------------------------------------------------------------------------------------


class _Raced:
    """A store in which somebody else acts right after the first reading of a key that begins so."""

    def __init__(self, store, prefix, act) -> None:
        self._store, self._prefix, self._act = store, prefix, act

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, key):
        data = self._store.get(key)
        if self._act is not None and key.startswith(self._prefix):
            act, self._act = self._act, None
            act()
        return data


def raced_commit(prefix, act):
    """Return a commit whose store is raced; it runs in this process, so it need not travel."""

    def commit(opened, made, *, attempt):
        raced = _Raced(opened.store, prefix, lambda: act(made))
        ledger = type(opened.ledger)(raced)
        return Recommit()(replace(opened, ledger=ledger), made, attempt=attempt)

    return commit


@contextmanager
def pool_with(commit, factory, size, *, memory_bytes):
    with open_serial_pool(replace(factory, commit=commit), size, memory_bytes=memory_bytes) as pool:
        yield pool


def test_two_repairs_at_once_end_in_one_replacement_and_no_error(dest, finished):
    flip_bit(dest.chunk(2))

    def other_repair(_made) -> None:
        assert repair(dest.open()).exit_code == 0

    commit = raced_commit("chunks/", other_repair)
    report = repair(dest.open(), open_pool=lambda *a, **k: pool_with(commit, *a, **k))
    # The other's bytes are the very ones made here, which is how a success with a lost reply looks, too.
    assert (report.repaired, report.exit_code) == ((2,), 0)
    assert contents(dest.path) == contents(finished)


@pytest.mark.parametrize("prefix", ["chunks/", "_ingest/receipts/"])
def test_what_somebody_else_put_there_meanwhile_is_reported_not_overwritten(dest, prefix):
    add_one_count(dest.chunk(2))
    dest.reseal(2)
    path = dest.chunk(2) if prefix == "chunks/" else dest.receipt(2)
    other = b"{}"

    def somebody(_made) -> None:
        store = open_store(str(dest.path))
        key = str(path.relative_to(dest.path))
        store.replace(key, other, expected=store.stat(key).version)

    commit = raced_commit(prefix, somebody)
    report = repair(dest.open(), [2], open_pool=lambda *a, **k: pool_with(commit, *a, **k))
    assert path.read_bytes() == other
    assert report.exit_code == 1
    assert [(failure.handling, failure.kind) for failure in report.failures.values()] == [("conflict", "precondition")]
    assert isinstance(report.failures[2].message, str)


def test_a_run_does_not_replace_what_a_repair_would(dest):
    """The difference between the two commits: without it every run could overwrite."""
    add_one_count(dest.chunk(2))
    dest.receipt(2).unlink()
    before = dest.versions()
    report = repair(dest.open(), [2], open_pool=lambda *a, **k: pool_with(commit_chunk, *a, **k))
    assert report.failures[2].handling == "conflict"
    assert touched(dest, before) == set()
    assert PreconditionError.default_kind == "precondition"


def test_a_joint_receipt_that_others_correct_all_the_time_is_left_in_the_end(dest):
    joint = dest.join_receipts(3, 4, 5)
    whole = joint.read_bytes()
    add_one_count(dest.chunk(4))
    receipt = parse_receipt(whole, key=f"_ingest/receipts/{joint.name}")
    # What stands of chunk 4 is about other cells: no testimony, so the receipt is to be corrected.
    strange = [replace(receipt.chunks[1], rows=f"{number:032x}") for number in range(9)]
    turns = iter(strange)

    class Restless(LocalStore):
        """Its joint receipt says something else of chunk 3 whenever somebody wants to replace it."""

        def replace(self, key, data, *, expected):
            if key == receipt.key:
                third = replace(receipt.chunks[0], notes=(next(turns).rows,))
                joint.write_bytes(replace(receipt, chunks=(third, strange[0], receipt.chunks[2])).seal())
            return super().replace(key, data, expected=expected)

    joint.write_bytes(replace(receipt, chunks=(receipt.chunks[0], strange[0], receipt.chunks[2])).seal())
    commit = commit_through(Restless(dest.path), {4: receipt.key})
    report = repair(dest.open(), [4], open_pool=lambda *a, **k: pool_with(commit, *a, **k))
    assert report.failures[4].kind == "precondition"
    assert "changes all the time" in report.failures[4].message
    assert len(list(turns)) == 9 - 5


def commit_through(store, spans):
    """Return a repair's commit that sees the dataset through `store`."""

    def commit(opened, made, *, attempt):
        return Recommit(spans)(replace(opened, ledger=type(opened.ledger)(store)), made, attempt=attempt)

    return commit


def test_an_object_that_appears_meanwhile_with_other_bytes_is_not_adopted(dest):
    dest.chunk(2).unlink()
    other = b"somebody else's"

    class Filled(LocalStore):
        def put_new(self, key, data):
            if key.endswith("chunk_000002.h5ad"):
                dest.chunk(2).write_bytes(other)
            return super().put_new(key, data)

    commit = commit_through(Filled(dest.path), {})
    report = repair(dest.open(), [2], open_pool=lambda *a, **k: pool_with(commit, *a, **k))
    assert report.failures[2].handling == "conflict"
    assert dest.chunk(2).read_bytes() == other


def test_a_receipt_that_cannot_be_read_whole_is_written_again(dest, finished):
    class Torn(LocalStore):
        def get(self, key):
            if key == "_ingest/receipts/" + dest.receipt(2).name:
                raise CorruptError("cut short", key=key)
            return super().get(key)

    commit = commit_through(Torn(dest.path), {})
    report = repair(dest.open(), [2], open_pool=lambda *a, **k: pool_with(commit, *a, **k))
    assert report.exit_code == 0
    assert contents(dest.path) == contents(finished)
    assert dest.read_receipt(2).chunks == DamageableDataset(finished).read_receipt(2).chunks


def test_a_damaged_joint_receipt_waits_for_all_of_its_chunks(dest, finished):
    joint = dest.join_receipts(3, 4, 5)
    flip_bit(joint)
    damaged = joint.read_bytes()
    assert repair(dest.open(), [3, 5]).exit_code == 1
    assert joint.read_bytes() == damaged, "rebuilt without one of its chunks"
    assert repair(dest.open(), [4]).exit_code == 0
    assert parse_receipt(joint.read_bytes(), key=f"_ingest/receipts/{joint.name}").chunks == tuple(
        DamageableDataset(finished).read_receipt(number).chunks[0] for number in (3, 4, 5)
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 3),
        ({"interrupted": True}, 130),
        ({"fatal": Failure((), "config", "credentials", "expired")}, 2),
        ({"fatal": Failure((), "config", "disk-full", "full")}, 1),
        ({"fatal": Failure((), "transient", "ray-lost", "gone")}, 1),
        ({"unfinished": "no summaries"}, 1),
        ({"failures": {1: Failure((1,), "conflict", "other-content", "x")}}, 1),
        ({"failures": {1: Failure((1,), "source", "truncated", "x")}}, 3),
        ({"finished": SimpleNamespace(complete=True)}, 0),
        ({"finished": SimpleNamespace(complete=False)}, 3),
    ],
)
def test_how_a_repair_ends_is_its_exit_code(changes, code):
    assert RepairReport(None, None, (), (), **changes).exit_code == code


# -- an object store -----------------------------------------------------------------------------------------------


def test_verify_and_repair_on_s3(finished, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"{s3_server.create_bucket('repair')}/lung"
    made = make_dataset(url, finished.parent / "index.feather")
    store, plan = made.opened.store, made.opened.plan

    def put(key: str, data: bytes) -> None:
        store.replace(key, data, expected=store.stat(key).version)

    damaged = bytearray(store.get(plan.key(1)))
    damaged[1000] ^= 1
    put(plan.key(1), bytes(damaged))
    put(plan.key(3), store.get(plan.key(5)))
    put("_ingest/receipts/000000004-000000004.json", b"{}")
    store.delete(plan.key(6), expected=store.stat(plan.key(6)).version)
    before = {stat.key: stat.version for stat in store.list("chunks/")}
    report = repair(made.reopen())
    assert (report.repaired, report.exit_code) == ((1, 3, 4, 6), 0)
    after = {stat.key: stat.version for stat in store.list("chunks/")}
    assert {key for key in after if after[key] != before.get(key)} == {plan.key(chunk) for chunk in (1, 3, 6)}
    assert json.loads(store.get(SUCCESS_KEY))["digest"] == digest(finished)
    assert verify_dataset(made.reopen(), source=True).exit_code == 0
