from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError

from actors import build, worker
from actors.blame import other_build
from actors.build import mismatch, this_build
from actors.pool import RayPool
from ingest.errors import VersionMismatchError
from ingest.testing.pool_conformance import drive, tasks_of
from ingest.testing.scripted_worker import ScriptedFactory

NOT_MADE = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::WorkerActor.__init__()\x1b[39m "
    "(pid=41, ip=10.0.0.7, actor_id=5f, repr=<actors.worker.WorkerActor object>)\n"
    '  File "…", line 1, in …\n{cause}'
)


def died(text):
    error = ActorDiedError()
    error.base_error_msg = error.error_msg = text
    return error


def test_the_same_build_is_no_mismatch():
    assert mismatch(this_build(), dict(this_build()), "n") is None


@pytest.mark.parametrize("name", ["cell-ingest", "sources", "python", "h5py", "tiledbsoma"])
def test_what_differs_is_named_with_both_and_the_node(name):
    error = mismatch(this_build(), this_build() | {name: "other"}, "host-3 (node 7f3a)")
    assert (
        str(error) == f"the driver has {name} {this_build()[name]}, the worker on host-3 (node 7f3a) has {name} other"
    )
    assert (error.kind, error.exit_code) == ("version-mismatch", 1)


def test_what_the_worker_does_not_know_is_a_mismatch():
    older = {name: version for name, version in this_build().items() if name != "sources"}
    assert "has sources none" in str(mismatch(this_build(), older, "n"))


def test_files_that_both_ends_run_are_not_compared():
    assert "sources" not in this_build(sources=False)
    assert mismatch(this_build(sources=False), this_build(), "n") is None


def test_one_changed_line_is_another_build(tmp_path, monkeypatch):
    for package in ("ingest", "index", "actors"):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "deep" / "module.py").write_text("x = 1\n")
        (tmp_path / package / "data.txt").write_text("not code")
    monkeypatch.setattr(
        build.importlib.util,
        "find_spec",
        lambda name: type("Spec", (), {"submodule_search_locations": [str(tmp_path / name)]}),
    )
    digests = []
    for change in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "index" / "deep" / "module.py").write_text(change)
        digests.append(build._sources_digest.__wrapped__())
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(("version", "major"), [("2.3.0", "2"), ("0.68.1", "0.68"), ("26", "26")])
def test_libraries_go_by_their_major_version(monkeypatch, version, major):
    monkeypatch.setattr(build.importlib.metadata, "version", lambda _: version)
    assert build._major("any") == major


def test_a_library_that_is_not_there_is_said(monkeypatch):
    def missing(name):
        raise build.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(build.importlib.metadata, "version", missing)
    assert build._major("any") == "none"


@pytest.mark.parametrize(
    "cause",
    ["ModuleNotFoundError: No module named 'actors'", "TypeError: WorkerActor.__init__() takes 3 positional arguments"],
)
def test_an_actor_that_cannot_be_made_is_of_another_build(cause):
    error = other_build(died(NOT_MADE.format(cause=cause)))
    assert str(error) == f"the node 10.0.0.7 does not have this package, or another version of it ({cause})"
    assert error.kind == "version-mismatch"
    assert other_build(died("The actor died because its node has died.")) is None


@pytest.mark.parametrize(
    "cause", ["OSError: [Errno 116] Stale file handle: '/env/lib/numpy'", "MemoryError", "SystemExit: 1"]
)
def test_trouble_that_passes_is_no_other_build(cause):
    assert other_build(died(NOT_MADE.format(cause=cause))) is None


def test_an_import_error_of_many_lines_is_another_build():
    cause = "ImportError: \n\nIMPORTANT: PLEASE READ THIS\n\nOriginal error was: libfoo.so: cannot open"
    assert other_build(died(NOT_MADE.format(cause=cause))) is not None


@pytest.mark.usefixtures("local_ray")
def test_an_actor_whose_creation_hiccups_is_a_failed_start_and_another_works(tmp_path, monkeypatch):
    class Hiccup(worker.WorkerActor):
        def __init__(self, *arguments):
            flag = tmp_path / "hiccupped"
            if not flag.exists():
                flag.touch()
                raise OSError(116, "Stale file handle")
            super().__init__(*arguments)

    groups = {"control": 1, "watch": 1}
    monkeypatch.setattr(worker, "_RemoteWorker", worker._remote(concurrency_groups=groups)(Hiccup))
    pool = RayPool(ScriptedFactory(str(tmp_path)), 1, num_cpus=0.5)
    try:
        drive(pool, tasks_of([0]))
    finally:
        pool.close()
    assert (tmp_path / "hiccupped").exists()


@pytest.mark.usefixtures("local_ray")
def test_another_build_ends_the_run_before_any_unit_and_is_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.pool.this_build", lambda **_: this_build() | {"sources": "feedbeef", "numba": "0.1"})
    factory = ScriptedFactory(str(tmp_path))
    pool = RayPool(factory, 3, num_cpus=0.5)
    try:
        with pytest.raises(VersionMismatchError, match="the driver has sources feedbeef, numba") as one:
            drive(pool, tasks_of(range(3)))
    finally:
        pool.close()
    assert "(node " in str(one.value)
    assert factory.journal.entries() == [], "its factory was not even opened"


@pytest.mark.usefixtures("local_ray")
def test_a_class_that_takes_other_arguments_is_another_build(tmp_path, monkeypatch):
    """As where the node has an older or a newer package, whose actor the driver's call does not fit."""

    class Older:  # it travels by value
        def __init__(self, *_):
            raise TypeError("this one is older")

        def here(self):
            pass

        def ready(self):
            pass

    monkeypatch.setattr(worker, "_RemoteWorker", worker._remote(Older))
    pool = RayPool(ScriptedFactory(str(tmp_path)), 1, num_cpus=0.5)
    try:
        with pytest.raises(VersionMismatchError, match=r"or another version of it .*this one is older"):
            drive(pool, tasks_of([0]))
    finally:
        pool.close()
