"""What a watch makes of a DEST that others work on: from listings, and from its own clock."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ingest.cells import read_cells
from ingest.committing import commit_plan
from ingest.errors import CredentialsError, TransientError
from ingest.layout import RUNS, SUCCESS_KEY, claim_key, failure_key, receipt_key, run_end_key, run_start_key
from ingest.preparing import draft_dataset
from ingest.settings import DataSettings, WorkSettings
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.examples import examples
from ingest.testing.memory_store import MemoryObjects, MemoryStore
from ingest.watching import Watcher, spans_to_list, watch


class Store(MemoryStore):
    """Counts what listings deliver; answers nothing while it is `down`."""

    def __init__(self, objects=None):
        super().__init__(objects)
        self.listed, self.requests, self.down = 0, 0, None

    def list(self, prefix, *, after=""):
        self.requests += 1
        if self.down is not None:
            raise self.down
        for stat in super().list(prefix, after=after):
            self.listed += 1
            yield stat


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A DEST of 12 chunks of 5 cells, the last of 3, with its plan and nothing else."""
    folder = tmp_path_factory.mktemp("watched")
    index = write_h5ad_index(folder / "index.feather", write_sources(folder / "sources", n_files=2, n_cells=29))
    work = WorkSettings(workers=1)
    draft = draft_dataset(read_cells(index), DataSettings(cells_per_chunk=5), work, cache=None)
    store = MemoryStore()
    commit_plan(store, draft)
    return dict(store.objects.data), dict(store.objects.versions)


@pytest.fixture
def store(planned):
    data, versions = planned
    return Store(MemoryObjects(dict(data), dict(versions)))


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watcher(store, clock):
    return Watcher(store, patience_s=300.0, clock=clock)


def put(store, key, **record):
    store.put_new(key, json.dumps(record).encode())


def make(store, *chunks):
    for chunk in chunks:
        put(store, receipt_key(chunk, chunk))


def begin(store, run="20260101T000000-aa"):
    put(store, run_start_key(run))
    return run


def test_nothing_is_there_yet(clock):
    store = Store()
    watcher = Watcher(store, patience_s=300.0, clock=clock)
    looked = watcher.look()
    assert (looked.look, looked.verdict) == (None, "waiting")
    clock.now += 299
    assert watcher.look().verdict == "waiting"
    clock.now += 1
    assert watcher.look().verdict == "quiet"


def test_a_plan_that_comes_meanwhile_is_found(planned, clock):
    store = Store()
    watcher = Watcher(store, patience_s=300.0, clock=clock)
    watcher.look()
    store.objects.data.update(planned[0])
    store.objects.versions.update(planned[1])
    assert watcher.look().look.n_chunks == 12


def test_a_run_from_its_beginning_to_the_end(store, watcher, clock):
    assert watcher.look().verdict == "waiting"
    run = begin(store)
    looked = watcher.look()
    assert (looked.verdict, looked.look.open_runs, looked.cells_per_s) == ("going", (run,), None)
    clock.now += 100  # workers start: that is not slowness
    put(store, claim_key(run, 1))
    watcher.look()
    clock.now += 5
    make(store, 0, 1)
    clock.now += 5
    looked = watcher.look()
    assert (looked.look.n_done, looked.look.cells_done, looked.look.n_begun) == (2, 10, 1)
    assert looked.cells_per_s == pytest.approx(1.0)
    assert looked.seconds_left == pytest.approx(48.0)
    make(store, *range(2, 12))
    looked = watcher.look()
    assert (looked.look.n_done, looked.look.cells_done, looked.verdict) == (12, 58, "going")
    put(store, run_end_key(run))
    assert watcher.look().verdict == "waiting", "for the summaries"
    put(store, SUCCESS_KEY)
    looked = watcher.look()
    assert (looked.verdict, looked.is_last) == ("complete", True)


def test_a_run_that_ends_early_ends_the_watch_unless_another_follows(store, watcher, clock):
    run = begin(store)
    assert watcher.look().verdict == "going"
    put(store, run_end_key(run))
    assert watcher.look().verdict == "waiting"
    clock.now += 10
    second = begin(store, "20250101T000000-of-a-slow-clock")
    looked = watcher.look()
    assert (looked.verdict, looked.look.open_runs) == ("going", (second,))
    put(store, run_end_key(second))
    watcher.look()
    clock.now += 19
    assert watcher.look().verdict == "waiting"
    clock.now += 1
    assert watcher.look().verdict == "idle"


