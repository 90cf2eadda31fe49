from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ingest import worker as worker_module
from ingest.cells import read_cells
from ingest.chunks import ChunkMaker, _check_promise, whole_sources
from ingest.committing import commit_plan
from ingest.errors import ConfigError, ExhaustedError, NotCountsError, SourceChangedError, TransientError
from ingest.open_sources import OpenSources
from ingest.pool import UnitTask
from ingest.preparing import draft_dataset
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.testing.datasets import write_h5ad_index
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.worker import ChunkWorker, ChunkWorkerFactory

N_CELLS = 15


@pytest.fixture
def work(tmp_path):
    """Return a worker over three files of 15 cells, cut into nine chunks of five, and its store."""

    def work(store=None, matrices=None, *, slab_bytes=1 << 28, upload_bytes=1 << 26, threads=1, **settings):
        matrices = matrices or [sample_counts(N_CELLS, 6, seed=number) for number in range(3)]
        files = [write_h5ad_variant(tmp_path / f"s{at}.h5ad", matrix) for at, matrix in enumerate(matrices)]
        index = write_h5ad_index(tmp_path / "i.feather", files)
        data = DataSettings(cells_per_chunk=5, **settings)
        draft = draft_dataset(read_cells(index), data, WorkSettings(), cache=None)
        store = store or LocalStore(tmp_path / "dest")
        opened = commit_plan(store, draft)
        factory = ChunkWorkerFactory(
            dest=store.url,
            endpoint_url=None,
            run_id="r",
            slab_bytes=slab_bytes,
            upload_bytes=upload_bytes,
            threads=threads,
            scratch=str(tmp_path),
        )
        return ChunkWorker(factory), opened, matrices

    return work


def run(worker, n_chunks, unit_id=1):
    return worker.run(UnitTask(unit_id, tuple(range(n_chunks)), f"r-{unit_id:07d}"))


def read(opened, chunk):
    return anndata.read_h5ad(f"{opened.store.url}/{opened.plan.key(chunk)}")


@pytest.fixture
def reads(monkeypatch):
    """What was asked of the sources, and a place for trouble: (source, rows) -> error or None."""
    real, asked = OpenSources.read, []

    def read(self, number, coordinates):
        asked.append((number, coordinates.tolist()))
        error = asked_of.trouble(number, coordinates.tolist())
        if error is not None:
            raise error
        found = real(self, number, coordinates)
        return replace(found, was_unsorted=True) if asked_of.unsorted(number) else found

    class asked_of:  # noqa: N801 # a namespace
        log = asked
        trouble = staticmethod(lambda *_: None)
        unsorted = staticmethod(lambda *_: False)

    monkeypatch.setattr(OpenSources, "read", read)
    return asked_of


@pytest.mark.parametrize(
    ("slab_bytes", "upload_bytes", "threads"), [(1, 0, 1), (400, 1, 2), (2000, 1 << 20, 1), (1 << 28, 1 << 26, 3)]
)
def test_chunks_are_the_files_whatever_is_cut_and_done_at_once(work, slab_bytes, upload_bytes, threads):
    worker, opened, matrices = work(slab_bytes=slab_bytes, upload_bytes=upload_bytes, threads=threads)
    outcome = run(worker, 9)
    assert outcome.done == tuple(range(9))
    assert outcome.n_cells == 45
    found = np.vstack([read(opened, chunk).X.toarray() for chunk in range(9)])
    assert (found == np.vstack([matrix.toarray() for matrix in matrices])).all()
    assert outcome.nnz == np.count_nonzero(found)
    assert outcome.peak_rss_bytes > 0
    assert set(outcome.seconds) >= {"fetch", "encode", "store"}


def test_one_bad_cell_holds_back_its_own_chunk_alone(work, reads):
    worker, opened, _ = work()
    reads.trouble = lambda number, rows: NotCountsError("row 7 holds nan") if number == 1 and 7 in rows else None
    outcome = run(worker, 9)
    assert outcome.done == (0, 1, 2, 3, 5, 6, 7, 8)
    [failure] = outcome.failures
    assert (failure.chunks, failure.handling, failure.kind) == ((4,), "source", "not-counts")
    assert opened.ledger.done() == set(outcome.done)


