"""Every operation, ended at every change that it makes to the file system: killed, out of disk, interrupted, failing.

The input is what it was, and under the final name is the old file or the new one, whole, or none; what is left behind
is in nobody's way, and the same command goes through afterwards.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import sys
import time

import anndata
import pytest

from ingest import stream
from ingest.errors import ConfigError, TransientError
from ingest.stream import hdf5
from ingest.stream.matrix import work as work_module
from ingest.testing.file_points import Failure, FilePoints, undurable
from ingest.testing.h5ad_same import assert_same
from ingest.testing.stream_operations import EDIT, MAKE, PURE, READ, write_everything

pytestmark = pytest.mark.filterwarnings("ignore:.*are not unique now", "ignore:.*names are not unique:UserWarning")

LAYOUTS = ("csr", "csc", "dense")
SHORT = [
    ("convert_to_csc", "csr"),
    ("convert_to_csr", "dense"),
    ("normalize_total_log1p", "csc"),
    ("write_filtered_subset", "csr"),
    ("sort_by_perturbation", "dense"),
    ("standardize_dataset", "csr"),
]
NOTHING_TO_DO = [("convert_to_csc", "csc"), ("convert_to_csr", "csr")]
WHEN = 1_700_000_000
TIMES = ("timestamp", "standardization_timestamp")


def cases():
    edits = [(name, "csr") for name in EDIT]
    long = [(name, layout) for name in MAKE for layout in LAYOUTS if (name, layout) not in (*SHORT, *NOTHING_TO_DO)]
    marked = [pytest.param(case, marks=pytest.mark.long, id="-".join(case)) for case in long]
    return [pytest.param(case, id="-".join(case)) for case in edits + SHORT] + marked


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Entries go through a file beside the output: that is one more thing to be left behind."""
    monkeypatch.setattr(work_module, "BLOCK_BYTES", 300)
    monkeypatch.setattr(work_module, "_LEAST_BLOCK_BYTES", 300)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return {layout: write_everything(folder / f"{layout}.h5ad", layout).read_bytes() for layout in LAYOUTS}


class Case:
    """One operation on a file of its own."""

    def __init__(self, name, layout, folder, originals):
        self.name, self.edits, self.before = name, name in EDIT, originals[layout]
        self.path, self.top, self.out = folder / "a.h5ad", folder, folder / "out"
        self.out.mkdir()
        self._put_back()
        made = ".cache/standardized_a.h5ad" if name == "standardize_dataset" else "out.h5ad"
        self.final = self.path if self.edits else self.out / made
        self.old = self.before if self.edits else None

    def run(self, **how):
        """Do it; return what it changed."""
        with FilePoints(self.top, **how) as points:
            if self.edits:
                EDIT[self.name](self.path)
            else:
                assert MAKE[self.name](self.path, self.out) == self.final
        return points.log

    def start_again(self):
        """Put the input back, and nothing beside it."""
        for path in self.files():
            path.unlink()
        self._put_back()

    def _put_back(self):
        self.path.write_bytes(self.before)
        os.utime(self.path, (WHEN, WHEN))  # operations note the version that they read

    def files(self):
        return [path for path in self.top.rglob("*") if path.is_file()]

    def left(self):
        return [path.name for path in self.files() if path not in (self.path, self.final)]

    def content(self):
        return self.final.read_bytes() if self.final.exists() else None

    def check_nothing_happened(self):
        assert self.path.read_bytes() == self.before
        assert self.content() == self.old
        assert all(name.startswith(".") and name.endswith(".partial") for name in self.left())

    def result(self):
        """All that the final file holds, but when it was made."""
        cells = anndata.read_h5ad(self.final)
        for entry in cells.uns.values():
            for name in TIMES if isinstance(entry, dict) else ():
                entry.pop(name, None)
        return cells


@pytest.fixture(params=cases())
def case(request, tmp_path, originals):
    return Case(*request.param, tmp_path, originals)


def test_no_operation_is_left_out():
    names = {name.split(".")[0].split(" ")[0] for name in (*READ, *EDIT, *MAKE)}
    assert names | PURE == set(stream.__all__)


@pytest.mark.sampled(2)
def test_killed_between_any_two_changes(case):
    """What a SIGKILL leaves is what there is between two changes: one run goes by all of these states."""
    old = case.old
    for _ in range(1 if case.edits else 2):  # again, over the output of before
        seen = []
        log = case.run(look=lambda _, seen=seen: seen.append((case.content(), case.path.read_bytes())))
        new = case.content()
        named = [number for number, change in enumerate(log) if change.name == "replace"]
        assert [content for content, _ in seen] == [old if n <= named[0] else new for n in range(len(log))]
        assert len(named) == bool(log)  # nothing is done where it has been made of this file already
        assert {source for _, source in seen} <= {case.before, case.path.read_bytes()}
        assert case.left() == []
        assert undurable(log) == []
        assert {log[number].to for number in named} <= {str(case.final)}
        assert not {str(case.path), str(case.final)} & {change.path for change in log if change.fills}
        if not log or old is not None:
            return
        old = new


