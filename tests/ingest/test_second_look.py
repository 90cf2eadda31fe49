"""What one bad read makes of a source is not its fault: no chunk, no plan and no amendment comes of it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import h5py
import pytest

from ingest import open_sources
from ingest.cells import read_cells
from ingest.chunks import ChunkMaker
from ingest.committing import commit_plan
from ingest.errors import CorruptError, HostileFileError, NotCountsError, SourceError, TransientError
from ingest.fetch.h5ad_bytes import LocalBytes
from ingest.opened import open_plan
from ingest.pool import Failure, UnitTask
from ingest.preparing import divide_work, draft_dataset, profile_of_plan
from ingest.running import run_plan
from ingest.second_look import Doubts, look_twice
from ingest.settings import DataSettings, WorkSettings
from ingest.store.open import open_store
from ingest.survey import h5ad as h5ad_survey
from ingest.testing.datasets import SilentObserver, open_serial_pool, write_h5ad_index
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant
from ingest.without_bad import find_culprits, run_without_bad
from ingest.worker import ChunkWorker, ChunkWorkerFactory

N_CELLS, BLOCK = 60, 200
WORK = WorkSettings(workers=1)
SCBASECOUNT = "2026-01-12/h5ad/GeneFull_Ex50pAS/Homo_sapiens"


@pytest.fixture
def files(tmp_path):
    """Two files whose values are stored in many blocks, as large ones are."""
    paths = [tmp_path / f"s{number}.h5ad" for number in range(2)]
    for number, path in enumerate(paths):
        counts = sample_counts(N_CELLS, 40, seed=number)
        write_h5ad_variant(path, counts, obs=sample_obs(N_CELLS, seed=number))
        with h5py.File(path, "r+") as file:
            values, attributes = file["X/data"][:], dict(file["X/data"].attrs)
            del file["X/data"]
            stored = file.create_dataset("X/data", data=values, chunks=(BLOCK,), compression="gzip")
            stored.attrs.update(attributes)
    return paths


def plan_of(tmp_path, files, cells_per_chunk=N_CELLS, **settings):
    index = write_h5ad_index(tmp_path / "index.feather", files)
    data = DataSettings(cells_per_chunk=cells_per_chunk, **settings)
    draft = draft_dataset(read_cells(index), data, WORK, cache=None)
    return commit_plan(open_store(str(tmp_path / "dest")), draft)


def finish_without_bad(opened):
    left_out = []

    def run_once(opened, work):
        return run_plan(opened, work, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)

    work = divide_work(profile_of_plan(opened, WORK), opened, opened.ledger.done(), WORK)
    _, report = run_without_bad(opened, work, WORK, run_once, lambda _, entries: left_out.extend(entries))
    return report, left_out


def worker_of(opened, tmp_path):
    return ChunkWorker(
        ChunkWorkerFactory(
            opened.store.url, None, "r", slab_bytes=1 << 20, upload_bytes=1 << 20, threads=1, scratch=str(tmp_path)
        )
    )


def block_of(path, at=2):
    """Return the middle of a stored block of values."""
    with h5py.File(path) as file:
        block = file["X/data"].id.get_chunk_info(at)
    return block.byte_offset + block.size // 2


def flip_once(monkeypatch, name, position, *, read, bit=1):
    """Flip a bit on its way, at one of the times that this byte is read; return the times."""
    real, reads = LocalBytes.copy, []

    def copy(self, at, view):
        real(self, at, view)
        if self.url.endswith(name) and at <= position < at + len(view):
            reads.append(at)
            view[position - at] ^= bit if len(reads) == read else 0

    monkeypatch.setattr(LocalBytes, "copy", copy)
    return reads


def damage(path, position):
    """Flip a bit where it stands, unseen by the file's version."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("read", "window"), [(1, False), (2, False), (2, True)])
