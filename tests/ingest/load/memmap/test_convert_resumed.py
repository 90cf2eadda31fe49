"""Conversions that are stopped, killed or begun twice: whole or not at all, and resumed where they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ingest.errors import ConfigError, ConflictError, CorruptError, ForeignPlanError, SourceError
from ingest.load.memmap.archive import ArrayFiles
from ingest.load.memmap.convert import finish as finish_module
from ingest.load.memmap.convert import plan as plan_module
from ingest.load.memmap.convert import run as run_module
from ingest.load.memmap.convert import workplace as workplace_module
from ingest.load.memmap.convert.api import create_archive
from ingest.load.memmap.convert.workplace import Workplace
from ingest.testing.conversions import (
    Watching,
    assert_same_archive,
    assert_same_arrays,
    begin,
    convert,
    open_theirs,
    write_raw_file,
)
from ingest.testing.damage import DamageableDataset, flip_bit


@pytest.fixture
def dest(shelf) -> Path:
    return shelf.made("float32-deflate")


def test_a_stopped_run_goes_on_where_it_was(dest, tmp_path, quiet):
    path, there = tmp_path / "made", [0]
    while not path.exists():
        asked, watching = iter([False] * 4), Watching()
        made = convert(dest, path, watching=watching, stop=lambda asked=asked: next(asked, True))
        assert watching.said[0][0] == there[-1], "what is there is counted, and not done again"
        assert made.exit_code == (0 if path.exists() else 130)
        assert made.n_done >= there[-1]
        there.append(made.n_done)
        assert len(there) < 50
    assert len(there) > 2
    assert_same_archive(path, quiet)


def test_the_finished_archive_is_left_as_it_is(dest, quiet):
    stamps = {path: path.stat().st_mtime_ns for path in quiet.rglob("*")}
    made = convert(dest, quiet)
    assert (made.was_there, made.exit_code, made.rows) == (True, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in quiet.rglob("*")} == stamps
    assert not Workplace(quiet).folder.exists()


@pytest.mark.parametrize("what", ["folder", "file", "peer", "other", "cast", "cut", "empty folder"])
def test_what_is_there_already_is_never_touched(dest, tmp_path, quiet, what):
    path, sources, said = tmp_path / "there", dest, "no archive of this conversion"
    if what == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif what == "empty folder":
        path.mkdir()
    elif what == "file":
        path.write_text("mine")
    elif what == "peer":
        open_theirs(path, num_elements=3, num_rows=2)
    elif what == "other":
        path, said = quiet, "of another conversion: data type float32 there, uint8 here"
    else:
        path, said = quiet, "has been changed since"
        name, size = (quiet / "data.npy", 8) if what == "cut" else (quiet / "header.sch", 60)
        name.write_bytes(name.read_bytes()[:-size])
    stamps = {one: one.stat().st_mtime_ns for one in [path, *path.rglob("*")]}
    with pytest.raises(ConfigError) as caught:
        convert(sources, path, data_dtype="uint8" if what == "other" else None)
    assert (caught.value.kind, caught.value.exit_code) == ("exists", 2)
    assert said in str(caught.value)
    assert {one: one.stat().st_mtime_ns for one in [path, *path.rglob("*")]} == stamps
    assert not Workplace(path).folder.exists()


def test_another_plan_is_refused_with_what_differs(dest, tmp_path, quiet):
    path = tmp_path / "made"
    begin(dest, path)
    with pytest.raises(ForeignPlanError) as caught:
        convert(dest, path, data_dtype="uint16")
    assert "data type float32 there, uint16 here" in str(caught.value)
    assert f"remove {path}.partial" in caught.value.hint
    convert(dest, path)
    assert_same_archive(path, quiet)


def test_other_cuts_go_on_by_those_that_are_there(dest, tmp_path, quiet, monkeypatch):
    path = tmp_path / "made"
    begin(dest, path)
    monkeypatch.setattr(plan_module.join_cuts, "__defaults__", (1 << 30,))
    made = convert(dest, path)
    assert len(made.plan.parts) > 1
    assert_same_archive(path, quiet)


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_has_changed_is_refused(tmp_path):
    file = write_raw_file(tmp_path / "a.h5ad")
    begin(file, tmp_path / "made")
    write_raw_file(file, seed=9)
    with pytest.raises(ForeignPlanError, match="has changed since"):
        convert(file, tmp_path / "made")


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_changes_in_the_middle_is_noticed(tmp_path):
    files = [write_raw_file(tmp_path / name, seed=1) for name in ("a.h5ad", "b.h5ad")]

    class Changing(Watching):
        def began(self, *_):
            write_raw_file(files[1], n_cells=31)

    with pytest.raises(SourceError, match=r"b\.h5ad") as caught:
        convert(files, tmp_path / "made", watching=Changing())
    assert caught.value.kind == "source-changed"
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", ["float32-none", "float32-deflate"])
def test_a_damaged_chunk_ends_it_and_after_repair_it_goes_on(shelf, tmp_path, kind):
    shutil.copytree(shelf.made(kind), tmp_path / "dest")
    dest = DamageableDataset(tmp_path / "dest")
    good = dest.chunk(3).read_bytes()
    flip_bit(dest.chunk(3))
    with pytest.raises(CorruptError, match="chunk_000003"):
        convert(dest.path, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    dest.chunk(3).write_bytes(good)
    watching = Watching()
    convert(dest.path, tmp_path / "made", watching=watching)
    assert watching.said[0][0] > 0, "parts before it are not done again"
    assert_same_arrays(tmp_path / "made", create_archive(shelf.made(kind), tmp_path / "quiet"))


class Crash(BaseException):
    """The process has died: nothing handles it."""


_STEPS = [
    (workplace_module, "_write_new"),
    (run_module, "describe_archive"),
    (workplace_module, "sync_folder"),
    (Workplace, "tidy"),
    (Workplace, "finish"),
    (Workplace, "put"),
    (ArrayFiles, "sync"),
    (ArrayFiles, "create"),
    (Path, "rename"),
    (Path, "unlink"),
    (shutil, "rmtree"),
]


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.long)])
@pytest.mark.parametrize(("owner", "name"), _STEPS, ids=[name for _, name in _STEPS])
def test_a_crash_at_every_step(dest, tmp_path, quiet, owner, name, when, monkeypatch):
    """Whatever call the process dies at: no archive until there is a whole one, and the same command makes it."""
    path, crashes = tmp_path / "made", 0
    while not path.exists():
        with monkeypatch.context() as patch:
            calls = crash_at(patch, owner, name, crashes, when)
            try:
                convert(dest, path)
            except Crash:
                crashes += 1
            else:
                assert len(calls) <= crashes, "it went through without meeting the crash"
        if path.exists():
            break
        assert crashes < 60
    assert crashes or name in ("unlink", "rmtree"), "the step was never met"
    made = convert(dest, path)
    assert made.was_there
    assert_same_archive(path, quiet)


def crash_at(patch, owner, name, skip, when):
    """Die at call number `skip` of `owner.name`; return the calls."""
    calls: list[object] = []
    real = owner.__dict__[name]
    call = real.__func__ if isinstance(real, classmethod) else real

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) == skip + 1 and when == "before":
            raise Crash
        result = call(*arguments, **options)
        if len(calls) == skip + 1:
            raise Crash
        return result

    patch.setattr(owner, name, classmethod(dying) if isinstance(real, classmethod) else dying)
    return calls


def test_receipts_vanish_as_a_whole(dest, tmp_path, quiet, monkeypatch):
    """Were they removed one by one, who dies in the midst of it would write parts again that are there."""
    real = shutil.rmtree

    def broken_off(path, **options):
        if Path(path).name.endswith("parts"):
            min(Path(path).iterdir()).unlink()
            raise Crash
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(workplace_module.shutil, "rmtree", broken_off)
        with pytest.raises(Crash):
            convert(dest, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    watching = Watching()
    made = convert(dest, tmp_path / "made", watching=watching)
    assert watching.said[0] == (len(made.plan.parts), 0)
    assert_same_archive(tmp_path / "made", quiet)


def test_what_is_described_anew_is_none_until_the_end(dest, tmp_path, monkeypatch):
    real = run_module.describe_archive

    def crash(*arguments):
        real(*arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "describe_archive", crash)
        with pytest.raises(Crash):
            convert(dest, tmp_path / "made")
    assert (tmp_path / "made.partial" / "metadata.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(finish_module, "describe", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            convert(dest, tmp_path / "made")
    assert not (tmp_path / "made.partial" / "metadata.json").exists()


def test_a_second_one_at_the_same_place_is_refused(dest, tmp_path, quiet):
    path, inside = tmp_path / "made", []

    class Second(Watching):
        def began(self, *_):
            with pytest.raises(ConflictError, match="is being written by another process") as caught:
                convert(dest, path)
            inside.append(caught.value)

    convert(dest, path, watching=Second())
    assert inside[0].kind == "at-work"
    assert "the same command goes on" in inside[0].hint
    assert_same_archive(path, quiet)


def test_who_waited_for_the_lock_finds_the_archive(dest, tmp_path, quiet):
    """The lock taken is that of a folder which has its own name by now."""
    path = tmp_path / "made"
    workplace = Workplace(path)
    with workplace.locked():
        lock = workplace.folder / ".lock"
        held = lock.open("rb")
        workplace.folder.rename(path)
        assert not workplace._is_current(held.fileno())
        held.close()
    shutil.rmtree(path)
    shutil.copytree(quiet, path)
    assert convert(dest, path).was_there


def test_both_end_right_where_files_have_no_locks(dest, tmp_path, quiet, monkeypatch):
    monkeypatch.setattr(workplace_module.fcntl, "flock", lambda *_: None)
    path, made = tmp_path / "made", []

    class Rival(Watching):
        def finishing(self):
            if not made:
                made.append(None)
                made[0] = convert(dest, path)

    other = convert(dest, path, watching=Rival())
    assert other.finished
    assert made[0].finished
    assert_same_archive(path, quiet)


def test_a_receipt_comes_after_its_bytes_are_on_the_disk(dest, tmp_path, monkeypatch):
    """Of a machine that loses its power, pages that were not brought there are gone, and a receipt would lie."""
    import os

    happened: list[str] = []
    for owner, name in ((os, "pwrite"), (os, "fdatasync"), (Workplace, "put")):
        real = getattr(owner, name)

        def noted(*arguments, real=real, name=name):
            result = real(*arguments)
            happened.append(name)
            return result

        monkeypatch.setattr(owner, name, noted)
    convert(dest, tmp_path / "made")
    assert [name for at, name in enumerate(happened) if not at or happened[at - 1] != name] == [
        "pwrite",
        "fdatasync",
        "put",
    ]


def test_all_else_is_on_the_disk_before_receipts_go(dest, tmp_path, monkeypatch):
    happened: list[str] = []
    real_sync, real_rename = workplace_module.sync_folder, Path.rename
    monkeypatch.setattr(workplace_module, "sync_folder", lambda folder: (real_sync(folder), happened.append("sync"))[0])
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (happened.append(f"{self.name}>{Path(to).name}"), real_rename(self, to))[1]
    )
    convert(dest, tmp_path / "made")
    wanted = [one for one in happened if one == "sync" or one.endswith((">.parts", ">metadata.json", ">made"))]
    assert wanted == [".metadata.json>metadata.json", "sync", "parts>.parts", "made.partial>made"]


def test_without_locks_it_goes_on(dest, tmp_path, quiet, monkeypatch):
    import errno

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workplace_module.fcntl, "flock", none)
    convert(dest, tmp_path / "made")
    assert_same_archive(tmp_path / "made", quiet)
