"""What frames the driver's loop: the record of the run, and how long a unit may take."""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest

from ingest.cells import read_cells
from ingest.committing import commit_plan
from ingest.cpu import available_cpus
from ingest.errors import ConfigError, CredentialsError, TransientError
from ingest.pool import Ended, Failure, UnitOutcome
from ingest.preparing import divide_work, draft_dataset, profile_of_plan
from ingest.repairing import repair_dataset
from ingest.running import run_plan, run_units
from ingest.settings import DataSettings, WorkSettings
from ingest.store import local
from ingest.store.local import LocalStore
from ingest.testing.datasets import SilentObserver, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

WORK = WorkSettings(workers=1)


class RefusesTheEnd(LocalStore):
    """A store that takes everything but how a run ended."""

    error = TransientError("503", kind="store-busy")

    def put_new(self, key, data):
        if key.endswith("/end.json"):
            raise self.error
        return super().put_new(key, data)


def prepared(store, folder, files=None):
    index = write_h5ad_index(folder / "index.feather", files or write_sources(folder / "sources", n_files=1))
    draft = draft_dataset(read_cells(index), DataSettings(cells_per_chunk=10), WORK, cache=None)
    opened = commit_plan(store, draft)
    return opened, divide_work(draft.profile, opened, (), WORK)


def run(opened, work, open_pool=open_serial_pool, settings=WORK):
    return run_plan(opened, work, settings, open_pool, SilentObserver(), stop_requested=lambda: False)


@pytest.mark.parametrize("error", [RefusesTheEnd.error, CredentialsError("expired")])
def test_a_run_whose_end_cannot_be_recorded_is_good_all_the_same(tmp_path, monkeypatch, error):
    monkeypatch.setattr(RefusesTheEnd, "error", error)
    report = run(*prepared(RefusesTheEnd(tmp_path / "dest"), tmp_path))
    assert report.exit_code == 0
    assert (tmp_path / "dest" / "_SUCCESS.json").exists()


def test_what_failed_is_told_and_not_that_it_could_not_be_recorded(tmp_path):
    @contextmanager
    def no_pool(*_, **__):
        raise ConfigError("no worker can be started", kind="pool-start")
        yield

    with pytest.raises(ConfigError, match="no worker"):
        run(*prepared(RefusesTheEnd(tmp_path / "dest"), tmp_path), no_pool)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (None, 3),
        (Failure((), "config", "credentials", "expired"), 2),
        (Failure((), "config", "disk-full", "full"), 1),
        (Failure((), "transient", "ray-lost", "gone"), 1),
    ],
)
def test_why_a_run_stopped_decides_its_exit_code(tmp_path, failure, code):
    opened, work = prepared(LocalStore(tmp_path / "dest"), tmp_path)
    assert run(opened, work, fixed_pool(Deadlines(failure))).exit_code == code


@pytest.mark.parametrize("fits", [("_ingest/",), ("_ingest/runs/",)], ids=["records fit", "no failure fits"])
def test_a_full_disk_ends_a_run_in_one_way_whatever_still_fits(tmp_path, monkeypatch, fits):
    opened, work = prepared(LocalStore(tmp_path / "dest"), tmp_path)
    really = local._write_temporary

    def full(folder, body, later_than_ns):
        if not f"{folder.relative_to(tmp_path / 'dest')}/".startswith(fits):
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(folder, body, later_than_ns)

    with monkeypatch.context() as patched:
        patched.setattr(local, "_write_temporary", full)
        report = run(opened, work)
        repaired = repair_dataset(opened, [0], WORK, open_serial_pool, SilentObserver())
    assert (report.exit_code, report.driven.fatal.kind) == (1, "disk-full")
    assert (repaired.exit_code, repaired.fatal.kind) == (1, "disk-full")
    ends = (tmp_path / "dest" / "_ingest" / "runs").rglob("end.json")
    assert [json.loads(end.read_bytes())["outcome"] for end in ends] == ["stopped", "stopped"]
    assert run(opened, divide_work(profile_of_plan(opened, WORK), opened, (), WORK)).exit_code == 0


@pytest.mark.parametrize(("handling", "told"), [("conflict", True), ("source", False)])
def test_what_failed_here_and_others_have_made_is_told_only_if_they_made_something_else(tmp_path, handling, told):
    opened, work = prepared(LocalStore(tmp_path / "dest"), tmp_path)
    assert run(opened, work).exit_code == 0
    late = run(opened, work, fixed_pool(Deadlines(Failure((), handling, "some", "it is said"))))
    assert late.exit_code == 0
    assert bool(late.driven.quarantined) is told


