"""What lies within an operation: a process that dies between two steps on files, a cable cut in mid-request."""

from __future__ import annotations

import hashlib
import itertools
import re
from contextlib import contextmanager, suppress

import pytest

from ingest.errors import IngestError
from ingest.layout import SUCCESS_KEY
from ingest.opened import open_plan
from ingest.store import Budget
from ingest.store.gcs import GCSStore
from ingest.store.local import LocalStore
from ingest.store.s3 import S3Store
from ingest.store.url import parse_store_url
from ingest.testing.crash_points import contents, opening, play, thinned
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.fault_proxy import Fault, FaultProxy
from ingest.testing.faults import DiedError
from ingest.testing.file_steps import file_steps
from ingest.verifying import verify_dataset

_number = itertools.count()
ONCE = Budget(attempts=1)
QUICK = Budget(attempts=4, total_s=20.0, first_s=0.01, most_s=0.02)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"), n_files=2, n_cells=4, n_genes=5)


@pytest.fixture(scope="module", autouse=True)
def an_own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def index(files):
    return write_h5ad_index(files[0].parent / "index.feather", files)


@pytest.fixture(scope="module")
def finished(index, tmp_path_factory):
    dest = tmp_path_factory.mktemp("finished") / "dest"
    assert command("run", dest, "--index", index, "-c", 5, "--pool", "serial") == 0
    return dest


def command(*arguments):
    with opening(lambda: LocalStore(arguments[1])):
        return play([str(argument) for argument in arguments])


# -- a folder ------------------------------------------------------------------------------------------------------


def run_into(folder, index, _files, _finished):
    return command("run", folder / "out", "--index", index, "-c", 5, "--pool", "serial")


def index_into(folder, _index, files, _finished):
    return command("index", "h5ad", *files, "-o", folder / "out.feather")


def memmap_into(folder, _index, _files, finished):
    return command("memmap", finished, "-o", folder / "out.scdl", "--pool", "serial")


def left_behind(folder):
    """What anybody sees afterwards: a store's objects, or the bytes of files; not what is hidden or unfinished."""
    if (folder / "out").exists():
        return contents(LocalStore(folder / "out"))
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") or ".partial" in part for part in path.parts)
    }


def kind_of_step(step):
    """Steps on objects of one folder are alike: their temporary files, their links, their own reading."""
    event, path = step.split(" ", 1)
    folder, _, name = path.rpartition("/")
    return event, re.sub(r"[0-9a-f]{6,}|\d+", "#", folder), "tmp" in name or ".partial" in name


@pytest.mark.parametrize(
    ("work", "least"), [(run_into, 12), (index_into, 1), (memmap_into, 5)], ids=["run", "index", "memmap"]
)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["kinds", "every"])
def test_who_dies_between_two_steps_on_files_leaves_what_the_same_command_mends(
    work, least, every, index, files, finished, tmp_path
):
    (tmp_path / "quiet").mkdir()
    with file_steps(tmp_path / "quiet") as quiet:
        assert work(tmp_path / "quiet", index, files, finished) == 0
    wanted = left_behind(tmp_path / "quiet")
    kinds = [kind_of_step(step) for step in quiet.log]
    assert len(set(kinds)) >= least
    for at in range(len(kinds)) if every else thinned(kinds):
        folder = tmp_path / str(at)
        folder.mkdir()
        with file_steps(folder, die_at=at) as steps, suppress(DiedError):
            work(folder, index, files, finished)
        place = f"step {at}: {quiet.log[at]}"
        assert steps.dead, place
        seen = left_behind(folder)
        whole = {key for key in seen if key in wanted and not key.startswith("_ingest/")}
        assert all(seen[key] == wanted[key] for key in whole), f"{place}: half of something can be seen"
        assert work(folder, index, files, finished) == 0, place
        assert left_behind(folder) == wanted, place


def test_the_dead_do_nothing_more(tmp_path):
    """A temporary file that `finally` would have removed is still there."""
    store = LocalStore(tmp_path / "dest")
    store.put_new("first", b"")
    with file_steps(tmp_path / "dest") as quiet:
        store.put_new("second", b"")
    at = next(number for number, step in enumerate(quiet.log) if step.startswith("os.link"))
    with file_steps(tmp_path / "dest", die_at=at), pytest.raises(DiedError):
        store.put_new("third", b"whole")
    assert [stat.key for stat in store.list("")] == ["first", "second"]
    ((left, _),) = store.list_temporaries()
    assert left.read_bytes() == b"whole"


