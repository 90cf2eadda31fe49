"""Every operation on DEST goes wrong once, in every way; the same command again ends as if nothing had happened.

On objects in memory: what a folder, S3 and GCS do within an operation is struck in `test_crash_steps`.
"""

from __future__ import annotations

from collections import Counter

import h5py
import pyarrow as pa
import pytest

from ingest.documents import readable
from ingest.errors import AlreadyExistsError
from ingest.layout import PLAN_KEY, RECEIPTS, SUCCESS_KEY, chunk_key, receipt_key
from ingest.ledger.ledger import Ledger
from ingest.opened import open_plan
from ingest.testing.crash_points import READS, Scene, contents, kind_of, opening, play, points, thinned
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.faults import DiedError, FaultyStore, StoreFault, flipped
from ingest.testing.memory_store import MemoryStore
from ingest.verifying import verify_dataset

DEST = "DEST"


def holding(scene):
    store = MemoryStore()
    for key, data in scene.before.items():
        store.put_new(key, data)
    return store


def played(scene, store):
    with opening(lambda: store):
        return play(scene.arguments)


@pytest.fixture(scope="module", autouse=True)
def an_own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return write_h5ad_index(folder / "index.feather", write_sources(folder, n_files=2, n_cells=4, n_genes=5))


@pytest.fixture(scope="module")
def spoilt_index(tmp_path_factory):
    """Return an index of three files, one of which names a gene that it does not have."""
    folder = tmp_path_factory.mktemp("spoilt")
    files = write_sources(folder, n_files=3, n_cells=4, n_genes=5)
    with h5py.File(files[2], "r+") as file:
        file["X/indices"][0] = 5
    return write_h5ad_index(folder / "index.feather", files)


@pytest.fixture(scope="module")
def scenes(index, spoilt_index):
    run = ("run", DEST, "--index", str(index), "-c", "5", "--pool", "serial")
    made = MemoryStore()
    assert played(Scene(run), made) == 0
    whole = dict(made.objects.data)
    damaged = {key: data for key, data in whole.items() if key not in (chunk_key(1, 6, ".h5ad"), "config.json")}
    damaged[chunk_key(0, 6, ".h5ad")] = flipped(whole[chunk_key(0, 6, ".h5ad")])
    damaged[receipt_key(0, 0)] = flipped(whole[receipt_key(0, 0)])
    damaged["chunk_index.json"] = b"{}"
    strays = ("chunks/chunk_000077.h5ad", "_ingest/index-0123456789abcdef.feather")
    littered = {**whole, **dict.fromkeys(strays, b"stray")}
    # Marked at the versions that they get when the scene is set: each object's is its ordinal.
    entries = [{"key": key, "version": f"v{[*littered].index(key)}"} for key in strays]
    marks = {
        f"_ingest/gc/2020-{entry['version']}.json": readable(
            {"marked": "2020-01-01T00:00:00+00:00", "candidates": [entry]}
        )
        for entry in entries
    }
    hvg, qc = ("hvg", DEST, "--pool", "serial", "--n-hvgs"), ("qc", DEST, "--pool", "serial", "--min-genes")
    judged = MemoryStore()
    judged.objects.data.update(whole)
    judged.objects.versions.update(dict.fromkeys(whole, "v"))
    assert played(Scene((*hvg, "2")), judged) == played(Scene((*qc, "1")), judged) == 0
    return {
        "run": Scene(run),
        "run --without-bad": Scene(
            ("run", DEST, "--index", str(spoilt_index), "-c", "3", "--pool", "serial", "--without-bad")
        ),
        "repair": Scene(("repair", DEST, "--pool", "serial"), damaged),
        "gc": Scene(("gc", DEST, "--delete", "--grace", "0"), littered | marks),
        "hvg": Scene((*hvg, "2"), whole),
        "hvg --force": Scene((*hvg, "3", "--force"), dict(judged.objects.data)),
        "qc": Scene((*qc, "1"), whole),
        "qc --force": Scene((*qc, "2", "--force"), dict(judged.objects.data)),
        "verify": Scene(("verify", DEST, "--deep"), whole),
        "status": Scene(("status", DEST), whole),
    }


WRITERS = ("run", "run --without-bad", "repair", "gc", "hvg", "hvg --force", "qc", "qc --force")
LEFT_TO_THE_LONG_RUN = ("run --without-bad", "hvg --force", "qc")


def strike_everywhere(scene, *, every):
    """Play `scene` once for every point, and once more each; return how many there were.

    What had a receipt when the first ended is not put again by the second, unless to repair it.
    """
    quiet = FaultyStore(holding(scene))
    assert played(scene, quiet) == scene.code
    wanted, n_points = contents(quiet), 0
    for fault in points(quiet.log, every=every):
        store = holding(scene)
        place = f"{fault} at {quiet.log[fault.at]}"
        code = None
        try:
            code = played(scene, FaultyStore(store, fault))
        except DiedError:
            assert fault.how == "die", place
        assert fault.how != "exists" or code == scene.code, place
        if code != scene.code:
            again, exists = FaultyStore(store), Ledger(store).done()
            code = played(scene, again)
            put = {operation.key for operation in again.log if operation.name == "put_new"}
            assert "repair" in scene.arguments or not put & {chunk_key(at, 6, ".h5ad") for at in exists}, place
        assert code == scene.code, place
        assert contents(store) == wanted, place
        n_points += 1
    return n_points


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in LEFT_TO_THE_LONG_RUN])
def test_the_same_command_again_ends_as_if_nothing_had_happened(scenes, name):
    assert strike_everywhere(scenes[name], every=False) >= 4