def test_a_bit_that_flips_on_its_way_costs_no_cell(tmp_path, files, monkeypatch, read, window):
    opened = plan_of(tmp_path, files, **({"shuffle": "window", "shuffle_window": 2 * N_CELLS} if window else {}))
    reads = flip_once(monkeypatch, "s1.h5ad", block_of(files[1]), read=read)
    report, left_out = finish_without_bad(opened)
    assert read < len(reads) <= 4, "when it is opened, and when its counts are read, each of them twice at most"
    assert (report.exit_code, report.finished.n_cells, left_out) == (0, 2 * N_CELLS, [])
    assert not open_plan(opened.store).amendments


def test_a_block_that_is_damaged_where_it_stands_costs_the_chunks_with_its_cells_alone(tmp_path, files):
    opened = plan_of(tmp_path, files, cells_per_chunk=5)
    damage(files[1], block_of(files[1]))
    report, [entry] = finish_without_bad(opened)
    assert (entry.source, entry.kind) == (1, "unreadable")
    n_blocks = h5py.File(files[1])["X/data"].id.get_num_chunks()
    assert 0 < entry.n_cells < N_CELLS * 3 / n_blocks + 10
    assert (report.exit_code, report.finished.n_cells) == (0, 2 * N_CELLS - entry.n_cells)


def test_a_good_run_opens_and_reads_once_and_a_bad_source_twice(tmp_path, files, monkeypatch):
    opened, real, seen = plan_of(tmp_path, files), open_sources.open_fetcher, []

    def open_fetcher(survey, *rest):
        seen.append(survey.source.address.rpartition("/")[2])
        return real(survey, *rest)

    monkeypatch.setattr(open_sources, "open_fetcher", open_fetcher)
    assert worker_of(opened, tmp_path).run(UnitTask(1, (0,), "r-1")).done == (0,)
    assert seen == ["s0.h5ad"]
    damage(files[1], block_of(files[1]))
    [failure] = worker_of(opened, tmp_path).run(UnitTask(2, (1,), "r-2")).failures
    assert (failure.handling, failure.kind, failure.chunks) == ("source", "unreadable", (1,))
    assert seen == ["s0.h5ad", "s1.h5ad", "s1.h5ad"]


def test_what_a_worker_holds_of_a_source_is_let_go_of(tmp_path, files, monkeypatch):
    """Columns are transposed once, and a damaged read of them would be in every chunk from then on."""
    counts = sample_counts(N_CELLS, 40, seed=1)
    write_h5ad_variant(files[1], counts, layout="csc", obs=sample_obs(N_CELLS, seed=1))
    opened = plan_of(tmp_path, files)
    with h5py.File(files[1]) as file:
        sign = file["X/data"].id.get_chunk_info(0).byte_offset + 4 * 100 + 3
    reads = flip_once(monkeypatch, "s1.h5ad", sign, read=2, bit=0x80)
    outcome = worker_of(opened, tmp_path).run(UnitTask(1, (1,), "r-1"))
    assert (outcome.done, outcome.failures) == ((1,), ())
    assert len(reads) == 4, "when it is opened, and when it is transposed"
    with h5py.File(tmp_path / "dest" / opened.plan.key(1)) as file:
        assert file["X/data"][:].tolist() == counts.data.tolist()


@pytest.mark.parametrize(("kind", "chunks"), [("unreadable", frozenset({3})), ("truncated", None)])
def test_a_block_that_cannot_be_read_does_not_speak_for_the_file(tmp_path, files, kind, chunks):
    opened = plan_of(tmp_path, files, cells_per_chunk=30)
    failure = Failure((3,), "source", kind, "it is said", source=opened.plan.identity.sources[1])
    report = SimpleNamespace(driven=SimpleNamespace(quarantined={3: failure}))
    assert [culprit.chunks for culprit in find_culprits(opened, report)] == [chunks]


