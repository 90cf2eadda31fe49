"""Archives one after the other: as bionemo-scdl where it works, right where it does not, whole whatever breaks off."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset as Theirs

from ingest.errors import ConfigError, CorruptError
from ingest.load.memmap import SingleCellCollection, SingleCellMemMapDataset
from ingest.load.memmap.revise import recover
from ingest.testing.scdl_files import ScdlFile, write_scdl_file

FILES = {
    "a": ScdlFile(n_cells=9, n_genes=40, neighbors=True, seed=0),
    "b": ScdlFile(n_cells=7, n_genes=40, neighbors=True, seed=2),  # the same genes
    "c": ScdlFile(n_cells=5, n_genes=300, obs_columns=("note",), seed=1),  # others, and columns of 16 bits
}
ARRAYS = ("data", "row_index", "col_index")


@pytest.fixture
def h5ads(tmp_path):
    folder = tmp_path / "h5ads"
    (folder / "deep").mkdir(parents=True)
    for name, file in FILES.items():
        write_scdl_file(folder / ("deep" if name == "b" else "") / f"{name}.h5ad", file)
    return folder


def ours(tmp_path, h5ads, names="abc", **options):
    found = {path.stem: path for path in h5ads.rglob("*.h5ad")}
    return [SingleCellMemMapDataset(tmp_path / "made" / name, str(found[name]), **options) for name in names]


def state(archive):
    """Everything a reader sees."""
    rows = [archive.get_row(row, True, None, True, None) for row in range(len(archive))]
    features = [[str(value) for part in row[1:] for value in part] for row in rows]
    return (
        {name: str(getattr(archive, name).dtype) for name in ARRAYS},
        [[part.tolist() for part in row[0]] for row in rows],
        features,
    )


@pytest.mark.parametrize("names", ["ab", "ba", "abc", "cab", "cc"])
def test_as_theirs(tmp_path, h5ads, names):
    found = {path.stem: path for path in h5ads.rglob("*.h5ad")}
    made = [Theirs(tmp_path / f"theirs{at}", str(found[name])) for at, name in enumerate(names)]
    expected = made[0]
    expected.concat(made[1:])
    mine = [SingleCellMemMapDataset(tmp_path / f"ours{at}", str(found[name])) for at, name in enumerate(names)]
    first = mine[0]
    first.concat(mine[1:])
    assert first.dtypes == expected.dtypes
    for name in ARRAYS:
        assert np.array_equal(getattr(first, name), getattr(expected, name))
    assert first.shape() == expected.shape()
    assert state(first) == state(Theirs(tmp_path / "theirs0")) == state(Theirs(tmp_path / "ours0"))


def test_onto_an_archive_that_was_opened(tmp_path, h5ads):
    ours(tmp_path, h5ads)
    opened = [SingleCellMemMapDataset(tmp_path / "made" / name) for name in "abc"]
    opened[0].concat(opened[1])
    opened[0].concat([opened[2]])
    for again in (SingleCellMemMapDataset(tmp_path / "made" / "a"), Theirs(tmp_path / "made" / "a")):
        assert len(again) == 21
        assert again.metadata == {"num_rows": 21}
        assert {array.name: array.length for array in again.header.arrays}["ROWPTR"] == 22


def test_neighbors_move_with_their_cells(tmp_path, h5ads):
    first, second, none = ours(tmp_path, h5ads, "ab", load_neighbors=True) + ours(tmp_path, h5ads, "c")
    before = [second.get_neighbor_indices_for_cell(cell).tolist() for cell in range(7)]
    weights = [second.get_neighbor_weights_for_cell(cell).tolist() for cell in range(7)]
    first.concat([none, second])
    assert len(first) == 21
    assert [first.get_neighbor_indices_for_cell(cell + 14).tolist() for cell in range(7)] == [
        [neighbor + 14 for neighbor in row] for row in before
    ]
    assert [first.get_neighbor_weights_for_cell(cell + 14).tolist() for cell in range(7)] == weights
    assert not any(len(first.get_neighbor_indices_for_cell(cell)) for cell in range(9, 14))
    assert first.get_neighbor_stats() == Theirs(tmp_path / "made" / "a", load_neighbors=True).get_neighbor_stats()


def test_elsewhere_leaves_the_first_as_it_is(tmp_path, h5ads):
    first, *others = ours(tmp_path, h5ads)
    before = state(first)
    first.concat(others, output_path=tmp_path / "all")
    assert first.data_path == tmp_path / "all"
    assert len(first) == 21
    assert state(SingleCellMemMapDataset(tmp_path / "made" / "a")) == before
    with pytest.raises(FileExistsError):
        first.concat(others, output_path=tmp_path / "all")


def test_moved_and_destroyed(tmp_path, h5ads):
    first, *others = ours(tmp_path, h5ads)
    first.concat(others, output_path=tmp_path / "new" / "all", destroy_on_copy=True)
    assert len(SingleCellMemMapDataset(tmp_path / "new" / "all")) == 21
    assert not (tmp_path / "made" / "a").exists()
    assert not (tmp_path / "made" / "b" / "data.npy").exists()


def test_to_itself(tmp_path, h5ads):
    [first] = ours(tmp_path, h5ads, "a")
    rows = state(first)[1]
    first.concat(first)
    assert state(first)[1] == rows + rows


def test_nothing_destroys_itself(tmp_path, h5ads):
    [first] = ours(tmp_path, h5ads, "a")
    with pytest.raises(ValueError, match="appended to itself"):
        first.concat(first, destroy_on_copy=True)
    made = SingleCellCollection(tmp_path / "work")
    made.load_h5ad(h5ads / "a.h5ad")
    with pytest.raises(ValueError, match="which destroy_on_copy would destroy"):
        made.flatten(tmp_path / "work" / "flat", destroy_on_copy=True)
    for name in ("one", "two"):
        made.flatten(tmp_path / name)
        assert len(SingleCellMemMapDataset(tmp_path / name)) == 9


def test_what_is_copied_lives_by_itself(tmp_path, h5ads):
    first, second, third = ours(tmp_path, h5ads, "acb")
    first.concat(second, output_path=tmp_path / "all")
    files = [
        {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "all", tmp_path / "made" / "a", tmp_path / "made" / "c")
    ]
    assert not files[0] & (files[1] | files[2])
    third.concat(second)
    assert len(SingleCellMemMapDataset(tmp_path / "made" / "c").obs_features()) == 1


def test_entries_that_are_no_rows(tmp_path, h5ads):
    [second] = ours(tmp_path, h5ads, "b")
    made = SingleCellMemMapDataset(tmp_path / "sizes", num_elements=10, num_rows=2)
    made.row_index[:] = [0, 2, 5]
    made.save()
    for one, other in ((made, second), (second, made)):
        with pytest.raises(CorruptError, match="has 10 entries, its rows end at 5"):
            one.concat(other)


def test_a_full_disk_is_said_and_nothing_is_changed(tmp_path, h5ads):
    first, second = ours(tmp_path, h5ads, "ab")
    before = state(first)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (second.data.nbytes, limits[1]))
    try:
        with pytest.raises(ConfigError, match="no space left") as caught:
            first.concat(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.kind == "disk-full"
    assert state(first) == state(SingleCellMemMapDataset(tmp_path / "made" / "a")) == before


def test_what_does_not_go_together(tmp_path, h5ads):
    [first] = ours(tmp_path, h5ads, "a")
    found = {path.stem: path for path in h5ads.rglob("*.h5ad")}
    whole = SingleCellMemMapDataset(tmp_path / "whole", str(found["b"]), data_dtype="uint8")
    with pytest.raises(ValueError, match="mix of int and float dtypes") as caught:
        first.concat(whole)
    assert "Float Data datasets: a; Int Data datasets: whole" in " ".join(str(caught.value).split())
    with pytest.raises(ValueError, match="Expecting either a"):
        first.concat("whole")
    with pytest.raises(ValueError, match="Expecting either a"):
        first.concat([Theirs(tmp_path / "made" / "a")])
    whole.cast_data_to_dtype("float64")
    first.concat(whole)
    assert first.dtypes["data.npy"] == "float64"


def test_many_blocks_then_more(tmp_path):
    """Ten blocks number their files with two digits: those of one digit must not stay."""
    made = []
    for number in range(12):
        path = tmp_path / f"{number}.h5ad"
        write_scdl_file(path, ScdlFile(n_cells=3, n_genes=20 + number, seed=number))
        made.append(SingleCellMemMapDataset(tmp_path / f"a{number}", str(path)))
    made[0].concat(made[1:5])
    made[0].concat(made[5:])
    for again in (SingleCellMemMapDataset(tmp_path / "a0"), Theirs(tmp_path / "a0")):
        assert again.shape() == (36, [20 + number for number in range(12)])
        assert len(again.get_row(35, True, ["feature_id"])[1][0]) == 31


def killed_at(step, folder, others):
    """Append in a child that dies at the `step`-th change of the disk; return whether it came that far."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 9
    try:
        left = [step]

        def dying(real):
            def change(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return real(*arguments, **options)

            return change

        for owner, name in (
            (Path, "rename"),
            (Path, "unlink"),
            (os, "fsync"),
            (os, "truncate"),
            (shutil, "rmtree"),
            (Path, "write_bytes"),
        ):
            setattr(owner, name, dying(getattr(owner, name)))
        SingleCellMemMapDataset(folder).concat([SingleCellMemMapDataset(other) for other in others])
        os._exit(0)
    except BaseException:  # noqa: BLE001 # a forked child must not go on as another pytest
        os._exit(1)


@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.long) for first in (1, 2))], ids="every third from {}".format
)
def test_whatever_it_dies_at_it_is_undone_or_done(tmp_path, h5ads, first):
    ours(tmp_path, h5ads, "abc", load_neighbors=False)
    made = tmp_path / "made"
    before = state(SingleCellMemMapDataset(made / "a"))
    whole = tmp_path / "whole"
    shutil.copytree(made / "a", whole)
    SingleCellMemMapDataset(whole).concat([SingleCellMemMapDataset(made / name) for name in "bc"])
    after = state(SingleCellMemMapDataset(whole))
    found = []
    for step in range(first, 200, 3):
        tried = tmp_path / f"tried{step}"
        shutil.copytree(made / "a", tried)
        if not killed_at(step, tried, [made / "b", made / "c"]):
            break
        finished_for_theirs = (tried / "metadata.json").exists()
        if finished_for_theirs:
            assert state(Theirs(tried)) in (before, after)
        opened = state(SingleCellMemMapDataset(tried))
        assert opened in (before, after)
        assert state(Theirs(tried)) == opened
        found.append(opened == after)
        assert not recover(tried)
        shutil.rmtree(tried)
    assert state(SingleCellMemMapDataset(tried)) == after
    assert found == sorted(found)  # undone up to some step, done from there on
    assert set(found) == {False, True}


