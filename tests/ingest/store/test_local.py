"""What only a folder has: links, locks, full disks, crashes."""

import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ingest.errors import AlreadyExistsError, ConfigError, CredentialsError, NotFoundError, TransientError
from ingest.store import open_store
from ingest.store.local import LocalStore

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "dest")


def raising(number):
    def call(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return call


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def test_opening_makes_nothing(tmp_path):
    store = open_store(str(tmp_path / "dest"))
    assert list(store.list("")) == []
    with pytest.raises(NotFoundError):
        store.get("k")
    assert not (tmp_path / "dest").exists()


def test_the_url_opens_the_same_folder_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("some/dest")
    store.put_new("k", b"1")
    monkeypatch.chdir("/")
    assert open_store(store.url).get("k") == b"1"
    assert store.url == str(tmp_path / "some" / "dest")


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        open_store(str(tmp_path / "file"))
    assert caught.value.kind == "not-a-folder"


def test_writing_leaves_only_the_object(store, tmp_path):
    store.put_new("a/k", b"1")
    assert everything(tmp_path / "dest") == ["a/k"]


def test_objects_obey_the_umask(store, tmp_path):
    old = os.umask(0o027)
    try:
        store.put_new("k", b"1")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "dest" / "k").stat().st_mode) == 0o640


def test_bytes_are_synced_before_they_appear_and_their_name_after(store, tmp_path, monkeypatch):
    calls = []
    fsync, link = os.fsync, os.link

    def kind(descriptor):
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(f"sync {kind(fd)}"), fsync(fd)))
    monkeypatch.setattr(os, "link", lambda *a, **k: (calls.append("link"), link(*a, **k)))
    (tmp_path / "dest").mkdir()
    store.put_new("k", b"1")
    assert calls == ["sync file", "link", "sync folder"]