def test_a_bad_cell_among_many_chunks_is_found_by_halves(work, reads):
    matrices = [sample_counts(640, 6, seed=0)]
    worker, _, _ = work(matrices=matrices)
    reads.trouble = lambda _, rows: NotCountsError("row 333 holds nan") if 333 in rows else None
    outcome = run(worker, 128)
    assert [failure.chunks for failure in outcome.failures] == [(66,)]
    assert outcome.done == tuple(chunk for chunk in range(128) if chunk != 66)
    assert len(reads.log) <= 1 + 2 * 7 + 1


def test_a_source_that_has_changed_is_one_failure_of_all_its_chunks(work, reads):
    worker, _, _ = work(slab_bytes=400)
    reads.trouble = lambda number, _rows: SourceChangedError("another ETag") if number == 1 else None
    outcome = run(worker, 9)
    assert outcome.done == (0, 1, 2, 6, 7, 8)
    assert sorted(chunk for failure in outcome.failures for chunk in failure.chunks) == [3, 4, 5]
    assert {failure.handling for failure in outcome.failures} == {"source"}
    assert sum(number == 1 for number, _ in reads.log) == 2  # the second time to be sure


def test_a_chunk_that_fails_while_more_of_it_is_read_fails_once(work, reads, monkeypatch):
    real = ChunkMaker.add

    def add(self, counts, names):
        if self.chunk == 4:
            raise NotCountsError("found while encoding")
        real(self, counts, names)

    monkeypatch.setattr(ChunkMaker, "add", add)
    worker, _, _ = work(slab_bytes=1)
    reads.trouble = lambda number, rows: NotCountsError("found while reading") if number == 1 and 9 in rows else None
    outcome = run(worker, 9)
    assert [failure.chunks for failure in outcome.failures] == [(4,)]
    assert outcome.done == (0, 1, 2, 3, 5, 6, 7, 8)


def test_a_source_that_is_down_is_asked_once_a_unit(work, reads):
    worker, _, _ = work(slab_bytes=400)
    reads.trouble = lambda number, _rows: TransientError("no answer", retry_after_s=3.0) if number == 1 else None
    outcome = run(worker, 9)
    assert outcome.done == (0, 1, 2, 6, 7, 8)
    assert sorted(chunk for failure in outcome.failures for chunk in failure.chunks) == [3, 4, 5]
    assert {failure.handling for failure in outcome.failures} == {"transient"}
    assert outcome.failures[0].retry_after_s == 3.0
    assert sum(number == 1 for number, _ in reads.log) == 1


class DownStore(LocalStore):
    """Takes everything but chunks."""

    tries = 0

    def put_new(self, key, data):
        if key.startswith("chunks/chunk_000002"):
            type(self).tries += 1
            raise TransientError("503", key=key)
        return super().put_new(key, data)


def test_a_dest_that_is_down_ends_the_unit_and_accuses_one_chunk(work, tmp_path, monkeypatch):
    store = DownStore(tmp_path / "dest")
    monkeypatch.setattr(worker_module, "open_store", lambda *_, **__: store)
    worker, opened, _ = work(store, upload_bytes=0)
    outcome = run(worker, 9)
    assert outcome.undone
    # Those under way at the same moment may have made it.
    assert {0, 1} <= set(outcome.done)
    assert [failure.chunks for failure in outcome.failures] == [(2,)]
    assert sorted((*outcome.done, 2, *outcome.undone)) == list(range(9))
    assert opened.ledger.done() == set(outcome.done)
    assert DownStore.tries == 1


def test_trouble_of_configuration_ends_the_unit(work, reads):
    worker, _, _ = work()
    reads.trouble = lambda number, _rows: ConfigError("disk full", kind="disk-full") if number == 1 else None
    outcome = run(worker, 9)
    assert outcome.done == (0, 1, 2)
    [failure] = outcome.failures
    assert failure.handling == "config"
    assert failure.chunks == (3, 4, 5, 6, 7, 8)