# -- S3 and GCS ----------------------------------------------------------------------------------------------------


class Remote:
    """A bucket behind a proxy, for runs of the command line."""

    def __init__(self, server, opened, proxy, index):
        self.server, self.opened, self.proxy, self.index = server, opened, proxy, index
        self.bucket = server.create_bucket("crashes")

    @contextmanager
    def store(self, name, budget=ONCE, *, direct=False):
        endpoint = self.server.endpoint_url if direct else self.proxy.endpoint_url
        store = self.opened(parse_store_url(f"{self.bucket}/{name}"), endpoint_url=endpoint, budget=budget)
        try:
            yield store
        finally:
            store.close()

    def run(self, name, budget=ONCE):
        """Run into `name`; None when the store was never reached."""
        opened = []

        def open_store():
            endpoint = self.proxy.endpoint_url
            opened.append(self.opened(parse_store_url(f"{self.bucket}/{name}"), endpoint_url=endpoint, budget=budget))
            return opened[-1]

        try:
            with opening(open_store):
                return play(["run", name, "--index", str(self.index), "-c", "5", "--pool", "serial"])
        finally:
            for store in opened:
                store.close()

    def strike(self, at, effect, *, cuts):
        """Let the request of this number from now, and if it cuts all that follow, go wrong."""
        self.proxy.is_cut = False
        self.proxy.seen.clear()
        self.proxy.faults[:] = [Fault(effect, lambda _: len(self.proxy.seen) == at + 1, cuts=cuts)]

    def mend(self):
        self.proxy.is_cut = False
        self.proxy.faults.clear()


@pytest.fixture(params=["s3", "gcs"])
def remote(request, s3_server, gcs_server, index, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    server, opened = (s3_server, S3Store) if request.param == "s3" else (gcs_server, GCSStore)
    with FaultProxy(server.endpoint_url) as proxy:
        yield Remote(server, opened, proxy, index)


def kind_of_request(seen):
    path = re.sub(r"dest-\d+", "DEST", seen.path)
    return seen.method, re.sub(r"[0-9a-f]{8,}|\d+|upload_id=[^&]*", "#", path), b"chunks%2F" in seen.body


EFFECTS = ("lose-request", "lose-middle", "lose-reply")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "every"])
def test_a_client_that_is_gone_from_one_request_on_leaves_what_the_next_one_finishes(remote, every):
    """Before a request, with half of it sent, or with its reply lost; the same command then goes on."""
    remote.strike(-1, "lose-request", cuts=False)
    name = f"dest-{next(_number)}"
    assert remote.run(name) == 0
    requests = list(remote.proxy.seen)
    with remote.store(name, direct=True) as store:
        wanted = contents(store)
    firsts = thinned([kind_of_request(seen) for seen in requests])
    places = [(at, effect) for at in range(len(requests)) for effect in EFFECTS]
    if not every:  # one way for every kind of request: what a reply's loss leaves, its request's does not
        writes = [at for at in firsts if requests[at].method in ("PUT", "POST")]
        places = [(at, EFFECTS[number % 3]) for number, at in enumerate(writes) if number % 3 == 0]
        places += [(writes[-1], "lose-reply"), (firsts[1], "lose-middle")]
    for at, effect in places:
        name = f"dest-{next(_number)}"
        remote.strike(at, effect, cuts=True)
        with suppress(IngestError):
            assert remote.run(name) != 0 or remote.proxy.is_cut, (at, effect)
        remote.mend()
        assert remote.run(name) == 0, (requests[at].path, effect)
        with remote.store(name, direct=True) as store:
            assert contents(store) == wanted, (requests[at].path, effect)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_outlives_a_lost_reply(remote, every):
    remote.strike(-1, "lose-request", cuts=False)
    assert remote.run(f"dest-{next(_number)}") == 0
    for at in range(3, len(remote.proxy.seen), every):
        name = f"dest-{next(_number)}"
        remote.strike(at, "lose-reply", cuts=False)
        assert remote.run(name, QUICK) == 0, at
        with remote.store(name, direct=True) as store:
            assert verify_dataset(open_plan(store)).exit_code == 0, at
            assert store.stat(SUCCESS_KEY)
        remote.mend()