def test_new_folders_are_synced_into_theirs(store, tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink()), fsync(fd)))
    store.put_new("a/b/k", b"1")
    folders = {path for path in synced if path.is_dir()}
    assert folders == {tmp_path, tmp_path / "dest", tmp_path / "dest/a", tmp_path / "dest/a/b"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(store, tmp_path, monkeypatch, number, where):
    old = store.put_new("old", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, where, raising(number))
        for write in (lambda: store.put_new("k", b"12345"), lambda: store.replace("old", b"2", expected=old.version)):
            with pytest.raises(ConfigError, match="no space left") as caught:
                write()
            assert (caught.value.kind, caught.value.exit_code) == ("disk-full", 1)
    assert [path for path in everything(tmp_path / "dest") if "lock" not in path] == ["old"]
    assert store.get("old") == b"1"
    store.put_new("k", b"12345")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_no_permission(store, monkeypatch, number):
    monkeypatch.setattr(os, "open", raising(number))
    with pytest.raises(CredentialsError, match="no permission on") as caught:
        store.put_new("k", b"")
    assert (caught.value.kind, caught.value.exit_code) == ("permission", 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(CredentialsError):
        open_store(str(closed / "dest")).put_new("k", b"")


def test_a_file_system_without_links_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", raising(errno.EPERM))
    with pytest.raises(ConfigError, match="no hard links") as caught:
        store.put_new("k", b"")
    assert caught.value.kind == "no-hard-links"
    assert everything(tmp_path / "dest") == []


def test_a_failing_disk_may_pass(store, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(errno.EIO))
    with pytest.raises(TransientError):
        store.put_new("k", b"")


def test_what_cannot_be_looked_at_is_not_taken_for_absent(store, monkeypatch):
    store.put_new("k", b"")
    entry = SimpleNamespace(stat=raising(errno.EIO))
    monkeypatch.setattr("ingest.store.local._walk", lambda *_: [("k", entry)])
    with pytest.raises(TransientError):
        list(store.list(""))
    entry.stat = raising(errno.ENOENT)
    assert list(store.list("")) == []


def test_a_file_in_the_way_of_a_folder(store):
    store.put_new("a", b"1")
    with pytest.raises(ConfigError, match="in the way"):
        store.put_new("a/b", b"2")
    with pytest.raises(ConfigError, match="in the way"):
        store.put_new("a/b/c", b"2")
    store.put_new("x/y", b"1")
    with pytest.raises(ConfigError, match="in the way"):
        store.put_new("x", b"2")


def test_versions_differ_though_clock_and_inode_stand_still(store, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    stat_ = store.put_new("k", b"same")
    versions = [stat_.version]
    for _ in range(50):
        stat_ = store.replace("k", b"same", expected=stat_.version)
        versions.append(stat_.version)
    assert len({version.split("-")[1] for version in versions}) == 51


def test_a_change_in_place_is_another_version(store, tmp_path):
    before = store.put_new("k", b"1234")
    with (tmp_path / "dest" / "k").open("r+b") as file:
        file.write(b"9")
    assert store.stat("k").version != before.version


def test_links_and_foreign_things_are_not_listed(store, tmp_path):
    store.put_new("k", b"1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    (tmp_path / "dest" / "link").symlink_to(outside)
    (tmp_path / "dest" / "file-link").symlink_to(outside / "secret")
    os.mkfifo(tmp_path / "dest" / "pipe")
    assert [one.key for one in store.list("")] == ["k"]


WRITER = """
import sys
from ingest.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    store.put_new(f"k{number:06}", bytes([number % 256]) * 4_000_000)
    number += 1
"""


def test_killed_at_any_moment_only_whole_objects_are_there(tmp_path):
    for attempt in range(6):
        dest = tmp_path / str(attempt)
        with python(WRITER, dest) as writer:
            writer.stdout.readline()
            time.sleep(0.03 + 0.017 * attempt)
            writer.send_signal(signal.SIGKILL)
        store = LocalStore(dest)
        for number, one in enumerate(store.list("")):
            assert (one.key, one.size) == (f"k{number:06}", 4_000_000)
            assert store.get(one.key) == bytes([number % 256]) * 4_000_000
        for path, age_s in store.list_temporaries():
            assert age_s >= 0
            path.unlink()
        assert everything(dest) == [one.key for one in store.list("")]


def test_a_leftover_is_found_and_never_listed(store, tmp_path):
    store.put_new("a/k", b"1")
    leftover = tmp_path / "dest" / "a" / ".ingest-tmp-1-abc"
    leftover.write_bytes(b"half")
    assert [one.key for one in store.list("")] == ["a/k"]
    assert [path for path, _ in store.list_temporaries()] == [leftover]
    with pytest.raises(ConfigError):
        store.get("a/.ingest-tmp-1-abc")


def test_a_rival_that_comes_between_the_look_and_the_link_wins(store, tmp_path, monkeypatch):
    rival, link = LocalStore(tmp_path / "dest"), os.link

    def late(*arguments, **options):
        monkeypatch.setattr(os, "link", link)
        rival.put_new("k", b"rival")
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(AlreadyExistsError):
        store.put_new("k", b"late")
    assert store.get("k") == b"rival"
    assert everything(tmp_path / "dest") == ["k"]


RACER = """
import sys
from ingest.errors import ConflictError
from ingest.store import open_store
store, won = open_store(sys.argv[1]), []
version = store.stat("shared").version
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    try:
        store.put_new(f"k{number}", sys.argv[2].encode())
        won.append(number)
    except ConflictError:
        pass
try:
    store.replace("shared", sys.argv[2].encode(), expected=version)
    won.append(-1)
except ConflictError:
    pass
print(*won)
"""


def test_of_racing_processes_one_creates_and_one_replaces(store):
    store.put_new("shared", b"old")
    racers = [python(RACER, store.url, name) for name in range(3)]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {str(name): [int(word) for word in racer.communicate()[0].split()] for name, racer in enumerate(racers)}
    assert sorted(itertools.chain.from_iterable(won.values())) == list(range(-1, 40))
    for name, numbers in won.items():
        for number in numbers:
            assert store.get("shared" if number < 0 else f"k{number}") == name.encode()


def test_an_object_reported_to_exist_is_durable(store, monkeypatch):
    store.put_new("k", b"1")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    with pytest.raises(AlreadyExistsError):
        store.put_new("k", b"1")
    assert synced
