"""Two drivers that finish one DEST: whoever is late, or dies, and whenever, what another has finished stays."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.amendments import Amendment, LeftOut
from ingest.errors import CorruptError
from ingest.finish import finish
from ingest.layout import AMENDMENTS, CELLS_JSON_KEY, RECEIPTS, SUCCESS_KEY, amendment_key, receipt_key
from ingest.opened import open_plan
from ingest.preparing import divide_work, profile_of_plan
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.status import dataset_status
from ingest.store.local import LocalStore
from ingest.summary_check import SUMMARY_KEYS
from ingest.testing.datasets import SilentObserver, make_dataset, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.memory_store import MemoryStore
from ingest.testing.puppets import Puppet, PuppetStore
from ingest.verifying import verify_dataset
from ingest.without_bad import run_without_bad

WORK = WorkSettings(workers=1)
LATE = (2, 3, 4)
"""Chunks that one driver has given up, and the other makes without the rows of a file that is gone."""


def run_once(opened, work):
    return run_plan(opened, work, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)


def begin(folder):
    """What a driver has in hand when it starts."""
    opened = open_plan(LocalStore(folder / "dest"))
    return opened, divide_work(profile_of_plan(opened, WORK), opened, opened.ledger.done(), WORK)


def planned(folder):
    """A plan of five chunks, the one in the middle of both files, nothing made yet; return the files."""
    files = write_sources(folder / "sources", n_cells=5, n_genes=5)
    index = write_h5ad_index(folder / "index.feather", files)
    make_dataset(
        str(folder / "dest"), index, data=DataSettings(cells_per_chunk=2), work=WORK, stop_requested=lambda: True
    )
    return files


def contents(folder):
    dest = folder / "dest"
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("[!.]*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Key -> bytes of a dataset that lacks a file."""
    folder = tmp_path_factory.mktemp("together")
    planned(folder)[1].unlink()
    _, report = run_without_bad(*begin(folder), WORK, run_once)
    assert report.exit_code == 0
    return contents(folder)


def only(finished, *chunks):
    """DEST with these chunks, before anybody amended or finished it."""
    store = MemoryStore()
    mine = {receipt_key(chunk, chunk) for chunk in chunks}
    for key, data in finished.items():
        if key not in SUMMARY_KEYS and not key.startswith(AMENDMENTS) and (key in mine or not key.startswith(RECEIPTS)):
            store.put_new(key, data)
    return store


def commit_late(store, finished):
    """Do what the other driver does before it finishes."""
    for key in sorted(finished):
        if key.startswith(AMENDMENTS) or key in map(receipt_key, LATE, LATE):
            store.put_new(key, finished[key])


def without_summaries(finished):
    """DEST with two chunks, that nobody has finished yet."""
    return only(finished, 0, 1)


def with_summaries_of_less(finished):
    """DEST with two chunks, of which its summaries know one."""
    store = only(finished, 0)
    assert not finish(open_plan(store)).complete
    store.put_new(receipt_key(1, 1), finished[receipt_key(1, 1)])
    return store


@pytest.mark.parametrize("made", [without_summaries, with_summaries_of_less])
def test_who_is_late_changes_nothing_wherever_it_stands(finished, made):
    for steps in count():
        store = made(finished)
        late = Puppet(lambda puppet, store=store: finish(open_plan(PuppetStore(store, puppet))))
        for _ in range(steps):
            late.step()
        if late.over:
            break
        commit_late(store, finished)
        assert finish(open_plan(store)).complete
        assert store.objects.data == finished
        changes = []
        store.objects.on_change = lambda change, key, _, changes=changes: changes.append(f"{change} {key}")
        while not late.over:
            late.step()
        assert late.error is None, late.error
        assert late.result.complete
        assert changes == [], "whoever dies after such a change leaves a finished dataset that is not"
    assert steps > 15


def test_what_another_committed_before_it_died_is_finished(finished):
    for steps in count():
        store = without_summaries(finished)
        late = Puppet(lambda puppet, store=store: finish(open_plan(PuppetStore(store, puppet))))
        for _ in range(steps):
            late.step()
        if late.over:
            break
        commit_late(store, finished)
        while not late.over:
            late.step()
        assert late.error is None, late.error
        assert late.result.complete
        assert store.objects.data == finished


@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.booleans(), max_size=90))
def test_however_two_drivers_take_turns_and_one_dies_the_other_has_finished(finished, turns):
    store = with_summaries_of_less(finished)
    late = Puppet(lambda puppet: finish(open_plan(PuppetStore(store, puppet))))
    other = Puppet(lambda puppet: _commit_and_finish(PuppetStore(store, puppet), finished))
    for is_late in turns:
        (late if is_late else other).step()
    late.kill()
    while not other.over:
        other.step()
    assert other.error is None, other.error
    assert other.result.complete
    assert store.objects.data == finished