@pytest.mark.parametrize("when", ["add", "finish"])
def test_what_only_encoding_finds_is_looked_for_again(tmp_path, files, monkeypatch, when):
    """A Census whose counts do not add up, or a count that is none, is found after reading."""
    opened, real, calls = plan_of(tmp_path, files), getattr(ChunkMaker, when), []

    def fails_once(self, *rest):
        calls.append(self.chunk)
        if len(calls) == 1:
            raise SourceError("cell 7 has nnz 3 in X and 4 in obs", kind="source-disagrees")
        return real(self, *rest)

    monkeypatch.setattr(ChunkMaker, when, fails_once)
    outcome = worker_of(opened, tmp_path).run(UnitTask(1, (0, 1), "r-1"))
    assert (outcome.done, outcome.failures) == ((0, 1), ())
    assert calls[0] == 0
    assert calls[-1] == 0, "the doubted chunk comes last"


def test_another_fault_the_second_time_is_nobodys(tmp_path, files, monkeypatch):
    opened, faults = plan_of(tmp_path, files), iter(["negative", "not-finite"])

    def add(*_):
        raise NotCountsError("a count is none", kind=next(faults))

    monkeypatch.setattr(ChunkMaker, "add", add)
    [failure] = worker_of(opened, tmp_path).run(UnitTask(1, (0,), "r-1")).failures
    assert (failure.handling, failure.kind, failure.chunks) == ("corrupt", "read-otherwise", (0,))


@pytest.mark.parametrize(("looks", "guilty"), [((0, 1), None), ((0, 1, 0), 0), ((0, 1, 1), 1)])
def test_each_source_of_a_chunk_is_found_at_fault_twice_by_itself(tmp_path, files, monkeypatch, looks, guilty):
    opened, real = plan_of(tmp_path, files, cells_per_chunk=2 * N_CELLS), ChunkMaker.add
    faults = iter(looks)

    def add(self, *rest):
        if (at := next(faults, None)) is not None:
            raise SourceError("it is said", kind="unreadable", source=opened.plan.identity.sources[at])
        return real(self, *rest)

    monkeypatch.setattr(ChunkMaker, "add", add)
    outcome = worker_of(opened, tmp_path).run(UnitTask(1, (0,), "r-1"))
    if guilty is None:
        assert (outcome.done, outcome.failures) == ((0,), ())
    else:
        [failure] = outcome.failures
        assert (failure.handling, failure.source) == ("source", opened.plan.identity.sources[guilty])


def test_who_is_stopped_before_the_second_look_has_not_failed(tmp_path, files, monkeypatch):
    opened, stop = plan_of(tmp_path, files), threading.Event()
    worker = worker_of(opened, tmp_path)

    def add(*_):
        worker.stop_soon()
        stop.set()
        raise NotCountsError("a count is none")

    monkeypatch.setattr(ChunkMaker, "add", add)
    outcome = worker.run(UnitTask(1, (0, 1), "r-1"))
    assert stop.is_set()
    assert (outcome.done, outcome.failures, outcome.undone) == ((), (), (0, 1))


# -- the survey --------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path):
    folder = tmp_path / SCBASECOUNT
    folder.mkdir(parents=True)
    counts = [sample_counts(N_CELLS, 40, seed=number) for number in range(3)]
    return [
        write_h5ad_variant(folder / f"SRX{number}.h5ad", matrix, obs=sample_obs(N_CELLS, seed=number))
        for number, matrix in enumerate(counts)
    ]


@pytest.fixture
def surveyed(monkeypatch):
    """What the first survey of a file comes to: set `surveyed.first`; `surveyed.log` has what was looked at."""
    real = h5ad_survey.survey_h5ad

    class surveyed:  # noqa: N801 # a namespace
        first = staticmethod(lambda found: found)
        log: list[str] = []  # noqa: RUF012 # of one test

    def survey_h5ad(source, **options):
        name = source.address.rpartition("/")[2]
        surveyed.log.append(name)
        found = real(source, **options)
        return surveyed.first(found) if name == "SRX1.h5ad" and surveyed.log.count(name) == 1 else found

    monkeypatch.setattr(h5ad_survey, "survey_h5ad", survey_h5ad)
    return surveyed