def test_with_little_patience_a_run_that_has_ended_is_not_called_killed(store, clock):
    watcher = Watcher(store, patience_s=8.0, clock=clock)
    run = begin(store)
    watcher.look()
    put(store, run_end_key(run))
    watcher.look()
    clock.now += 8
    assert watcher.look().verdict == "idle"


def test_a_killed_run_shows_no_sign_of_life(store, watcher, clock):
    """It never writes its end; every receipt, claim or failure that comes is a sign."""
    run = begin(store)
    for sign in (
        lambda: make(store, 3),
        lambda: put(store, claim_key(run, 7)),
        lambda: put(store, failure_key(f"{run}-7", 0)),
    ):
        clock.now += 299
        sign()
        looked = watcher.look()
        assert (looked.verdict, looked.quiet_s) == ("going", 0.0)
    assert looked.look.n_failures == 1
    clock.now += 299
    assert watcher.look().verdict == "going"
    clock.now += 1
    looked = watcher.look()
    assert (looked.verdict, looked.quiet_s) == ("quiet", 300.0)


def test_two_runs_at_work_are_both_followed(store, watcher):
    first, second = begin(store, "1-a"), begin(store, "2-b")
    watcher.look()
    put(store, claim_key(first, 4))
    put(store, claim_key(second, 9))
    put(store, run_end_key(second))
    looked = watcher.look()
    assert (looked.look.open_runs, looked.look.n_begun) == ((first,), 1)


def ended(store, run):
    begin(store, run)
    put(store, run_end_key(run))


def test_killed_runs_before_one_that_ended_are_not_waited_for(store, watcher, clock):
    for number in range(50):
        put(store, claim_key(begin(store, f"1-{number:02d}"), 4))
    ended(store, "2-b")
    looked = watcher.look()
    assert (looked.verdict, looked.look.open_runs, looked.look.n_without_end) == ("waiting", (), 50)
    store.requests = 0
    clock.now += 20
    looked = watcher.look()
    assert looked.verdict == "idle"
    assert store.requests <= 2, "receipts and runs: nobody follows the dead"


@pytest.mark.parametrize("sign", ["claim", "receipt"])
def test_a_run_that_was_taken_for_dead_may_show_that_it_lives(store, watcher, clock, sign):
    slow = begin(store, "1-a")
    put(store, claim_key(slow, 4))
    ended(store, "2-b")
    for _ in range(2):
        assert watcher.look().look.n_without_end == 1
        clock.now += 5
    if sign == "claim":
        put(store, claim_key(slow, 5))
    else:
        make(store, 3)  # whose, no listing tells
    for _ in range(3):
        looked = watcher.look()
        assert (looked.verdict, looked.look.open_runs, looked.look.n_without_end) == ("going", (slow,), 0)
        clock.now += 50
    put(store, claim_key(slow, 6))
    looked = watcher.look()
    assert (looked.look.n_begun, looked.quiet_s) == (3 if sign == "claim" else 2, 0.0), "it is followed again"


def test_the_last_receipt_of_a_run_that_ended_wakes_nobody(store, watcher):
    begin(store, "1-a")
    second = begin(store, "2-b")
    watcher.look()
    put(store, run_end_key(second))
    assert watcher.look().look.n_without_end == 1
    make(store, 3)
    assert watcher.look().look.n_without_end == 1


def test_a_run_that_is_killed_under_the_watch_and_followed_by_another(store, watcher, clock):
    killed = begin(store, "1-a")
    watcher.look()
    put(store, claim_key(killed, 4))
    watcher.look()
    second = begin(store, "2-b")
    assert watcher.look().look.open_runs == (killed, second), "they may be rivals"
    put(store, run_end_key(second))
    assert watcher.look().look.n_without_end == 1
    clock.now += 20
    assert watcher.look().verdict == "idle"