def test_a_fact_is_noted_at_the_chunks_it_is_about(work, reads):
    worker, opened, _ = work()
    reads.unsorted = lambda number: number == 1
    assert len(run(worker, 9).done) == 9
    notes = {receipt.chunks[0].chunk: receipt.chunks[0].notes for receipt in opened.ledger.receipts()}
    assert notes == {chunk: ("unsorted-indices",) if chunk in (3, 4, 5) else () for chunk in range(9)}


def test_stop_leaves_chunks_undone_and_a_second_worker_makes_them(work):
    worker, opened, _ = work()
    worker.stop_soon()
    outcome = run(worker, 9)
    assert (outcome.done, outcome.undone, outcome.failures) == ((), tuple(range(9)), ())
    assert opened.ledger.done() == set()


def test_the_second_maker_adopts(work):
    worker, opened, _ = work()
    first = run(worker, 4)
    second = run(worker, 9, unit_id=2)
    assert second.adopted == first.done == (0, 1, 2, 3)
    assert second.done == tuple(range(9))
    assert [receipt.attempt for receipt in opened.ledger.receipts()] == ["r-0000001"] * 4 + ["r-0000002"] * 5


def test_an_object_of_other_content_is_a_conflict_for_its_chunk(work):
    worker, opened, _ = work()
    opened.store.put_new(opened.plan.key(1), b"something else")
    outcome = run(worker, 3)
    assert outcome.done == (0, 2)
    [failure] = outcome.failures
    assert (failure.chunks, failure.handling, failure.kind) == ((1,), "conflict", "other-content")
    assert opened.store.get(opened.plan.key(1)) == b"something else"


def test_equal_content_in_other_bytes_is_adopted_with_its_own_sha256(work, tmp_path):
    worker, opened, _ = work()
    run(worker, 1)
    path = tmp_path / "dest" / opened.plan.key(0)
    ours = path.read_bytes()
    anndata.read_h5ad(path).write_h5ad(path)
    [receipt] = (tmp_path / "dest" / "_ingest" / "receipts").iterdir()
    receipt.unlink()
    assert path.read_bytes() != ours
    outcome = run(worker, 1, unit_id=2)
    assert outcome.adopted == (0,)
    [entry] = next(iter(opened.ledger.receipts())).chunks

    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry.size == path.stat().st_size
    assert entry.offsets == ()


def test_uint16_widens_the_one_chunk_that_needs_it(work):
    matrix = sample_counts(N_CELLS, 6, seed=1)
    matrix.data[0] = 70_000
    worker, opened, _ = work(matrices=[matrix, sample_counts(N_CELLS, 6, seed=2)], dtype="uint16")
    assert len(run(worker, 6).done) == 6
    assert [str(read(opened, chunk).X.dtype) for chunk in range(6)] == ["int32"] + ["uint16"] * 5
    assert read(opened, 0).X.max() == 70_000
    first = next(iter(opened.ledger.receipts())).chunks[0]
    assert (first.dtype, first.notes, first.maximum) == ("int32", ("widened-to-int32",), 70_000)


def test_an_unforeseen_exception_accuses_what_was_left_and_keeps_what_was_done(work, reads):
    worker, opened, _ = work()
    reads.trouble = lambda number, _: ZeroDivisionError("a mistake of ours") if number == 1 else None
    outcome = run(worker, 9)
    assert worker.progress() is None
    assert outcome.done == (0, 1, 2)
    assert outcome.n_cells == 15
    (failure,) = outcome.failures
    assert (failure.chunks, failure.handling, failure.kind) == (tuple(range(3, 9)), "internal", "unforeseen")
    assert failure.message == "ZeroDivisionError: a mistake of ours"
    assert "Traceback" in failure.traceback
    reads.trouble = lambda *_: None
    assert run(worker, 9, unit_id=2).adopted == (0, 1, 2)
    assert opened.ledger.done() == set(range(9))