def test_a_journal_that_is_damaged(tmp_path, h5ads):
    [first] = ours(tmp_path, h5ads, "a")
    (Path(first.data_path) / "revision.json").write_text('{"sizes": {"../a": 0}}')
    with pytest.raises(CorruptError, match=r"revision\.json is damaged"):
        SingleCellMemMapDataset(first.data_path)


@pytest.mark.parametrize("use_processes", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_collection_as_theirs(tmp_path, h5ads, use_processes):
    from bionemo.scdl.io.single_cell_collection import SingleCellCollection as TheirCollection

    theirs = TheirCollection(tmp_path / "theirs")
    theirs.load_h5ad_multi(h5ads, max_workers=1)
    mine = SingleCellCollection(tmp_path / "ours")
    mine.load_h5ad_multi(h5ads, max_workers=2, use_processes=use_processes)
    assert [path.name for path in mine.fname_to_mmap] == [path.name for path in theirs.fname_to_mmap]
    for said in ("shape", "number_of_values", "number_nonzero_values", "number_of_rows", "sparsity", "version"):
        assert getattr(mine, said)() == getattr(theirs, said)()
    theirs.flatten(tmp_path / "their_all", destroy_on_copy=True)
    mine.flatten(tmp_path / "our_all", destroy_on_copy=True)
    assert not (tmp_path / "ours").exists()
    assert state(SingleCellMemMapDataset(tmp_path / "our_all")) == state(Theirs(tmp_path / "their_all"))
    if use_processes:
        return
    one = SingleCellCollection(tmp_path / "one")
    one.load_h5ad(h5ads / "a.h5ad")
    one.flatten(tmp_path / "one_all")
    assert len(SingleCellMemMapDataset(tmp_path / "one_all")) == 9


def test_what_a_collection_refuses(tmp_path, h5ads):
    empty = SingleCellCollection(tmp_path / "work")
    assert empty.shape() == (0, [0])
    assert empty.sparsity() == 0.0
    with pytest.raises(ValueError, match="no archives to flatten"):
        empty.flatten(tmp_path / "all")
    with pytest.raises(FileNotFoundError, match="There are no h5ad files in"):
        empty.load_h5ad_multi(tmp_path / "work")
    (h5ads / "broken.h5ad").write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match=r"Error in processing file .*broken\.h5ad"):
        empty.load_h5ad_multi(h5ads)
    shutil.copy(h5ads / "a.h5ad", h5ads / "deep" / "a.h5ad")
    with pytest.raises(FileExistsError, match=r"/a$"):
        SingleCellCollection(tmp_path / "again").load_h5ad_multi(h5ads)
