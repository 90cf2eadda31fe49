"""Conversions where none can be, onto full disks and damaged workplaces, and beside others."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ingest.errors import ConfigError, ConflictError, CorruptError
from ingest.load.memmap.convert import run as run_module
from ingest.load.memmap.convert import workplace as workplace_module
from ingest.load.memmap.convert.api import create_archive
from ingest.load.memmap.convert.opening import ReadOptions
from ingest.load.memmap.convert.survey import draft_plan
from ingest.load.memmap.convert.workplace import PLAN_NAME, Workplace
from ingest.serial_pool import SerialPool
from ingest.testing.conversions import (
    Watching,
    assert_same_archive,
    assert_same_arrays,
    begin,
    convert,
    open_theirs,
)
from ingest.testing.damage import flip_bit

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dest(shelf) -> Path:
    return shelf.made("float32-deflate")


@pytest.mark.parametrize("path", ["s3://bucket/made", "/dev/null/made", "/proc/made"])
def test_places_where_no_archive_can_be(dest, path):
    with pytest.raises(ConfigError) as caught:
        create_archive(dest, path)
    assert caught.value.kind == (
        "not-local" if path.startswith("s3") else "in-the-way" if "null" in path else "bad-path"
    )


def test_a_folder_of_somebody_else_is_in_the_way(dest, tmp_path):
    path = tmp_path / "made"
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="in the way") as caught:
        convert(dest, path)
    assert caught.value.kind == "in-the-way"
    assert (tmp_path / "made.partial" / "mine.txt").read_text() == "mine"
    (tmp_path / "other.partial").write_text("mine")
    with pytest.raises(ConfigError, match="in the way"):
        convert(dest, tmp_path / "other")


def test_a_full_disk_is_said_ahead_and_nothing_is_left(dest, tmp_path, monkeypatch):
    monkeypatch.setattr(workplace_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ConfigError, match=r"made takes 0.0 MB, and 0.0 MB are free there") as caught:
        convert(dest, tmp_path / "made")
    assert caught.value.kind == "disk-full"
    assert not (tmp_path / "made.partial").exists()


def test_a_disk_that_fills_up_is_one_line_and_room_is_enough_to_go_on(dest, tmp_path, quiet, monkeypatch):
    import errno
    import os

    path, real, calls = tmp_path / "made", os.pwrite, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(ConfigError, match="no space left") as caught:
            convert(dest, path)
    assert caught.value.kind == "disk-full"
    watching = Watching()
    convert(dest, path, watching=watching)
    assert watching.said[0][0] > 0
    assert_same_archive(path, quiet)


@pytest.mark.parametrize("damage", ["plan", "receipt", "foreign receipt", "array", "no parts"])
def test_a_damaged_workplace_is_refused_or_begun_again(dest, tmp_path, quiet, damage):
    path = tmp_path / "made"
    begin(dest, path)
    folder = Workplace(path).folder
    if damage == "plan":
        flip_bit(folder / PLAN_NAME)
    elif damage == "receipt":
        flip_bit(folder / "parts" / "000000.json")
    elif damage == "foreign receipt":
        (folder / "parts" / "000000.json").rename(folder / "parts" / "000004.json")
    elif damage == "array":
        (folder / "data.npy").unlink()
    else:
        shutil.rmtree(folder / "parts")
        convert(dest, path)
        assert_same_archive(path, quiet)
        return
    with pytest.raises(CorruptError) as caught:
        convert(dest, path)
    assert "remove" in caught.value.hint
    assert not path.exists()


def test_what_is_there_without_its_plan_is_begun_again(dest, tmp_path, quiet):
    """The first row pointer is never written: it has to be zero from the beginning."""
    path = tmp_path / "made"
    begin(dest, path)
    folder = Workplace(path).folder
    (folder / PLAN_NAME).unlink()
    (folder / "row_ptr.npy").write_bytes(b"\7" * 1_000)
    watching = Watching()
    convert(dest, path, watching=watching)
    assert watching.said[0][0] == 0
    assert_same_archive(path, quiet)


def test_the_same_by_another_name_goes_on(dest, tmp_path, quiet, monkeypatch):
    """Of whoever stands in another folder: sources are where they are, whatever they are called."""
    path = tmp_path / "made"
    monkeypatch.chdir(dest.parent)
    begin(dest.name, path)
    monkeypatch.chdir(tmp_path)
    watching = Watching()
    convert(dest, "made", watching=watching)
    assert watching.said[0][0] > 0
    assert_same_arrays(path, quiet)
    assert open_theirs(path).get_row(3, return_var_features=True)
    assert open_theirs(path).var_features().lookup(3)[1] == dest.name
    assert convert(dest, path).was_there


def test_a_worker_that_does_not_see_the_folder_says_so(dest, tmp_path):
    @contextmanager
    def elsewhere(factory, _size, **_):
        shutil.rmtree(Workplace(factory.path).folder)
        yield SerialPool(factory)

    with pytest.raises(ConfigError, match=r"plan.json is not there") as caught:
        convert(dest, tmp_path / "made", open_pool=elsewhere)
    assert caught.value.kind == "pool-start"
    assert "all machines share" in caught.value.hint


def test_a_worker_left_over_writes_nothing_into_another_conversion(dest, shelf, tmp_path):
    """Its driver is dead, its folder removed, and another conversion begun by the same name."""
    kept = []

    @contextmanager
    def stolen(factory, _size, **_):
        folder = Workplace(factory.path).folder
        shutil.rmtree(folder)
        other = draft_plan([shelf.made("float32-none")], ReadOptions(), data_dtype="uint16")
        workplace = Workplace(factory.path)
        workplace._staging.make()
        workplace.enter(other)
        kept.append((folder / "data.npy").read_bytes())
        yield SerialPool(factory)

    with pytest.raises(ConfigError, match="of another conversion now"):
        convert(dest, tmp_path / "made", open_pool=stolen)
    assert (tmp_path / "made.partial" / "data.npy").read_bytes() == kept[0]


def test_a_part_that_somebody_takes_away_is_a_conflict(dest, tmp_path):
    @contextmanager
    def losing(factory, _size, **_):
        pool = SerialPool(factory)
        pool.wait(0)  # its worker has opened the arrays
        shutil.rmtree(Workplace(factory.path).folder)
        yield pool

    with pytest.raises(ConflictError, match="is gone while it is written") as caught:
        convert(dest, tmp_path / "made", open_pool=losing)
    assert caught.value.kind == "workplace-gone"


def test_trouble_that_may_pass_is_tried_again(dest, tmp_path, quiet, monkeypatch):
    from ingest.errors import TransientError
    from ingest.load.memmap.convert.chunks import ChunkRows
    from ingest.schedule import Policy, Scheduler

    monkeypatch.setattr(run_module, "Scheduler", lambda *a, **k: Scheduler(*a, policy=Policy(first_s=0.01), **k))
    real, failed = ChunkRows.write, []

    def unlucky(self, place, into, **options):
        if place.first_row == 19 and len(failed) < 2:
            failed.append(place)
            raise TransientError("the store is down") if len(failed) == 1 else RuntimeError("a bug")
        return real(self, place, into, **options)

    monkeypatch.setattr(ChunkRows, "write", unlucky)
    watching = Watching()
    convert(dest, tmp_path / "made", watching=watching)
    assert [kind for kind, _, _ in watching.troubles] == ["transient", "unforeseen"]
    assert watching.rows[-1] == 106
    assert watching.rows == sorted(watching.rows)
    assert_same_archive(tmp_path / "made", quiet)


def test_fewer_than_one_worker_is_refused(dest, tmp_path):
    with pytest.raises(ConfigError, match="-d 0: at least one worker"):
        create_archive(dest, tmp_path / "made", workers=0)


def test_workers_are_no_more_than_memory_and_parts_ask_for(monkeypatch):
    monkeypatch.setattr(run_module, "available_cpus", lambda: 64)
    monkeypatch.setattr(run_module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5 << 30}))
    assert [run_module.planned_workers(n, None) for n in (0, 3, 100)] == [1, 3, 5]
    assert run_module.planned_workers(100, 12) == 12
