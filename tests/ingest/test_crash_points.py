"""Every operation on DEST of a small run goes wrong once, before or after it happened; the same command ends well."""

from __future__ import annotations

from collections import Counter

import pytest

from ingest import worker
from ingest.cells import read_cells
from ingest.committing import commit_plan
from ingest.errors import IngestError
from ingest.layout import RECEIPTS, RUNS, SUCCESS_KEY
from ingest.ledger.ledger import Ledger
from ingest.preparing import divide_work, draft_dataset
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.testing.datasets import SilentObserver, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.faults import DiedError, FaultyStore, StoreFault

WORK = WorkSettings(workers=1)


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    index = write_h5ad_index(folder / "index.feather", write_sources(folder, n_files=2, n_cells=4, n_genes=5))
    return draft_dataset(read_cells(index), DataSettings(cells_per_chunk=5), WORK, cache=None)


@pytest.fixture
def run(draft, monkeypatch):
    monkeypatch.setattr("ingest.running.random.random", lambda: 0.0)  # no pauses

    def run(store):
        monkeypatch.setattr(worker, "open_store", lambda *_, **__: store)
        opened = commit_plan(store, draft)
        divided = divide_work(draft.profile, opened, opened.ledger.done(), WORK)
        return run_plan(opened, divided, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)

    return run


def contents(store):
    """All that does not tell of the way: no receipts (they name attempts), failures and runs."""
    skipped = (RECEIPTS, RUNS, "_ingest/failures/")
    return {stat.key: store.get(stat.key) for stat in store.list("") if not stat.key.startswith(skipped)}


@pytest.fixture
def reference(run, tmp_path):
    quiet = FaultyStore(LocalStore(tmp_path / "reference"))
    assert run(quiet).exit_code == 0
    return contents(quiet), list(quiet.log)


def chunks_put(store):
    return Counter(
        operation.key for operation in store.log if operation.name == "put_new" and "chunks/" in operation.key
    )


# Dying before an operation leaves what dying after the one before leaves.
@pytest.mark.parametrize(("how", "when"), [("die", "after"), ("transient", "before"), ("transient", "after")])
def test_the_same_command_again_ends_well(run, reference, tmp_path, how, when):
    wanted, log = reference
    assert len(log) > 40
    for at, operation in enumerate(log):
        # A read has no effect to lose; of passing trouble every third place will do.
        if how == "transient" and (at % 3 if when == "before" else operation.name != "put_new"):
            continue
        place = f"{how} {when} {operation.name} {operation.key} (operation {at})"
        store = FaultyStore(LocalStore(tmp_path / f"{at}"), StoreFault(at, when, how))
        code = None
        try:
            code = run(store).exit_code
        except DiedError:
            assert how == "die", place
        except IngestError:
            assert how == "transient", place
        exists = Ledger(LocalStore(tmp_path / f"{at}")).done()
        again = FaultyStore(LocalStore(tmp_path / f"{at}"))
        if code == 0:
            assert contents(again) == wanted, place
            continue
        assert run(again).exit_code == 0, place
        assert contents(again) == wanted, place
        made = {int(key.split("_")[1].split(".")[0]) for key in chunks_put(again)}
        assert not made & exists, f"{place}: made again though it existed"


def test_a_lost_reply_is_recognised_everywhere(run, reference, tmp_path):
    """put_new went through, the client tried again by itself and was told that the object exists."""
    wanted, log = reference
    for at, operation in enumerate(log):
        if operation.name != "put_new":
            continue
        store = FaultyStore(LocalStore(tmp_path / f"{at}"), StoreFault(at, "after", "exists"))
        assert run(store).exit_code == 0, operation
        assert contents(store) == wanted, operation


def test_a_death_in_every_life_ends_well_all_the_same(run, reference, tmp_path):
    """Each run dies a little later than the one before it; progress is never lost."""
    wanted, log = reference
    finished = set()
    for at in range(0, 10 * len(log), 5):
        store = FaultyStore(LocalStore(tmp_path / "dest"), StoreFault(at, "after", "die"))
        try:
            assert run(store).exit_code == 0
            break
        except DiedError:
            now = Ledger(LocalStore(tmp_path / "dest")).done()
            assert finished <= now
            finished = now
    assert contents(LocalStore(tmp_path / "dest")) == wanted
    assert SUCCESS_KEY in wanted
