"""A file under its final name is whole, or the one that was there before: whatever ends the writing, and when."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from ingest.errors import ConfigError, CredentialsError, NoFileError, SourceChangedError
from ingest.stream import files
from ingest.stream.files import edited_copy, new_file, resolve_output_path
from ingest.stream.hdf5 import writable


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "ingest_csr.h5ad"),
        ({"data_name": "pbmc"}, "ingest_pbmc_csr.h5ad"),
        ({"data_name": "pbmc.h5ad"}, "ingest_pbmc_csr.h5ad"),
        ({"data_name": "ingest_pbmc_csr"}, "ingest_pbmc_csr.h5ad"),
        ({"data_name": "csr"}, "ingest_csr.h5ad"),
        ({"data_name": "ingest"}, "ingest_csr.h5ad"),
        ({"data_name": "x", "module": "mine"}, "mine_x_csr.h5ad"),
    ],
)
def test_names_of_outputs(options, name, tmp_path):
    found = resolve_output_path(tmp_path / "in.h5ad", suffix="csr", **options)
    assert found == tmp_path / name
    assert resolve_output_path("in.h5ad", suffix="csr", output_dir=tmp_path, **options) == tmp_path / name


def test_a_new_file_has_its_name_at_the_end(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("before")
    with new_file(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
        assert temporary.parent == tmp_path
    assert path.read_text() == "after"
    assert names(tmp_path) == ["out.txt"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("before")

    def fail():
        with new_file(path) as temporary:
            temporary.write_text("after")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["out.txt"]


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path, other = tmp_path / "out.txt", tmp_path / "out.txt.h5"
    with new_file(path) as left:
        name = left.name
    for dead in (name, files._temporary_name(other.name), f".out.txt.{'0' * 12}.partial", f"{name}.partial"):
        (tmp_path / dead).write_text("of a process that was killed")
    with new_file(path) as first, new_file(path) as second:
        assert not (tmp_path / name).exists()
        assert first.exists()
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # whose block ended last
    assert len(names(tmp_path)) == 4  # another name's, another machine's, and what only looks like one of ours


def test_a_disk_without_locks_is_written_and_not_swept(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = tmp_path / files._temporary_name("out.txt")
    left.write_text("of whom nobody knows whether it lives")
    with new_file(tmp_path / "out.txt") as temporary:
        temporary.write_text("")
    assert names(tmp_path) == [left.name, "out.txt"]


def test_what_is_in_the_way_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"), new_file(tmp_path / "none" / "out.txt"):
        pass
    with pytest.raises(ConfigError, match="a folder, not a file"), new_file(tmp_path):
        pass
    with pytest.raises(ConfigError, match="too long") as caught, new_file(tmp_path / ("n" * 300)):
        pass
    assert caught.value.kind == "bad-path"
    with new_file(tmp_path / ("n" * 250)) as temporary:  # the temporary name has room to make
        temporary.write_text("")


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)  # root, as whom tests may run, may write anywhere
    with pytest.raises(CredentialsError, match="no permission"), new_file(tmp_path / "out.txt"):
        pass


@pytest.mark.parametrize("way", ["clone or kernel", "kernel", "sendfile"])
def test_an_edited_copy_takes_the_files_place(way, tmp_path, monkeypatch):
    if way != "clone or kernel":
        monkeypatch.setattr(files, "_FICLONE", 0)
    if way == "sendfile":
        monkeypatch.delattr(os, "copy_file_range")
    path = tmp_path / "data"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    path.chmod(0o640)
    with edited_copy(path) as copy:
        assert copy.read_bytes() == content
        with copy.open("r+b") as file:
            file.write(b"new")
        assert path.read_bytes() == content
    assert path.read_bytes() == b"new" + content[3:]
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["data"]


def test_a_link_stays_one_and_what_it_means_is_edited(tmp_path):
    (tmp_path / "real").write_text("one")
    (tmp_path / "link").symlink_to("real")
    with edited_copy(tmp_path / "link") as copy:
        copy.write_text("two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "two"


def test_a_change_by_somebody_else_is_kept(tmp_path):
    path = tmp_path / "data"
    path.write_text("one")

    def edit():
        with edited_copy(path) as copy:
            copy.write_text("mine")
            path.write_text("theirs")

    with pytest.raises(SourceChangedError):
        edit()
    assert path.read_text() == "theirs"


def test_no_file_to_edit(tmp_path):
    with pytest.raises(NoFileError) as caught, edited_copy(tmp_path / "none"):
        pass
    assert isinstance(caught.value, FileNotFoundError)


WRITE = """
    import sys, os, signal, resource
    from pathlib import Path
    import h5py, numpy as np
    from ingest.errors import IngestError
    from ingest.stream.files import edited_copy, new_file
    from ingest.stream.hdf5 import writable
    folder = Path(sys.argv[1])
    def fill(file):
        for number in range(40):
            file[f"array{number}"] = np.random.default_rng(number).random(20_000)
            file[f"texts{number}"] = np.array(["some text"] * 500, dtype=h5py.string_dtype())
            if number == 20 and sys.argv[2] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
"""
FULL = """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000,) * 2)
"""
NEW = """
    with new_file(folder / "out.h5") as path, writable(path, name=folder / "out.h5") as file:
        fill(file)
"""
EDIT = """
    with edited_copy(folder / "in.h5") as path, writable(path, "r+", name=folder / "in.h5") as file:
        fill(file)
"""


@pytest.mark.parametrize("what", [NEW, EDIT])
@pytest.mark.parametrize("end", ["killed", "full"])
def test_killed_or_full(what, end, tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = np.arange(10)
    before = (tmp_path / "in.h5").read_bytes()
    program = textwrap.dedent(WRITE) + textwrap.dedent(FULL if end == "full" else "")
    program += "try:\n" + textwrap.indent(textwrap.dedent(what), "    ")
    program += "\nexcept IngestError as error:\n    print(error.kind)\n"
    run = [sys.executable, "-c", program, str(tmp_path), end]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    assert done.stdout == ("" if end == "killed" else "disk-full\n")
    assert (tmp_path / "in.h5").read_bytes() == before
    visible = [name for name in names(tmp_path) if not name.startswith(".")]
    assert visible == ["in.h5"]
    if end == "full":
        assert names(tmp_path) == ["in.h5"]


def test_hdf5_closes_in_peace_on_a_full_disk(tmp_path):
    """Many times in one process: what HDF5 could not write must not stay with it."""

    def write():
        with new_file(tmp_path / "out") as path, writable(path) as file:
            for number in range(40):
                file[f"group/array{number}"] = np.random.default_rng(0).random(2_000)
                file[f"group/texts{number}"] = np.array(["some text"] * 100, dtype=h5py.string_dtype())

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for most in range(0, 300_000, 20_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
            with pytest.raises(ConfigError) as caught:
                write()
            assert caught.value.kind == "disk-full"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == []


def test_no_hdf5_to_change(tmp_path):
    (tmp_path / "x").write_text("no HDF5")
    with pytest.raises(ConfigError, match="no HDF5 file"), writable(tmp_path / "x", "r+"):
        pass