def _commit_and_finish(store, finished):
    commit_late(store, finished)
    return finish(open_plan(store))


def test_a_finished_dataset_whose_receipts_are_lost_keeps_its_summaries(finished):
    store = MemoryStore()
    for key, data in finished.items():
        if key != receipt_key(2, 2):
            store.put_new(key, data)
    before = dict(store.objects.data)
    assert not finish(open_plan(store), cells_json=True).complete
    assert store.objects.data == before
    assert CELLS_JSON_KEY not in before
    store.put_new(receipt_key(2, 2), finished[receipt_key(2, 2)])
    assert finish(open_plan(store), cells_json=True).complete


def test_who_gives_up_leaves_the_summaries_to_those_who_go_on(finished):
    """Somebody commits one chunk more in each round: nothing that holds less is written, and nothing is wrong."""
    store = only(finished)
    changes = []
    store.objects.on_change = lambda _, key, __: changes.append(key)
    growing = iter([0, 1])

    class Growing(MemoryStore):
        def list(self, prefix, *, after=""):
            found = [*super().list(prefix, after=after)]
            if prefix == RECEIPTS and (chunk := next(growing, None)) is not None:
                self.put_new(receipt_key(chunk, chunk), finished[receipt_key(chunk, chunk)])
            return iter(found)

    done = finish(open_plan(Growing(store.objects)))
    assert (done.complete, done.n_chunks) == (False, 2)
    assert changes[:2] == [receipt_key(0, 0), receipt_key(1, 1)]
    assert SUCCESS_KEY not in changes


# -- amendments of another driver ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", ["plain", "without-bad"])
def test_a_driver_that_began_before_another_amended_finishes_too(tmp_path, mine):
    planned(tmp_path)[1].unlink()
    first, second = begin(tmp_path), begin(tmp_path)
    _, report = run_without_bad(*second, WORK, run_once)
    assert report.exit_code == 0
    before = contents(tmp_path)
    mine = run_once(*first) if mine == "plain" else run_without_bad(*first, WORK, run_once)[1]
    assert mine.exit_code == 0
    assert mine.finished == report.finished
    assert [entry.chunks for entry in mine.finished.left_out] == [((2, 1), (3, 2), (4, 2))]
    assert not mine.driven.quarantined, "the other driver has made them"
    after = contents(tmp_path)
    assert {key: after[key] for key in before} == before
    assert {key.split("/")[1] for key in after.keys() - before.keys()} <= {"runs", "failures"}


@pytest.mark.parametrize("deep", [False, True])
def test_verify_began_before_another_amended(finished, deep):
    store = only(finished, 0, 1)
    opened = open_plan(store)
    commit_late(store, finished)
    finish(open_plan(store))
    assert not opened.amendments
    assert verify_dataset(opened, deep=deep).findings == ()


def test_what_nobody_permitted_is_a_finding_and_ends_a_run(finished):
    store = only(finished, 0, 1, *LATE)
    assert {finding.kind for finding in verify_dataset(open_plan(store)).findings} == {"receipt-disagrees"}
    with pytest.raises(CorruptError, match="nothing allows it to lack"):
        finish(open_plan(store))


def test_what_is_permitted_and_not_lacked_is_said_nowhere(tmp_path):
    """One driver amends while another makes the chunk whole, and is first."""
    planned(tmp_path)
    assert run_once(*begin(tmp_path)).exit_code == 0
    before = contents(tmp_path)
    opened = open_plan(LocalStore(tmp_path / "dest"))
    left_out = LeftOut(1, "unreadable", "it is said", ((3, 2),))
    opened.ledger.amend(Amendment(opened.plan.identity.digest, "r", (left_out,)))
    opened = open_plan(opened.store)
    assert opened.amendments
    report = verify_dataset(opened, source=True)
    assert (report.findings, report.left_out_cells) == ((), 0)
    assert finish(opened).left_out == ()
    after = contents(tmp_path)
    assert {key: after[key] for key in before} == before


def test_what_two_drivers_permit_is_lacked_once(finished):
    store = only(finished, 0, 1, *LATE)
    (amendment,) = (data for key, data in finished.items() if key.startswith(AMENDMENTS))
    for number in range(2):
        store.put_new(amendment_key(number), amendment)
    opened = open_plan(store)
    entries = [receipt.chunks[0] for receipt in opened.ledger.receipts()]
    lacking = sum(sum(entry.dropped.values()) for entry in entries)
    assert sum(entry.n_cells for entry in opened.amendments.left_out) == lacking == 5
    status = dataset_status(opened)
    assert (status.cells_done, len(status.left_out)) == (opened.plan.n_cells - lacking, 1)
    assert verify_dataset(opened).left_out_cells == lacking
