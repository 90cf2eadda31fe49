"""Every chunk is added once, or the fold says which was not and why."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import CorruptError, IngestError, SourceError, TransientError
from ingest.finish import read_chunks
from ingest.fold_worker import ChunkFacts, FoldFactory, FoldWorker, ReadChunk
from ingest.folding import cut_even_units, error_of, fold_chunks, planned_workers
from ingest.pool import Ended, Failure, UnitTask
from ingest.schedule import Policy
from ingest.settings import WorkSettings
from ingest.testing.damage import DamageableDataset, add_one_count, flip_bit
from ingest.testing.datasets import make_dataset, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.scripted_fold import ChunkList, Scripted

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = WorkSettings(workers=1, pool="serial")
ALL = [(chunk, 7) for chunk in range(8)] + [(8, 4)]


class Watching:
    def __init__(self):
        self.cells, self.troubles = [], []

    def reached(self, n_cells):
        self.cells.append(n_cells)

    def troubled(self, failure, retried):
        self.troubles.append((failure.kind, failure.chunks, retried))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """9 chunks of 7 cells (the last 4) of two h5ad files."""
    folder = tmp_path_factory.mktemp("folding")
    index = write_h5ad_index(folder / "index.feather", write_sources(folder / "sources"))
    make_dataset(str(folder / "finished"), index)
    return folder / "finished"


@pytest.fixture
def dest(finished, tmp_path) -> DamageableDataset:
    shutil.copytree(finished, tmp_path / "dest")
    return DamageableDataset(tmp_path / "dest")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Let back-off be a matter of milliseconds."""
    monkeypatch.setattr("ingest.folding.Scheduler", lambda *a, **k: scheduler(*a, policy=Policy(first_s=0.01), **k))


def scheduler(*arguments, **options):
    from ingest.schedule import Scheduler

    return Scheduler(*arguments, **options)


def fold(dest: DamageableDataset, what=None, *, watching=None, open_pool=open_serial_pool, **options):
    opened = dest.open()
    chunks, _ = read_chunks(opened)
    return fold_chunks(opened, what or ChunkList(), chunks, SETTINGS, open_pool, watching or Watching(), **options)


def test_every_chunk_is_added_once_and_progress_is_told(dest):
    watching = Watching()
    assert fold(dest, watching=watching) == ALL
    assert watching.cells[-1] == 60
    assert watching.cells == sorted(watching.cells)
    assert watching.troubles == []


@pytest.mark.parametrize("deed", ["raise", "transient"])
def test_what_may_pass_is_tried_again_and_nothing_counts_twice(dest, tmp_path, deed):
    watching = Watching()
    scripted = Scripted(ChunkList(), str(tmp_path), {0: deed, 5: deed})
    assert fold(dest, scripted, watching=watching) == ALL
    kind = {"raise": "unforeseen", "transient": "transient"}[deed]
    # Two chunks a unit: what was added of the other one is dropped with it.
    assert watching.troubles == [(kind, (0,), 2), (kind, (5,), 2)]


def test_trouble_that_stays_ends_the_fold_with_its_error(dest, monkeypatch):
    monkeypatch.setattr(ChunkList, "add", lambda *_: (_ for _ in ()).throw(TransientError("the store is down")))
    with pytest.raises(TransientError, match="the store is down"):
        fold(dest)


def test_what_is_wrong_with_the_data_is_not_tried_again(dest, tmp_path):
    scripted = Scripted(ChunkList(), str(tmp_path), {3: "source"})
    with pytest.raises(SourceError, match="scripted to find no counts") as caught:
        fold(dest, scripted)
    assert (caught.value.kind, caught.value.chunk) == ("fractional", 3)
    assert len(scripted.attempts(3)) == 1


def flipped(dest):
    flip_bit(dest.chunk(4))


def removed(dest):
    dest.chunk(4).unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [(flipped, "chunk-sha256", "is damaged"), (removed, "chunk-missing", "is gone")],
)
def test_a_damaged_or_missing_chunk_is_named(dest, damage, kind, said):
    damage(dest)
    watching = Watching()
    with pytest.raises(CorruptError, match=said) as caught:
        fold(dest, watching=watching)
    assert len(watching.troubles) == 1, "the worker has read it twice: nobody waits for it to mend"
    assert (caught.value.kind, caught.value.chunk) == (kind, 4)
    assert "chunk_000004.h5ad" in caught.value.message
    assert "repair" in caught.value.hint