def unreadable(found):
    raise HostileFileError("var cannot be read", kind="unreadable", source=str(found.source))


def one_gene_misread(found):
    ids = ("another", *found.genes.ids[1:])
    return replace(found, genes=replace(found.genes, ids=ids))


def one_cell_fewer(found):
    return replace(found, n_obs=found.n_obs - 1)


@pytest.mark.parametrize("first", [unreadable, one_gene_misread, one_cell_fewer])
def test_a_bad_read_of_the_survey_puts_no_fault_into_the_plan(tmp_path, samples, surveyed, first):
    surveyed.first = first
    for _ in range(2):  # the second time out of the cache
        index = write_h5ad_index(tmp_path / "index.feather", samples)
        draft = draft_dataset(read_cells(index), DataSettings(cells_per_chunk=30), WORK, cache=tmp_path / "cache")
        assert [survey.fault for survey in draft.surveys] == [None] * 3
        assert [survey.n_obs for survey in draft.surveys] == [N_CELLS] * 3
    assert sorted(surveyed.log) == ["SRX0.h5ad", "SRX1.h5ad", "SRX1.h5ad", "SRX2.h5ad"]


def test_what_two_surveys_find_is_a_fault(tmp_path, samples, surveyed):
    two_more = [samples[0].with_name(f"SRX{number}.h5ad") for number in (3, 4)]
    for path in two_more:
        path.write_bytes(samples[0].read_bytes())
    write_h5ad_variant(samples[2], sample_counts(N_CELLS, 39, seed=2), obs=sample_obs(N_CELLS, seed=2))
    index = write_h5ad_index(tmp_path / "index.feather", [*samples, *two_more])
    samples[1].write_bytes(samples[1].read_bytes()[:-200])
    draft = draft_dataset(read_cells(index), DataSettings(cells_per_chunk=30), WORK, cache=None)
    found = [survey.fault and survey.fault.kind for survey in draft.surveys]
    assert found == [None, "source-changed", "other-genes", None, None]
    assert [surveyed.log.count(f"SRX{number}.h5ad") for number in range(5)] == [1, 2, 2, 1, 1]


# -- alone -------------------------------------------------------------------------------------------------------------


def test_what_is_no_fault_of_a_source_or_known_is_not_doubted():
    doubts, passing = Doubts({"file:///bad"}), TransientError("503")
    known = SourceError("it is gone", source="file:///bad")
    assert list(doubts.judge(passing, [1, 2])) == [(passing, [1, 2])]
    assert list(doubts.judge(known, [3])) == [(known, [3])]
    assert doubts.take() == ()


def test_each_chunk_is_judged_by_what_it_failed_by_first():
    doubts = Doubts()
    negative, fraction = (NotCountsError("a count", kind=kind) for kind in ("negative", "fractional"))
    assert list(doubts.judge(negative, [5, 4])) == []
    assert list(doubts.judge(fraction, [3])) == []
    assert doubts.take() == (3, 4, 5)
    assert doubts.take() == ()
    (error, same), (other, [chunk]) = doubts.judge(negative, [5, 3])
    assert (error, same, chunk) == (negative, [5], 3)
    assert isinstance(other, CorruptError)
    assert other.kind == "read-otherwise"


@pytest.mark.parametrize(("kinds", "ends"), [("", None), ("a", None), ("aa", "a"), ("ab", "read-otherwise")])
def test_looking_twice(kinds, ends):
    looks = iter(kinds)

    def look():
        if (kind := next(looks, None)) is not None:
            raise SourceError("bad", kind=kind)
        return 1

    if ends is None:
        assert look_twice(look) == 1
    else:
        with pytest.raises(SourceError if ends == "a" else CorruptError) as caught:
            look_twice(look)
        assert caught.value.kind == ends


def test_trouble_of_other_kinds_is_not_looked_at_twice():
    looks = []

    def look():
        looks.append(1)
        raise TransientError("503")

    with pytest.raises(TransientError):
        look_twice(look)
    assert looks == [1]
