from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ingest.cells import read_cells
from ingest.chunk_check import check_index
from ingest.committing import commit_plan, refuse_careless
from ingest.errors import AlreadyExistsError, ConfigError, ConflictError, CorruptError, ForeignPlanError, SourceError
from ingest.genes import Genes
from ingest.layout import PLAN_KEY
from ingest.ledger.ledger import Ledger, put_same_file
from ingest.opened import open_plan
from ingest.plan_index import IndexWriter, PlanIndex
from ingest.plan_rows import plan_batches
from ingest.planning import draft_plan
from ingest.preparing import draft_dataset
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.testing.datasets import write_h5ad_index, write_sources
from ingest.testing.faults import DiedError, FaultyStore, StoreFault
from ingest.vocabulary import GeneRule


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return write_h5ad_index(folder / "index.feather", write_sources(folder, n_files=2, n_cells=12, n_genes=5))


@pytest.fixture(scope="module")
def draft_of(index):
    def draft_of(limit=None, **settings):
        settings.setdefault("cells_per_chunk", 7)
        return draft_dataset(
            read_cells(index, limit=limit), DataSettings(**settings), WorkSettings(workers=1), cache=None
        )

    return draft_of


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "dest")


def keys(store):
    return [stat.key for stat in store.list("")]


def test_a_new_plan_is_four_objects_and_comes_back(store, draft_of, index):
    draft = draft_of()
    opened = commit_plan(store, draft)
    assert opened.plan == draft.plan
    assert opened.genes == draft.genes
    assert [survey.source for survey in opened.surveys] == [survey.source for survey in draft.surveys]
    found = [row for batch in plan_batches(opened) for row in batch.table.to_pylist()]
    assert found == [row for batch in read_cells(index).batches() for row in batch.table.to_pylist()]
    assert sorted(keys(store)) == sorted([*draft.plan.files.values(), PLAN_KEY])


def test_an_index_that_has_lost_its_coordinates_is_damage(store, draft_of, tmp_path):
    opened = commit_plan(store, draft_of())
    key, rows = opened.plan.files["index"], opened.index.rows(0, opened.plan.n_cells)
    with IndexWriter(tmp_path / "index.feather") as writer:
        writer.add(rows.drop_columns(["row"]).combine_chunks().to_batches()[0])
    (tmp_path / "dest" / key).write_bytes((tmp_path / "index.feather").read_bytes())
    damaged = replace(opened, index=PlanIndex(store, key, opened.plan.identity.cells_per_chunk))
    with pytest.raises(CorruptError, match="is damaged") as caught:
        list(plan_batches(damaged))
    assert (caught.value.kind, caught.value.key) == ("plan-damaged", key)


def test_a_driver_overtaken_before_it_began_joins(store, draft_of):
    """There was no plan when it looked for one, and there are chunks when it looks for strangers."""
    first = commit_plan(store, draft_of())
    store.put_new("chunks/chunk_000000.h5ad", b"")
    late = LocalStore(Path(store.url))
    get = late.get
    late.get = lambda _: (setattr(late, "get", get), store.get("not there yet"))
    assert commit_plan(late, draft_of()).plan == first.plan
    late.get = lambda _: (setattr(late, "get", get), store.get("not there yet"))
    with pytest.raises(ForeignPlanError):
        commit_plan(late, draft_of(limit=20))


def test_the_same_again_joins_and_keeps_the_first_provenance(store, draft_of):
    first = commit_plan(store, draft_of())
    before = keys(store)
    later = draft_of()
    object.__setattr__(later.plan.provenance, "created", "another time")
    assert commit_plan(store, later).plan.provenance == first.plan.provenance
    assert keys(store) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": 20}, "cells 24 there, 20 here"),
        ({"cells_per_chunk": 6}, "cells a chunk 7 there, 6 here"),
        ({"dtype": "int32"}, "dtype float32 there, int32 here"),
        ({"genes": GeneRule(max_genes=2)}, "genes 5 there, 2 here"),
        ({"level": 3}, "level 1 there, 3 here"),
    ],
)
def test_another_plan_is_refused_in_words(store, draft_of, change, said):
    commit_plan(store, draft_of())
    before = {key: store.get(key) for key in keys(store)}
    with pytest.raises(ForeignPlanError) as caught:
        commit_plan(store, draft_of(**change))
    assert said in str(caught.value)
    assert store.url in str(caught.value)
    assert "use another destination" in caught.value.hint
    assert {key: store.get(key) for key in keys(store)} == before