def test_a_share_of_failures_stops_the_run_early(tmp_path):
    opened, work = prepared(LocalStore(tmp_path / "dest"), tmp_path)
    pool = Deadlines(Failure((), "source", "truncated", "cut short"))
    report = run(opened, work, fixed_pool(pool), WorkSettings(workers=1, max_failed_pct=1))
    assert (report.exit_code, report.driven.stopped_early) == (3, True)


def test_a_user_without_a_name_is_recorded_by_number(tmp_path):
    with mock.patch("getpass.getuser", side_effect=KeyError("uid not found")):
        assert run(*prepared(LocalStore(tmp_path / "dest"), tmp_path)).exit_code == 0
    (start,) = (tmp_path / "dest" / "_ingest" / "runs").rglob("start.json")
    assert json.loads(start.read_bytes())["user"] == str(os.getuid())


@pytest.mark.parametrize(("available", "workers"), [(0, None), (1 << 62, "some")])
def test_as_many_workers_as_memory_holds_and_none_is_an_error(tmp_path, available, workers):
    opened, _ = prepared(LocalStore(tmp_path / "dest"), tmp_path)
    profile = profile_of_plan(opened, WORK)
    with mock.patch("psutil.virtual_memory", return_value=SimpleNamespace(available=available)):
        if workers is None:
            with pytest.raises(ConfigError) as caught:
                divide_work(profile, opened, (), WorkSettings())
            assert caught.value.kind == "memory"
        else:
            assert 1 <= divide_work(profile, opened, (), WorkSettings()).workers <= available_cpus()
    with pytest.raises(ConfigError) as caught:
        divide_work(profile, opened, (), WorkSettings(workers=-1))
    assert caught.value.kind == "bad-workers"


def test_a_second_signal_is_recorded_as_an_interruption(tmp_path):
    @contextmanager
    def impatient(*_, **__):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run(*prepared(LocalStore(tmp_path / "dest"), tmp_path), impatient)
    (end,) = (tmp_path / "dest" / "_ingest" / "runs").rglob("end.json")
    assert json.loads(end.read_bytes())["outcome"] == "interrupted"


class Deadlines:
    """A pool that makes nothing and remembers how long it was given."""

    size = 1

    def __init__(self, failure=None):
        self.given, self._tasks = [], []
        self._failure = failure

    def has_free(self):
        return not self._tasks

    def submit(self, task, *, deadline_s):
        self.given.append(deadline_s)
        self._tasks.append(task)

    def wait(self, _timeout_s):
        ended = [Ended(task, self._outcome(task)) for task in self._tasks]
        self._tasks.clear()
        return ended

    def _outcome(self, task):
        if self._failure is None:
            return UnitOutcome(task.unit_id, done=task.chunks)
        return UnitOutcome(task.unit_id, done=(), failures=(replace(self._failure, chunks=task.chunks),))

    def stop_soon(self):
        """Nothing is in hand."""

    def progress(self):
        return []


def fixed_pool(pool):
    @contextmanager
    def open_pool(*_, **__):
        yield pool

    return open_pool


@pytest.mark.parametrize(("layout", "wholes"), [("csr", 1), ("csc", 3)])
def test_a_unit_has_time_to_read_what_it_must_read(tmp_path, layout, wholes):
    file = write_h5ad_variant(tmp_path / "one.h5ad", sample_counts(20, 400), layout=layout)
    opened, work = prepared(LocalStore(tmp_path / "dest"), tmp_path, [file])
    pool = Deadlines()
    for settings in (WORK, WorkSettings(workers=1, deadline_s=7.0)):
        run_units(opened, work, settings, fixed_pool(pool), SilentObserver(), stop_requested=lambda: False)
    stored = opened.surveys[0].stored_bytes
    default = pool.given[: len(work.units)]
    assert set(pool.given[len(work.units) :]) == {7.0}
    # Of a CSC file, all may have to be read at both ends of the unit.
    ends = 2 * len(default) if layout == "csc" else 0
    assert sum(default) == pytest.approx(600 * len(default) + 0.01 * 20 + (1 + ends) * stored / 1e6)
    assert wholes == 1 + ends / len(default)