@pytest.mark.long
@pytest.mark.parametrize("name", WRITERS)
def test_whatever_strikes_wherever(scenes, name):
    assert strike_everywhere(scenes[name], every=True) >= 50


@pytest.mark.parametrize("name", ["verify", "status"])
def test_who_only_looks_writes_nothing(scenes, name):
    store = FaultyStore(holding(scenes[name]))
    before = dict(store._store.objects.data)
    assert played(scenes[name], store) == 0
    assert {operation.name for operation in store.log} <= READS
    assert store._store.objects.data == before


def test_a_death_in_every_life_ends_well_all_the_same(scenes):
    """Each run dies a little later than the one before it; progress is never lost."""
    scene = scenes["run"]
    quiet = FaultyStore(holding(scene))
    played(scene, quiet)
    store, finished = holding(scene), set()
    for at in range(0, 10 * len(quiet.log), 5):
        try:
            assert played(scene, FaultyStore(store, StoreFault(at, "after", "die"))) == 0
            break
        except DiedError:
            now = Ledger(store).done()
            assert finished <= now
            finished = now
    assert contents(store) == contents(quiet)
    assert SUCCESS_KEY in contents(store)


def test_a_storm_is_waited_out_or_ends_the_run_for_another_to_go_on(scenes):
    scene = scenes["run"]
    quiet = FaultyStore(holding(scene))
    played(scene, quiet)
    ends = Counter()
    for at in range(0, len(quiet.log), 12):
        store = holding(scene)
        storm = StoreFault(at, "before", "throttle", times=12, retry_after_s=0.0)
        ends[played(scene, FaultyStore(store, storm))] += 1
        assert played(scene, store) == 0
        assert contents(store) == contents(quiet), at
    assert set(ends) <= {0, 1, 3}


# -- stores that break their promises ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flip", pytest.param("truncate", marks=pytest.mark.long)])
def test_damage_that_a_store_delivers_is_never_believed(scenes, how):
    """Each read in turn is damaged: the run says so or is none the worse, and what it wrote is right."""
    scene = scenes["run"]
    quiet = FaultyStore(holding(scene))
    played(scene, quiet)
    noticed = 0
    for at in thinned([kind_of(operation) for operation in quiet.log]):
        operation = quiet.log[at]
        if operation.name not in ("get", "get_range"):
            continue
        store = holding(scene)
        code = played(scene, FaultyStore(store, StoreFault(at, "after", how)))
        noticed += code != 0
        assert played(scene, store) == 0, operation
        assert contents(store) == contents(quiet), operation
    assert noticed


@pytest.mark.parametrize("how", ["flip", pytest.param("truncate", marks=pytest.mark.long)])
def test_damage_that_a_store_accepts_is_found(scenes, how):
    """Each write in turn stores other bytes than were sent, and the store says that all is well."""
    scene = scenes["run"]
    quiet = FaultyStore(holding(scene))
    played(scene, quiet)
    for at in thinned([kind_of(operation) for operation in quiet.log]):
        operation = quiet.log[at]
        if operation.name in READS or operation.key.startswith("_ingest/runs/"):
            continue  # records of runs decide nothing
        store = holding(scene)
        code = played(scene, FaultyStore(store, StoreFault(at, "after", how)))
        if code == 0:
            assert verify_dataset(open_plan(store)).findings or same_table(store, quiet, operation.key), operation
        else:
            assert code in (1, 3), operation


def same_table(store, other, key):
    """Whether two Arrow files differ in padding alone, which no reader looks at."""
    if not key.endswith(".feather"):
        return False
    one, two = (pa.ipc.open_file(where.get(key)).read_all() for where in (store, other))
    return one.equals(two, check_metadata=True)


def test_a_store_that_ignores_a_condition_once_does_no_harm(scenes, capsys):
    """But for the plan, whose second put must be refused: there it is found out."""
    scene = scenes["run"]
    quiet = FaultyStore(holding(scene))
    played(scene, quiet)
    refused, firsts = 0, thinned([kind_of(operation) for operation in quiet.log])
    for at, operation in enumerate(quiet.log):
        if operation.name in READS or (at not in firsts and operation.key != PLAN_KEY):
            continue
        store = holding(scene)
        code = played(scene, FaultyStore(store, StoreFault(at, "after", "ignore")))
        refused += code == 2
        assert code == 0 or "ignores preconditions" in capsys.readouterr().err, operation
        assert played(scene, store) == 0, operation
        assert contents(store) == contents(quiet), operation
    assert refused == 1


# -- the faulty store itself ---------------------------------------------------------------------------------------


def test_a_listing_struck_in_its_middle_delivers_half():
    store = MemoryStore()
    for number in range(6):
        store.put_new(f"k{number}", b"")
    listing = FaultyStore(store, StoreFault(0, "middle", "die")).list("")
    assert [next(listing).key for _ in range(3)] == ["k0", "k1", "k2"]
    with pytest.raises(DiedError):
        next(listing)


def test_an_ignored_condition_overwrites():
    store = MemoryStore()
    store.put_new("k", b"old")
    faulty = FaultyStore(store, StoreFault(0, "after", "ignore"))
    faulty.put_new("k", b"new")
    assert store.get("k") == b"new"
    with pytest.raises(AlreadyExistsError):
        faulty.put_new("k", b"newer")


def test_receipts_are_compared_by_what_they_commit(scenes):
    """They name attempts, which differ from run to run; so would every comparison above."""
    one, other = holding(scenes["run"]), holding(scenes["run"])
    played(scenes["run"], one)
    played(scenes["run"], other)
    key = next(stat.key for stat in one.list(RECEIPTS))
    assert one.get(key) != other.get(key)
    assert contents(one)[key] == contents(other)[key]