def test_many_differences_are_counted(store, draft_of):
    commit_plan(store, draft_of())
    change = draft_of(limit=3, cells_per_chunk=2, dtype="int32", level=9, genes=GeneRule(max_genes=1))
    with pytest.raises(ForeignPlanError, match=r"; and \d more$"):
        commit_plan(store, change)


def test_an_occupied_folder_is_refused_untouched(tmp_path, draft_of):
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "thesis.txt").write_text("mine")
    store = LocalStore(tmp_path / "dest")
    with pytest.raises(ConflictError, match=r"not empty \(thesis.txt\)") as caught:
        commit_plan(store, draft_of())
    assert caught.value.kind == "occupied"
    assert keys(store) == ["thesis.txt"]


def test_a_crash_before_the_plan_leaves_room_for_another(store, draft_of):
    """Any number of the named files may be there: without plan.json there is no plan."""
    for at in range(16):
        with pytest.raises(DiedError):
            commit_plan(FaultyStore(store, StoreFault(at, "before", "die")), draft_of())
        if PLAN_KEY in keys(store):
            break
    else:
        pytest.fail("no crash came after the plan")
    store.delete(PLAN_KEY, expected=store.stat(PLAN_KEY).version)
    assert len(keys(store)) == 4
    assert commit_plan(store, draft_of(cells_per_chunk=5)).plan.identity.cells_per_chunk == 5


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["die", "exists"])
def test_any_crash_and_any_lost_reply_ends_in_the_plan(tmp_path, draft_of, when, how):
    draft = draft_of()
    quiet = FaultyStore(LocalStore(tmp_path / "quiet"))
    commit_plan(quiet, draft)
    for at, operation in enumerate(quiet.log):
        if how == "exists" and (not operation.name.startswith("put_new") or when == "before"):
            continue
        store = LocalStore(tmp_path / f"{at}")
        try:
            opened = commit_plan(FaultyStore(store, StoreFault(at, when, how)), draft)
        except DiedError:
            opened = commit_plan(store, draft)
        assert opened.plan == draft.plan
        assert len(keys(store)) == len(draft.plan.files) + 1


def race(store_of, drafts):
    """Commit all drafts at once from as many threads; return what each got."""
    gate, found = threading.Barrier(len(drafts)), [None] * len(drafts)

    def commit(at):
        gate.wait()
        try:
            found[at] = commit_plan(store_of(), drafts[at])
        except ForeignPlanError as error:
            found[at] = error

    threads = [threading.Thread(target=commit, args=(at,)) for at in range(len(drafts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_equal_plans_that_race_are_one(tmp_path, draft_of):
    for attempt in range(5):
        found = race(lambda n=attempt: LocalStore(tmp_path / f"{n}"), [draft_of() for _ in range(4)])
        assert len({opened.plan.identity.digest for opened in found}) == 1


def test_of_different_plans_that_race_exactly_one_stands(tmp_path, draft_of):
    drafts = [draft_of(cells_per_chunk=size) for size in (4, 5, 6, 7)]
    for attempt in range(5):
        found = race(lambda n=attempt: LocalStore(tmp_path / f"{n}"), drafts)
        winners = [opened for opened in found if not isinstance(opened, ForeignPlanError)]
        assert len(winners) == 1
        standing = open_plan(LocalStore(tmp_path / f"{attempt}")).plan
        assert winners[0].plan == standing
        assert sum(isinstance(lost, ForeignPlanError) for lost in found) == 3


class CarelessStore(LocalStore):
    """Accepts every create-only write, as a store that ignores preconditions does."""

    def put_new(self, key, data):
        try:
            return super().put_new(key, data)
        except AlreadyExistsError:
            return super().replace(key, data, expected=self.stat(key).version)


def test_a_store_that_ignores_preconditions_is_refused(tmp_path, draft_of):
    with pytest.raises(ConfigError) as caught:
        commit_plan(CarelessStore(tmp_path / "a"), draft_of())
    assert caught.value.kind == "store-ignores-preconditions"
    assert "--single-driver" in caught.value.hint
    with pytest.raises(ConfigError, match="ignores preconditions"):
        refuse_careless(CarelessStore(tmp_path / "a"))
    opened = commit_plan(CarelessStore(tmp_path / "a"), draft_of(), single_driver=True)
    assert opened.plan.identity == draft_of().plan.identity
    refuse_careless(LocalStore(tmp_path / "a"))


@pytest.mark.parametrize("role", ["index", "blocks", "survey", "genes"])
def test_files_that_the_plan_names_are_watched(tmp_path, draft_of, role):
    store = LocalStore(tmp_path / "dest")
    draft = draft_of()
    commit_plan(store, draft)
    path = tmp_path / "dest" / draft.plan.files[role]
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :])
        with pytest.raises(CorruptError):
            check_index(open_plan(store))
    path.unlink()
    with pytest.raises(CorruptError):
        open_plan(store)


def test_an_index_that_one_read_finds_damaged_is_read_again(tmp_path, draft_of):
    store = LocalStore(tmp_path / "dest")
    opened = commit_plan(store, draft_of())

    def damaged(times):
        return replace(opened, ledger=Ledger(FaultyStore(store, StoreFault(0, "before", "flip", times=times))))

    check_index(damaged(times=2))  # its length, and its bytes once
    with pytest.raises(CorruptError) as caught:
        check_index(damaged(times=4))
    assert caught.value.kind == "plan-damaged"


def test_what_is_there_already_is_compared_again_before_it_is_another(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(200)))
    store = LocalStore(tmp_path / "dest")
    assert put_same_file(store, "k", tmp_path / "file")
    assert not put_same_file(FaultyStore(store, StoreFault(1, "before", "flip", times=2)), "k", tmp_path / "file")
    with pytest.raises(ConflictError):
        put_same_file(FaultyStore(store, StoreFault(1, "before", "flip", times=3)), "k", tmp_path / "file")


