"""Memory as the kernel's files tell it: a hierarchy of either version, built here, and the machine's own."""

from __future__ import annotations

import psutil
import pytest

from ingest.stream.memory import available_memory, cgroup_room

GB = 10**9
NAMES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
NO_LIMIT = {2: "max", 1: str(2**63 - 4096)}


@pytest.fixture
def mount(tmp_path):
    return tmp_path / "cgroup"


@pytest.fixture
def member(tmp_path):
    def write(text):
        path = tmp_path / "membership"
        path.write_text(text)
        return path

    return write


def group(mount, version, path, limit, usage=0, cache=0):
    names = NAMES[version]
    folder = (mount if version == 2 else mount / "memory") / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{NO_LIMIT[version] if limit is None else limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 7\nfile {9 * GB}\n{names[2]} {cache}\nworkingset 1\n")


LINES = {2: "0::{}\n", 1: "12:cpuset:/\n5:cpu,memory:{}\n1:name=systemd:/x\n"}


@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_less_what_is_used_but_for_the_cache(mount, member, version):
    group(mount, version, "job/step", 8 * GB, 3 * GB, 1 * GB)
    assert cgroup_room(member(LINES[version].format("/job/step")), mount) == 6 * GB


@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_group_above_counts(mount, member, version):
    group(mount, version, "job/step", 8 * GB)
    group(mount, version, "job", 9 * GB, 7 * GB)
    group(mount, version, "", 64 * GB)
    assert cgroup_room(member(LINES[version].format("/job/step")), mount) == 2 * GB


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_group_as_the_root(mount, member, version):
    group(mount, version, "", 4 * GB, 1 * GB)
    for path in ("/", "/kubepods/burstable/pod7", "/../../other"):
        assert cgroup_room(member(LINES[version].format(path)), mount) == 3 * GB


def test_no_limit(mount, member):
    group(mount, 2, "job", None, 5 * GB)
    assert cgroup_room(member("0::/job\n"), mount) is None
    group(mount, 1, "job", None, 5 * GB)
    assert cgroup_room(member(LINES[1].format("/job")), mount) > 2**62  # as version 1 says it


def test_used_up_is_nothing_left(mount, member):
    group(mount, 2, "job", 2 * GB, 3 * GB)
    assert cgroup_room(member("0::/job\n"), mount) == 0
    assert available_memory(member("0::/job\n"), mount) == 0


def test_both_versions_at_once(mount, member):
    group(mount, 2, "a", 8 * GB)
    group(mount, 1, "b", 5 * GB)
    assert cgroup_room(member("0::/a\n3:memory:/b\n"), mount) == 5 * GB


@pytest.mark.parametrize("text", ["", "nonsense", "0::\n", "3:memory\n", "\xff:\n"])
def test_what_cannot_be_read_limits_nothing(mount, member, tmp_path, text):
    assert cgroup_room(member(text), mount) is None
    assert cgroup_room(tmp_path / "missing", mount) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"-1", b"1e9", b"12 13"])
def test_numbers_that_are_none(mount, member, content):
    group(mount, 2, "job", 2 * GB)
    (mount / "job" / "memory.max").write_bytes(content)
    assert cgroup_room(member("0::/job\n"), mount) is None
    group(mount, 2, "job", 2 * GB, GB)
    (mount / "job" / "memory.stat").write_bytes(content)
    assert cgroup_room(member("0::/job\n"), mount) == GB


def test_the_lesser_of_machine_and_group(mount, member, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 6 * GB}))
    group(mount, 2, "job", 64 * GB)
    assert available_memory(member("0::/job\n"), mount) == 6 * GB
    group(mount, 2, "job", 4 * GB)
    assert available_memory(member("0::/job\n"), mount) == 4 * GB


def test_this_machine():
    assert 0 < available_memory() <= psutil.virtual_memory().total