# -- what the Census promises of its cells --------------------------------------------------------------------------


def promise(obs, *, sums=(6.0, 7.0), n_genes=(3, 4), layout="soma", genes=("g",), allow=False):

    survey = SimpleNamespace(layout=layout, genes=SimpleNamespace(ids=genes))
    identity = SimpleNamespace(sources=("census://d/human",), allow_noninteger=allow)
    opened = SimpleNamespace(plan=SimpleNamespace(identity=identity), surveys=[survey], genes={"g"})
    codes, coordinates = np.zeros(2, np.int32), np.array([50, 51])
    _check_promise(
        opened, pa.table(obs), codes, coordinates, np.array(sums), np.array(n_genes), whole_sources(opened), 4
    )


def test_promises_that_are_kept_or_not_made():
    promise({"nnz": [3, 4], "raw_sum": [6.0, 7.0]})
    promise({"nnz": [3.0, float("nan")], "raw_sum": [float("nan"), 7.0]})
    promise({"nnz": pa.array(["a", "b"]).dictionary_encode()})
    promise({"cell_type": [1, 2]})
    promise({"nnz": [0, 0]}, layout="csr")
    promise({"nnz": [9, 9]}, genes=("g", "another that is not kept"))
    promise({"raw_sum": [6.0 + 1e-9, 7.0]}, allow=True)


@pytest.mark.parametrize("obs", [{"nnz": [3, 5]}, {"raw_sum": [6.0, 8.0]}, {"raw_sum": [6.0, 7.0 + 1e-9]}])
def test_promises_that_are_broken(obs):
    with pytest.raises(worker_module.IngestError) as caught:
        promise(obs)
    assert caught.value.kind == "source-disagrees"
    assert "cell 51" in str(caught.value)
    assert "chunk 4" in str(caught.value)


def test_large_numbers_are_told_apart_in_the_message():
    with pytest.raises(worker_module.IngestError, match="1234567 in X and 1234568 in obs"):
        promise({"raw_sum": [1234568.0, 7.0]}, sums=(1234567.0, 7.0))


def test_an_index_with_gaps_in_nnz_is_made_all_the_same(tmp_path):
    matrix = sample_counts(N_CELLS, 6, seed=0)
    file = write_h5ad_variant(tmp_path / "x.h5ad", matrix)
    frame = pd.read_feather(write_h5ad_index(tmp_path / "j.feather", [file]))
    frame["nnz"] = [None if row % 2 else 3.0 for row in range(N_CELLS)]
    frame.to_feather(tmp_path / "j.feather")
    draft = draft_dataset(
        read_cells(tmp_path / "j.feather"), DataSettings(cells_per_chunk=5), WorkSettings(), cache=None
    )
    store = LocalStore(tmp_path / "dest")
    opened = commit_plan(store, draft)
    factory = ChunkWorkerFactory(
        store.url, None, "r", slab_bytes=200, upload_bytes=1 << 20, threads=1, scratch=str(tmp_path)
    )
    assert run(ChunkWorker(factory), 3).done == (0, 1, 2)
    assert (np.vstack([read(opened, chunk).X.toarray() for chunk in range(3)]) == matrix.toarray()).all()


@pytest.mark.parametrize("error", [MemoryError("no room"), ExhaustedError("no threads", kind="no-threads")])
def test_a_process_that_has_nothing_left_ends_its_unit_and_blames_no_source(work, reads, error):
    worker, opened, _ = work()
    reads.trouble = lambda number, _: error if number == 1 else None
    outcome = run(worker, 9)
    assert opened.ledger.done() == set(outcome.done) == {0, 1, 2}
    [failure] = outcome.failures
    assert (failure.chunks, failure.handling) == ((3, 4, 5, 6, 7, 8), "exhausted")
    assert failure.kind in {"out-of-memory", "no-threads"}
    assert outcome.worker_is_spent
    assert {number for number, _ in reads.log} == {0, 1}