def test_a_plan_of_an_earlier_build_has_no_digests_of_blocks(tmp_path, draft_of):
    draft = draft_of()
    without = {
        name: {role: text for role, text in getattr(draft.plan, name).items() if role != "blocks"}
        for name in ("files", "sha256")
    }
    files = {role: data for role, data in draft.files.items() if role != "blocks"}
    old = replace(draft, plan=replace(draft.plan, **without), files=files)
    opened = commit_plan(LocalStore(tmp_path / "dest"), old)
    assert commit_plan(LocalStore(tmp_path / "dest"), draft).plan == opened.plan == old.plan
    assert len(opened.index.rows(0, opened.plan.n_cells)) == opened.plan.n_cells


def test_no_plan_says_what_to_do(store):
    with pytest.raises(ConfigError) as caught:
        open_plan(store)
    assert caught.value.kind == "no-plan"
    assert "--index" in caught.value.hint


# -- planning ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replan(index):
    def replan(draft, *, surveys=None, **settings):
        settings.setdefault("cells_per_chunk", 7)
        return draft_plan(
            read_cells(index),
            surveys or draft.surveys,
            DataSettings(**settings),
            WorkSettings(),
            created="",
            versions={},
            recorded={},
        )

    return replan


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"cells_per_chunk": 0}, "bad-chunk-size"),
        ({"cells_per_chunk": -1}, "bad-chunk-size"),
        ({"dtype": "int8"}, "bad-dtype"),
        ({"dtype": "uint16", "allow_noninteger": True}, "bad-dtype"),
        ({"format": "zarr"}, "bad-format"),
        ({"codec": "blosc"}, "bad-codec"),
        ({"level": -1}, "bad-level"),
    ],
)
def test_settings_that_cannot_be(draft_of, replan, settings, kind):
    with pytest.raises(ConfigError) as caught:
        replan(draft_of(), **settings)
    assert caught.value.kind == kind


@pytest.mark.parametrize("number", [0, 1])
def test_rows_beyond_a_source(draft_of, replan, number):
    draft = draft_of()
    surveys = [replace(survey, n_obs=11 if at == number else survey.n_obs) for at, survey in enumerate(draft.surveys)]
    with pytest.raises(ConfigError, match="has 11 cells; the index asks for number 11") as caught:
        replan(draft, surveys=surveys)
    assert caught.value.kind == "row-out-of-range"


def test_one_source_with_and_without_its_version(draft_of, replan):
    draft = draft_of()
    with pytest.raises(ConfigError) as caught:
        replan(draft, surveys=[draft.surveys[0], draft.surveys[0]])
    assert caught.value.kind == "duplicate-source"


def test_genes_that_hdf5_cannot_name(draft_of, replan):
    draft = draft_of()
    ids = draft.surveys[0].genes.ids
    bad = Genes(ids, ("a\0b", *ids[1:]), (0,) * len(ids))
    with pytest.raises(SourceError) as caught:
        replan(draft, surveys=[replace(survey, genes=bad) for survey in draft.surveys])
    assert caught.value.kind == "bad-gene-id"


def test_the_same_request_is_the_same_plan(draft_of):
    one, other = draft_of(), draft_of()
    assert one.plan.identity == other.plan.identity
    assert {role: content(data) for role, data in one.files.items()} == {
        role: content(data) for role, data in other.files.items()
    }


def content(data):
    return data if isinstance(data, bytes) else data.read_bytes()
