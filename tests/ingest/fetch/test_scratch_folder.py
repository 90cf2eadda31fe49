"""What killed processes leave on scratch goes with the next one; what living ones use stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.fetch.scratch_folder import ScratchFolder

HOLDER = """
import sys, time
from pathlib import Path
from ingest.fetch.scratch_folder import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
(folder.path / "rows").write_bytes(b"some rows")
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process with a folder of its own, and the folder's name."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_folder_of_a_living_process_stays_and_of_a_killed_one_goes(tmp_path, holder):
    process, name = holder
    mine = ScratchFolder(tmp_path)
    assert sorted(path.name for path in Path(name).iterdir()) == ["lock", "rows"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    other = ScratchFolder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine.path, other.path])
    mine.close()
    other.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_what_others_put_there_is_left_alone(tmp_path):
    kept = tmp_path / "kept"
    (kept / "sub").mkdir(parents=True)
    (kept / "lock").write_bytes(b"")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "cell-ingest-link").symlink_to(kept)
    unlocked = tmp_path / "scratch" / "cell-ingest-without-a-lock"
    unlocked.mkdir()
    os.mkfifo(unlocked / "pipe")
    waiting = tmp_path / "scratch" / "cell-ingest-pipe"
    waiting.mkdir()
    os.mkfifo(waiting / "lock.new")
    linked = tmp_path / "scratch" / "cell-ingest-linked"
    linked.mkdir()
    (linked / "lock").symlink_to(kept / "lock")
    ScratchFolder(tmp_path / "scratch").close()
    assert (kept / "sub").is_dir()
    assert unlocked.is_dir()
    assert waiting.is_dir()
    assert linked.is_dir()