def test_a_rival_at_work_is_not_dead_because_a_later_run_ended(store, watcher):
    rival, second = begin(store, "1-a"), begin(store, "2-b")
    watcher.look()
    put(store, failure_key(f"{rival}-4", 0))
    watcher.look()
    put(store, run_end_key(second))
    looked = watcher.look()
    assert (looked.verdict, looked.look.open_runs) == ("going", (rival,))


def test_speed_is_that_of_the_last_minute(store, watcher, clock):
    begin(store)
    watcher.look()
    for chunk in range(11):
        clock.now += 10 if chunk < 5 else 20
        make(store, chunk)
        looked = watcher.look()
    assert looked.cells_per_s == pytest.approx(5 / 20)
    clock.now += 40
    assert watcher.look().cells_per_s < 5 / 20, "it falls while nothing comes"


def test_where_chunks_are_rare_speed_is_of_the_last_few(store, watcher, clock):
    begin(store)
    watcher.look()
    for chunk in range(8):
        for _ in range(30):
            clock.now += 10
            watcher.look()
        make(store, chunk)
    clock.now += 10
    assert watcher.look().cells_per_s == pytest.approx(5 / 300)
    clock.now += 300
    assert watcher.look().cells_per_s == pytest.approx(5 / 600)


def test_a_store_that_does_not_answer_is_asked_again(store, watcher, clock):
    begin(store)
    watcher.look()
    store.down = TransientError("503 of s3://b")
    clock.now += 100
    looked = watcher.look()
    assert (looked.look, looked.trouble, looked.verdict) == (None, "503 of s3://b", "waiting")
    clock.now += 200
    assert watcher.look().verdict == "quiet"
    store.down = None
    make(store, 0)
    assert watcher.look().verdict == "going"


def test_what_does_not_pass_ends_the_watch(store, watcher):
    store.down = CredentialsError("expired")
    with pytest.raises(CredentialsError):
        watcher.look()


def test_watching_sleeps_between_looks_and_ends(store, clock):
    begin(store)
    looks = []
    for looked in watch(store, every_s=50.0, patience_s=300.0, clock=clock, sleep=clock.sleep):
        looks.append(looked.verdict)
        if len(looks) == 3:
            make(store, *range(12))
            put(store, SUCCESS_KEY)
    assert looks == ["going", "going", "going", "complete"]
    assert clock.now == 1150.0


def test_what_is_done_is_not_listed_again(store, watcher):
    run = begin(store)
    for unit in range(200):
        put(store, claim_key(run, unit))
    make(store, *range(8), 9)
    watcher.look()
    store.listed = store.requests = 0
    watcher.look()
    assert store.listed <= 2, "the receipt after the first gap, and no claim"
    assert store.requests <= 6
    make(store, 8, 10)
    put(store, claim_key(run, 200))
    looked = watcher.look()
    assert (looked.look.n_done, looked.look.n_begun) == (11, 201)


def test_receipts_of_several_chunks_and_strange_keys(store, watcher):
    begin(store)
    put(store, receipt_key(2, 6))
    put(store, "_ingest/receipts/notes.txt")
    put(store, receipt_key(500, 500))
    put(store, f"{RUNS}stray")
    put(store, f"{RUNS}notes/of/mine.json")
    looked = watcher.look()
    assert (looked.look.n_done, len(looked.look.open_runs)) == (5, 1)
    make(store, 0, 1)
    assert watcher.look().look.n_done == 7


@settings(max_examples=examples(60), phases=[Phase.explicit, Phase.generate])
@given(blocks=st.lists(st.tuples(st.booleans(), st.integers(1, 3000)), min_size=1, max_size=40))
def test_ranges_hold_all_that_is_missing_and_cost_little(blocks):
    done = np.concatenate([np.full(length, is_done) for is_done, length in blocks])
    spans = spans_to_list(done)
    covered = np.zeros(len(done), np.bool_)
    for first, last in spans:
        assert not covered[first : last + 1].any()
        covered[first : last + 1] = True
    assert covered[~done].all()
    assert len(spans) <= 16
    requests = sum(1 + int(done[first : last + 1].sum()) // 1000 for first, last in spans)
    assert requests <= 1 + int(done.sum()) // 1000 + len(spans), "never more than to list all, and one a range"