def test_bytes_are_those_of_the_receipt_that_the_driver_read(dest):
    """Whoever replaces chunk and receipt meanwhile does not slip other counts in."""
    opened = dest.open()
    chunks, _ = read_chunks(opened)
    add_one_count(dest.chunk(2))
    dest.reseal(2)
    with pytest.raises(CorruptError, match="chunk_000002") as caught:
        fold_chunks(opened, ChunkList(), chunks, SETTINGS, open_serial_pool, Watching())
    assert caught.value.kind == "chunk-sha256"


def test_chunks_of_another_shape_than_the_plan_are_refused(dest):
    """Their receipts agree with them: somebody has written both."""
    shutil.copyfile(dest.chunk(8), dest.chunk(1))
    dest_receipt = dest.read_receipt(1)
    data = dest.chunk(1).read_bytes()
    chunk = ReadChunk(dest.open(), 1, data, 7)
    with pytest.raises(CorruptError, match="has 4 cells, its receipt says 7") as caught:
        list(chunk.pieces())
    assert (caught.value.kind, caught.value.chunk) == ("n-cells", 1)
    opened = dest.open()
    fewer = replace(opened, genes=opened.genes.take([0, 1]))
    with pytest.raises(CorruptError, match="has 12 genes, the dataset 2"):
        list(ReadChunk(fewer, 8, data, 4).pieces())
    assert dest_receipt.chunks[0].n_cells == 7


def test_a_stop_ends_it(dest):
    with pytest.raises(KeyboardInterrupt):
        fold(dest, stop_requested=lambda: True)


def test_a_worker_asked_to_stop_gives_back_what_it_has_not_begun(dest):
    chunks, _ = read_chunks(dest.open())
    worker: FoldWorker = FoldFactory(str(dest.path), None, ChunkList(), ChunkFacts.of(chunks))()
    worker.ready()
    worker.stop_soon()
    outcome = worker.run(UnitTask(1, (0, 1, 2), "a"))
    assert (outcome.done, outcome.undone, outcome.result) == ((), (0, 1, 2), None)
    worker.close()


def test_a_fault_half_way_through_a_chunk_spoils_the_unit_and_gives_the_others_back(dest, tmp_path):
    chunks, _ = read_chunks(dest.open())
    scripted = Scripted(ChunkList(), str(tmp_path), {1: "raise"})
    worker: FoldWorker = FoldFactory(str(dest.path), None, scripted, ChunkFacts.of(chunks))()
    outcome = worker.run(UnitTask(1, (0, 1, 2), "a"))
    assert (outcome.done, outcome.undone, outcome.result, outcome.n_cells) == ((), (0, 2), None, 0)
    assert [failure.chunks for failure in outcome.failures] == [(1,)]
    worker.close()


def test_a_worker_that_reports_what_it_was_not_given_is_not_believed(dest):
    @contextmanager
    def lying(factory, size, *, memory_bytes):
        with open_serial_pool(factory, size, memory_bytes=memory_bytes) as pool:
            wait = pool.wait

            def wait_and_lie(timeout_s):
                return [
                    Ended(event.task, replace(event.outcome, done=(*event.outcome.done, 99)))
                    for event in wait(timeout_s)
                ]

            pool.wait = wait_and_lie
            yield pool

    with pytest.raises(IngestError, match="not given"):
        fold(dest, open_pool=lying)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9))
def test_units_are_consecutive_whole_and_even(cells, workers):
    numbered = list(enumerate(cells))
    units = cut_even_units(numbered, workers=workers)
    assert [chunk for unit in units for chunk in unit] == list(range(len(cells)))
    assert all(units)
    wanted = -(-sum(cells) // (8 * workers))
    assert all(sum(cells[chunk] for chunk in unit[:-1]) < max(1, wanted) for unit in units)


def test_workers_are_those_asked_for_but_no_more_than_chunks(dest):
    chunks, _ = read_chunks(dest.open())
    assert planned_workers(chunks, WorkSettings(workers=40)) == 9
    assert planned_workers(chunks, WorkSettings(workers=3)) == 3
    assert planned_workers(chunks, WorkSettings(workers=3, pool="serial")) == 1
    with pytest.raises(IngestError, match="at least one worker"):
        planned_workers(chunks, WorkSettings(workers=0))


@pytest.mark.parametrize(("kind", "code"), [("disk-full", 1), ("credentials", 2)])
def test_what_a_worker_met_ends_with_the_code_it_would_have_here(kind, code):
    error = error_of(Failure((0,), "config", kind, "it is said"))
    assert (error.kind, error.exit_code) == (kind, code)