def some(log, *, everything):
    """Numbers of changes: all, or the first of each kind, the last, and some between."""
    if everything:
        return range(len(log))
    first = {change.name: number for number, change in reversed([*enumerate(log)])}
    return sorted({*first.values(), len(log) // 3, len(log) - 1})


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.sampled(2)
def test_a_full_disk(case, everything):
    log = case.run()
    new = case.result()
    for number in some(log, everything=everything):
        if log[number].fills:
            case.start_again()
            with pytest.raises(ConfigError, match="no space left") as caught:
                case.run(fail=Failure(number, FULL, full=True))
            assert (caught.value.kind, "\n" in str(caught.value)) == ("disk-full", False)
            case.check_nothing_happened()
            assert case.left() == [], log[number]
    case.run()
    assert_same(case.result(), new)


ERRORS = {
    "interrupted": (KeyboardInterrupt(), KeyboardInterrupt),
    "memory": (MemoryError("no more"), MemoryError),
    "disk": (OSError(errno.EIO, "bad sector"), TransientError),
}


@pytest.mark.parametrize(
    ("error", "everything"),
    [
        pytest.param(*given, marks=() if given == ("interrupted", False) else pytest.mark.long)
        for given in [("interrupted", False), ("interrupted", True), ("memory", False), ("disk", False)]
    ],
)
@pytest.mark.sampled(2)
def test_an_exception(case, error, everything):
    raised, expected = ERRORS[error]
    log = case.run()
    new = case.result()
    named = next(number for number, change in enumerate(log) if change.name == "replace")
    for number in some(log, everything=everything):
        case.start_again()
        told = False
        try:
            case.run(fail=Failure(number, raised))
        except expected:
            told = True
        if not told:  # there was another way to do it
            assert_same(case.result(), new)
        elif number <= named:
            case.check_nothing_happened()
        assert case.left() == [] or log[number].name == "unlink", log[number]
    case.run()
    case.result()


def in_a_child(call):
    """Return how a process ends that does this: 0, 7 of a full disk, or the signal's negative number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        except ConfigError as error:
            code = 7 if error.kind == "disk-full" else 1
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.sampled(3)
def test_really_killed(case):
    log = case.run()
    named = next(number for number, change in enumerate(log) if change.name == "replace")
    case.start_again()
    kill = {"look": lambda number: number == named and os.kill(os.getpid(), signal.SIGKILL)}
    assert in_a_child(lambda: case.run(**kill)) == -signal.SIGKILL
    case.check_nothing_happened()
    assert len(case.left()) == 1
    case.run()
    assert case.left() == []  # it has been swept
    case.result()


@pytest.mark.sampled(3)
def test_a_limit_of_the_system(case):
    case.run()
    size = case.final.stat().st_size
    case.start_again()

    def limited(most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        case.run()

    for most in (1, len(case.before), size - 1) if case.edits else (1, size // 2, size - 1):
        if most < size:
            assert in_a_child(lambda most=most: limited(most)) == 7, (most, size)
            case.check_nothing_happened()
            assert case.left() == []


def counting(reached):
    """Return a profiler that tells `reached` the number of each call by HDF5 of what writes its file."""
    methods = {member.__code__ for member in vars(hdf5.OutputFile).values() if hasattr(member, "__code__")}
    calls = itertools.count()

    def profile(frame, event, _):
        if event == "call" and frame.f_code in methods:
            reached(next(calls))

    return profile


def test_interrupted_inside_of_hdf5(tmp_path, originals):
    """Ctrl-C in what HDF5 calls: an exception there would lose a write without a word, or end the process."""
    case, numbers = Case("write_obs", "csr", tmp_path, originals), []

    def call(reached):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        sys.setprofile(counting(reached))
        try:
            case.run()
        finally:
            sys.setprofile(None)
            time.sleep(0.05)  # for the signal, which comes late

    call(numbers.append)
    new, last = case.result(), numbers[-1]
    ended = []
    for at in (0, last // 2, *range(last - 24, last, 4)):
        case.start_again()
        ended.append(in_a_child(lambda at=at: call(lambda number: number == at and signal.raise_signal(signal.SIGINT))))
        assert ended[-1] in (0, 130), at
        if case.content() == case.before:
            assert ended[-1] == 130, at
        else:
            assert_same(case.result(), new)
        assert case.left() == []
    assert 130 in ended
