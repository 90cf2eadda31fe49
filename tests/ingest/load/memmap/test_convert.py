"""Archives of datasets and files: bionemo-scdl's own conversion of the same, whole or not at all, and resumable."""

from __future__ import annotations

import json
import shutil
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    ForeignPlanError,
    SourceError,
)
from ingest.load.memmap.archive import ArrayFiles
from ingest.load.memmap.convert import finish as finish_module
from ingest.load.memmap.convert import plan as plan_module
from ingest.load.memmap.convert import run as run_module
from ingest.load.memmap.convert import workplace as workplace_module
from ingest.load.memmap.convert.api import create_archive, local_pool
from ingest.load.memmap.convert.opening import ReadOptions
from ingest.load.memmap.convert.run import run_conversion
from ingest.load.memmap.convert.survey import draft_plan
from ingest.load.memmap.convert.workplace import PLAN_NAME, Workplace
from ingest.load.memmap.names import FileNames
from ingest.serial_pool import SerialPool
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.h5ad_files import sample_counts, sample_obs
from ingest.testing.shelf import Shelf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bionemo.scdl.io.single_cell_collection import SingleCellCollection as TheirCollection
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset as TheirDataset

ARRAYS = [FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("convert"))


@pytest.fixture
def small_parts(monkeypatch):
    """Many parts: no more than a chunk each."""
    default = plan_module.even_rows.__defaults__
    monkeypatch.setattr(plan_module.even_rows, "__defaults__", (10,))
    monkeypatch.setattr(plan_module.join_cuts, "__defaults__", (1,))
    assert default == (plan_module.PART_ENTRIES,)


class Watching:
    """An observer that remembers."""

    def __init__(self):
        self.rows, self.troubles, self.said = [], [], []

    def began(self, _plan, n_done, n_workers):
        self.said.append((n_done, n_workers))

    def reached(self, n_rows):
        self.rows.append(n_rows)

    def troubled(self, failure, retried):
        self.troubles.append((failure.kind, failure.chunks, retried))

    def draining(self, _n_units):
        self.said.append("draining")

    def finishing(self):
        self.said.append("finishing")


def run(sources, path, *, watching=None, options=None, stop=lambda: False, open_pool=None, **settings):
    options = options or ReadOptions()
    plan = draft_plan([sources] if isinstance(sources, (str, Path)) else sources, options, **settings)
    pool = open_pool or local_pool("serial")
    return run_conversion(plan, path, options, pool, watching or Watching(), workers=1, stop_requested=stop)


def write_file(path, n_cells=30, n_genes=12, *, seed=0, raw=True, obs=None, scale=1.0, genes=None, obsp=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = sample_counts(n_cells, n_genes, density=0.4, seed=seed) * np.float32(scale)
    var = pd.DataFrame(
        {"symbol": [f"g{n}" for n in range(n_genes)]}, index=genes or [f"ENSG{n}" for n in range(n_genes)]
    )
    cells = anndata.AnnData(counts, obs=sample_obs(n_cells, seed=seed) if obs is None else obs, var=var)
    if raw:
        cells.raw = cells.copy()
        cells.X = sparse.csr_matrix(np.log1p(counts.toarray()))
    for key, matrix in (obsp or {}).items():
        cells.obsp[key] = matrix
    cells.write_h5ad(path, compression="gzip")
    return path


def theirs_of(folder, path, tmp_path, **options):
    """Convert a folder by bionemo-scdl, as its script does."""
    collection = TheirCollection(str(tmp_path / "collection"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        collection.load_h5ad_multi(str(folder), max_workers=1, **options)
        collection.flatten(str(path), destroy_on_copy=True)
    return [str(one.message) for one in said if "Downcasted" in str(one.message)]


def open_theirs(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TheirDataset(str(path), **options)


def assert_same_arrays(ours, theirs):
    for name in ARRAYS:
        assert (ours / name.value).read_bytes() == (theirs / name.value).read_bytes(), name
    # Of several files theirs says the rows of the first.
    rows = (ours / "row_ptr.npy").stat().st_size // np.dtype(open_theirs(ours).row_index.dtype).itemsize - 1
    assert json.loads((ours / "metadata.json").read_text()) == {"num_rows": rows}
    assert (ours / "header.sch").read_bytes() == (theirs / "header.sch").read_bytes()


def assert_same_features(ours, theirs):
    """Both opened by bionemo-scdl."""
    for name in ("var_features", "obs_features"):
        one, other = getattr(ours, name)(), getattr(theirs, name)()
        assert len(one) == len(other)
        assert one._cumulative_sum_index.tolist() == other._cumulative_sum_index.tolist()
        for mine, their in zip(one._feature_arr, other._feature_arr, strict=True):
            assert list(mine) == list(their)
            for column in mine:
                np.testing.assert_array_equal(mine[column], their[column])


# -- the same as bionemo-scdl ---------------------------------------------------------------------------------------


def test_chunks_as_bionemo_scdl_converts_them(shelf, tmp_path):
    dest = shelf.made("float32-deflate")
    ours = create_archive(dest, tmp_path / "ours")
    theirs_of(dest / "chunks", tmp_path / "theirs", tmp_path, use_X_not_raw=True)
    assert ours == tmp_path / "ours"
    for name in ARRAYS:
        assert (ours / name.value).read_bytes() == (tmp_path / "theirs" / name.value).read_bytes()
    opened, theirs, plain = open_theirs(ours), open_theirs(tmp_path / "theirs"), shelf.plain("float32-deflate")
    assert opened.shape() == theirs.shape() == (106, [40])
    row, var, obs = opened.get_row(70, True, ["feature_id"], True, ["cell_id", "cell_type", "score"])
    assert (row[0] == theirs.get_row(70)[0][0]).all()
    assert var[0].tolist() == list(plain.genes)
    assert obs == [plain.names[70], plain.obs["cell_type"].iloc[70], plain.obs["score"].iloc[70]]
    names = opened.obs_features()[0:106][0][0]["cell_id"]
    assert names.tolist() == plain.names


@pytest.mark.parametrize("pool", ["serial", "threads", "processes"])
def test_folders_of_files_as_bionemo_scdl_converts_them(tmp_path, pool):
    """Sorted at any depth; blocks of like features joined, of other genes apart, whatever the pool."""
    folder = tmp_path / "plates"
    write_file(folder / "b.h5ad", seed=1)
    write_file(folder / "a" / "z.h5ad", seed=2, n_cells=7)
    write_file(folder / "a.h5ad", seed=3)
    write_file(folder / "c" / "wide.h5ad", seed=4, n_genes=300)
    write_file(folder / "c" / "wider.h5ad", seed=5, n_genes=300, obs=pd.DataFrame(index=[f"c{n}" for n in range(30)]))
    theirs_of(folder, tmp_path / "theirs", tmp_path)
    ours = create_archive(folder, tmp_path / "ours", pool=pool, workers=2)
    assert_same_arrays(ours, tmp_path / "theirs")
    assert_same_features(open_theirs(ours), open_theirs(tmp_path / "theirs"))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.tuples(st.integers(1, 40), st.sampled_from([3, 12, 300])), min_size=1, max_size=3),
    dtype=st.sampled_from(["uint8", "uint16", "uint64", "float16", "float32", "float64"]),
    part=st.integers(1, 200),
    use_x=st.booleans(),
)
def test_whatever_files_and_parts(tmp_path_factory, files, dtype, part, use_x):
    tmp_path = tmp_path_factory.mktemp("any")
    for number, (n_cells, n_genes) in enumerate(files):
        obs = pd.DataFrame({"n": range(n_cells)}, index=[f"c{n}" for n in range(n_cells)])
        path = write_file(tmp_path / "in" / f"{number}.h5ad", n_cells, n_genes, seed=number, obs=obs)
        if not anndata.read_h5ad(path).raw.X.nnz:
            return
    said = theirs_of(tmp_path / "in", tmp_path / "theirs", tmp_path, data_dtype=dtype, use_X_not_raw=use_x)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as ours_said:
        warnings.simplefilter("always")
        patch.setattr(plan_module.even_rows, "__defaults__", (part,))
        ours = create_archive(
            tmp_path / "in", tmp_path / "ours", data_dtype=dtype, use_X_not_raw=use_x, allow_lossy=True, pool="serial"
        )
    assert_same_arrays(ours, tmp_path / "theirs")
    assert_same_features(open_theirs(ours), open_theirs(tmp_path / "theirs"))
    texts = [str(one.message).partition("h5ad: ")[2] for one in ours_said if "Downcasted" in str(one.message)]
    assert texts == [text for text in said if text.startswith("Full Dataset")]


def test_chunks_and_files_in_one_archive(shelf, tmp_path):
    """A ragged one: each source its own genes."""
    file = write_file(tmp_path / "a.h5ad", n_cells=9)
    path = create_archive(
        [file, shelf.made("h5-lz4"), shelf.made("float32-none")], tmp_path / "mixed", data_dtype="uint32"
    )
    opened = open_theirs(path)
    assert opened.shape() == (9 + 106 + 106, [12, 40])
    both = [shelf.plain(kind).matrix for kind in ("h5-lz4", "float32-none")]
    for row in (9, 60, 114, 115, 220):
        plain = both[(row - 9) // 106][(row - 9) % 106]
        (values, columns), _, _ = opened.get_row(row)
        assert values.tolist() == plain.data.tolist()
        assert columns.tolist() == plain.indices.tolist()


def test_neighbours_of_several_files_stay_in_their_file(tmp_path):
    rng = np.random.default_rng(3)
    pairs = [sparse.random(n, n, 0.2, format="csr", dtype=np.float32, random_state=rng) for n in (20, 30)]
    files = [
        write_file(tmp_path / "a.h5ad", 20, obsp={"knn": pairs[0]}),
        write_file(tmp_path / "b.h5ad", 10),
        write_file(tmp_path / "c.h5ad", 30, obsp={"knn": pairs[1]}),
    ]
    with pytest.warns(UserWarning, match="Neighbor key 'knn' not found"):
        path = create_archive(files, tmp_path / "made", neighbor_key="knn")
    opened = open_theirs(path, load_neighbors=True, neighbor_key="knn")
    whole = sparse.block_diag([pairs[0], sparse.csr_matrix((10, 10)), pairs[1]], format="csr")
    for row in range(60):
        mine = slice(whole.indptr[row], whole.indptr[row + 1])
        assert opened.get_neighbor_indices_for_cell(row).tolist() == whole.indices[mine].tolist()
        assert opened.get_neighbor_weights_for_cell(row).tolist() == whole.data[mine].astype(np.float32).tolist()


def test_without_any_neighbours_nothing_is_begun(tmp_path):
    file = write_file(tmp_path / "a.h5ad")
    with pytest.raises(ConfigError, match=r"no source has obsp\['knn'\]") as caught:
        create_archive(file, tmp_path / "made", neighbor_key="knn")
    assert caught.value.kind == "no-neighbors"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]


# -- values that do not survive -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_parts")
def test_a_value_that_the_type_does_not_hold_is_an_error_that_names_it(tmp_path):
    file = write_file(tmp_path / "a.h5ad", scale=1.5)
    raw = anndata.read_h5ad(file).raw.X
    with pytest.raises(SourceError) as caught:
        create_archive(file, tmp_path / "made", data_dtype="uint8", pool="serial")
    assert caught.value.kind == "lossy-cast"
    assert str(caught.value).startswith(f"{file}: row ")
    assert "which uint8 changes by 0.5" in str(caught.value)
    row = int(str(caught.value).split("row ")[1].split()[0])
    assert float(str(caught.value).split("holds ")[1].split(",")[0]) in raw[row].data
    assert "--allow-lossy" in caught.value.hint
    assert not (tmp_path / "made").exists()
    with pytest.warns(UserWarning, match=r"Full Dataset: Downcasted .* Max abs diff: 0.5$"):
        create_archive(file, tmp_path / "made", data_dtype="uint8", allow_lossy=True)
    assert (tmp_path / "made").exists()


@pytest.mark.usefixtures("small_parts")
def test_after_an_error_nobody_is_at_work(tmp_path, small_parts, monkeypatch):  # noqa: ARG001 # several parts
    """A thread that is left in the midst of HDF5 keeps h5py's lock, for which the end of the process waits."""
    from ingest.load.memmap.convert.h5ad import H5adRows

    files = [write_file(tmp_path / "a.h5ad", scale=1.5)]
    real, slow = H5adRows.write, threading.Event()

    def write(self, place, into, **options):
        if place.first_row:
            slow.set()
            time.sleep(0.5)
        else:
            slow.wait(120)
        return real(self, place, into, **options)

    monkeypatch.setattr(H5adRows, "write", write)
    with pytest.raises(SourceError, match="which uint8 changes by"):
        create_archive(files, tmp_path / "made", data_dtype="uint8", workers=2)
    assert slow.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unit-")]


def test_what_was_allowed_once_is_refused_by_who_does_not_allow_it(tmp_path):
    files = [write_file(tmp_path / "a.h5ad", 3, scale=1.5), write_file(tmp_path / "b.h5ad")]
    asked = iter([False] * 2)
    plan = draft_plan(files, ReadOptions(), data_dtype="uint8")
    made = run_conversion(
        plan,
        tmp_path / "made",
        ReadOptions(),
        local_pool("serial"),
        Watching(),
        allow_lossy=True,
        stop_requested=lambda: next(asked, True),
    )
    assert (made.finished, list(made.lossy)) == (False, [0])
    with pytest.raises(SourceError, match=r"a\.h5ad: row .* which uint8 changes by"):
        create_archive(files, tmp_path / "made", data_dtype="uint8", pool="serial")


def test_auto_takes_the_smallest_type_that_receipts_know(shelf, tmp_path):
    found = {}
    for kind in ("float32-deflate", "int32-lz4"):
        path = create_archive(shelf.made(kind), tmp_path / kind, data_dtype="auto")
        found[kind] = open_theirs(path).data.dtype.name
    assert found == {"float32-deflate": "uint8", "int32-lz4": "uint32"}
    both = create_archive([shelf.made(kind) for kind in found], tmp_path / "both", data_dtype="auto")
    assert open_theirs(both).data.dtype.name == "uint32"
    with pytest.raises(ConfigError, match="may hold fractions") as caught:
        create_archive(shelf.made("fractions-lz4"), tmp_path / "x", data_dtype="auto")
    assert caught.value.kind == "auto-dtype"
    with pytest.raises(ConfigError, match="not known before it is read"):
        create_archive(write_file(tmp_path / "a.h5ad"), tmp_path / "x", data_dtype="auto")


# -- interrupted, resumed, refused ----------------------------------------------------------------------------------


@pytest.fixture
def dest(shelf) -> Path:
    return shelf.made("float32-deflate")


@pytest.fixture
def quiet(dest, tmp_path, small_parts) -> Path:  # noqa: ARG001 # parts as those of the runs compared
    """What an uninterrupted run makes."""
    return run(dest, tmp_path / "quiet").path


def assert_same_archive(ours, quiet):
    names = {str(path.relative_to(quiet)) for path in quiet.rglob("*") if path.is_file()}
    assert {str(path.relative_to(ours)) for path in ours.rglob("*") if path.is_file()} == names
    for name in names - {"plan.json"}:
        assert (ours / name).read_bytes() == (quiet / name).read_bytes(), name


def test_a_stopped_run_goes_on_where_it_was(dest, tmp_path, quiet):
    path, there = tmp_path / "made", [0]
    while not path.exists():
        asked, watching = iter([False] * 4), Watching()
        made = run(dest, path, watching=watching, stop=lambda asked=asked: next(asked, True))
        assert watching.said[0][0] == there[-1], "what is there is counted, and not done again"
        assert made.exit_code == (0 if path.exists() else 130)
        assert made.n_done >= there[-1]
        there.append(made.n_done)
        assert len(there) < 50
    assert len(there) > 2
    assert_same_archive(path, quiet)


def test_the_finished_archive_is_left_as_it_is(dest, quiet):
    stamps = {path: path.stat().st_mtime_ns for path in quiet.rglob("*")}
    made = run(dest, quiet)
    assert (made.was_there, made.exit_code, made.rows) == (True, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in quiet.rglob("*")} == stamps
    assert not Workplace(quiet).folder.exists()


@pytest.mark.parametrize("what", ["folder", "file", "peer", "other", "cast", "cut", "empty folder"])
def test_what_is_there_already_is_never_touched(dest, tmp_path, quiet, what):
    path, sources, said = tmp_path / "there", dest, "no archive of this conversion"
    if what == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif what == "empty folder":
        path.mkdir()
    elif what == "file":
        path.write_text("mine")
    elif what == "peer":
        open_theirs(path, num_elements=3, num_rows=2)
    elif what == "other":
        path, said = quiet, "of another conversion: data type float32 there, uint8 here"
    else:
        path, said = quiet, "has been changed since"
        name, size = (quiet / "data.npy", 8) if what == "cut" else (quiet / "header.sch", 60)
        name.write_bytes(name.read_bytes()[:-size])
    stamps = {one: one.stat().st_mtime_ns for one in [path, *path.rglob("*")]}
    with pytest.raises(ConfigError) as caught:
        run(sources, path, data_dtype="uint8" if what == "other" else None)
    assert (caught.value.kind, caught.value.exit_code) == ("exists", 2)
    assert said in str(caught.value)
    assert {one: one.stat().st_mtime_ns for one in [path, *path.rglob("*")]} == stamps
    assert not Workplace(path).folder.exists()


def begin(dest, path, **settings):
    """Stop after some parts."""
    asked = iter([False] * 4)
    made = run(dest, path, stop=lambda: next(asked, True), **settings)
    assert not made.finished
    assert made.n_done
    return made


def test_another_plan_is_refused_with_what_differs(dest, tmp_path, quiet):
    path = tmp_path / "made"
    begin(dest, path)
    with pytest.raises(ForeignPlanError) as caught:
        run(dest, path, data_dtype="uint16")
    assert "data type float32 there, uint16 here" in str(caught.value)
    assert f"remove {path}.partial" in caught.value.hint
    run(dest, path)
    assert_same_archive(path, quiet)


def test_other_cuts_go_on_by_those_that_are_there(dest, tmp_path, quiet, monkeypatch):
    path = tmp_path / "made"
    begin(dest, path)
    monkeypatch.setattr(plan_module.join_cuts, "__defaults__", (1 << 30,))
    made = run(dest, path)
    assert len(made.plan.parts) > 1
    assert_same_archive(path, quiet)


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_has_changed_is_refused(tmp_path):
    file = write_file(tmp_path / "a.h5ad")
    begin(file, tmp_path / "made")
    write_file(file, seed=9)
    with pytest.raises(ForeignPlanError, match="has changed since"):
        run(file, tmp_path / "made")


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_changes_in_the_middle_is_noticed(tmp_path):
    files = [write_file(tmp_path / name, seed=1) for name in ("a.h5ad", "b.h5ad")]

    class Changing(Watching):
        def began(self, *_):
            write_file(files[1], n_cells=31)

    with pytest.raises(SourceError, match=r"b\.h5ad") as caught:
        run(files, tmp_path / "made", watching=Changing())
    assert caught.value.kind == "source-changed"
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", ["float32-none", "float32-deflate"])
def test_a_damaged_chunk_ends_it_and_after_repair_it_goes_on(shelf, tmp_path, kind):
    shutil.copytree(shelf.made(kind), tmp_path / "dest")
    dest = DamageableDataset(tmp_path / "dest")
    good = dest.chunk(3).read_bytes()
    flip_bit(dest.chunk(3))
    with pytest.raises(CorruptError, match="chunk_000003"):
        run(dest.path, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    dest.chunk(3).write_bytes(good)
    watching = Watching()
    run(dest.path, tmp_path / "made", watching=watching)
    assert watching.said[0][0] > 0, "parts before it are not done again"
    assert_same_arrays(tmp_path / "made", create_archive(shelf.made(kind), tmp_path / "quiet"))


class Crash(BaseException):
    """The process has died: nothing handles it."""


_STEPS = [
    (workplace_module, "_write_new"),
    (run_module, "describe_archive"),
    (workplace_module, "sync_folder"),
    (Workplace, "tidy"),
    (Workplace, "finish"),
    (Workplace, "put"),
    (ArrayFiles, "sync"),
    (ArrayFiles, "create"),
    (Path, "rename"),
    (Path, "unlink"),
    (shutil, "rmtree"),
]


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.long)])
@pytest.mark.parametrize(("owner", "name"), _STEPS, ids=[name for _, name in _STEPS])
def test_a_crash_at_every_step(dest, tmp_path, quiet, owner, name, when, monkeypatch):
    """Whatever call the process dies at: no archive until there is a whole one, and the same command makes it."""
    path, crashes = tmp_path / "made", 0
    while not path.exists():
        with monkeypatch.context() as patch:
            calls = crash_at(patch, owner, name, crashes, when)
            try:
                run(dest, path)
            except Crash:
                crashes += 1
            else:
                assert len(calls) <= crashes, "it went through without meeting the crash"
        if path.exists():
            break
        assert crashes < 60
    assert crashes or name in ("unlink", "rmtree"), "the step was never met"
    made = run(dest, path)
    assert made.was_there
    assert_same_archive(path, quiet)


def crash_at(patch, owner, name, skip, when):
    """Die at call number `skip` of `owner.name`; return the calls."""
    calls: list[object] = []
    real = owner.__dict__[name]
    call = real.__func__ if isinstance(real, classmethod) else real

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) == skip + 1 and when == "before":
            raise Crash
        result = call(*arguments, **options)
        if len(calls) == skip + 1:
            raise Crash
        return result

    patch.setattr(owner, name, classmethod(dying) if isinstance(real, classmethod) else dying)
    return calls


def test_receipts_vanish_as_a_whole(dest, tmp_path, quiet, monkeypatch):
    """Were they removed one by one, who dies in the midst of it would write parts again that are there."""
    real = shutil.rmtree

    def broken_off(path, **options):
        if Path(path).name.endswith("parts"):
            min(Path(path).iterdir()).unlink()
            raise Crash
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(workplace_module.shutil, "rmtree", broken_off)
        with pytest.raises(Crash):
            run(dest, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    watching = Watching()
    made = run(dest, tmp_path / "made", watching=watching)
    assert watching.said[0] == (len(made.plan.parts), 0)
    assert_same_archive(tmp_path / "made", quiet)


def test_what_is_described_anew_is_none_until_the_end(dest, tmp_path, monkeypatch):
    real = run_module.describe_archive

    def crash(*arguments):
        real(*arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "describe_archive", crash)
        with pytest.raises(Crash):
            run(dest, tmp_path / "made")
    assert (tmp_path / "made.partial" / "metadata.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(finish_module, "describe", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            run(dest, tmp_path / "made")
    assert not (tmp_path / "made.partial" / "metadata.json").exists()


def test_a_second_one_at_the_same_place_is_refused(dest, tmp_path, quiet):
    path, inside = tmp_path / "made", []

    class Second(Watching):
        def began(self, *_):
            with pytest.raises(ConflictError, match="is being written by another process") as caught:
                run(dest, path)
            inside.append(caught.value)

    run(dest, path, watching=Second())
    assert inside[0].kind == "at-work"
    assert "the same command goes on" in inside[0].hint
    assert_same_archive(path, quiet)


def test_who_waited_for_the_lock_finds_the_archive(dest, tmp_path, quiet):
    """The lock taken is that of a folder which has its own name by now."""
    path = tmp_path / "made"
    workplace = Workplace(path)
    with workplace.locked():
        lock = workplace.folder / ".lock"
        held = lock.open("rb")
        workplace.folder.rename(path)
        assert not workplace._is_current(held.fileno())
        held.close()
    shutil.rmtree(path)
    shutil.copytree(quiet, path)
    assert run(dest, path).was_there


def test_both_end_right_where_files_have_no_locks(dest, tmp_path, quiet, monkeypatch):
    monkeypatch.setattr(workplace_module.fcntl, "flock", lambda *_: None)
    path, made = tmp_path / "made", []

    class Rival(Watching):
        def finishing(self):
            if not made:
                made.append(None)
                made[0] = run(dest, path)

    other = run(dest, path, watching=Rival())
    assert other.finished
    assert made[0].finished
    assert_same_archive(path, quiet)


def test_a_receipt_comes_after_its_bytes_are_on_the_disk(dest, tmp_path, monkeypatch):
    """Of a machine that loses its power, pages that were not brought there are gone, and a receipt would lie."""
    import os

    happened: list[str] = []
    for owner, name in ((os, "pwrite"), (os, "fdatasync"), (Workplace, "put")):
        real = getattr(owner, name)

        def noted(*arguments, real=real, name=name):
            result = real(*arguments)
            happened.append(name)
            return result

        monkeypatch.setattr(owner, name, noted)
    run(dest, tmp_path / "made")
    assert [name for at, name in enumerate(happened) if not at or happened[at - 1] != name] == [
        "pwrite",
        "fdatasync",
        "put",
    ]


def test_all_else_is_on_the_disk_before_receipts_go(dest, tmp_path, monkeypatch):
    happened: list[str] = []
    real_sync, real_rename = workplace_module.sync_folder, Path.rename
    monkeypatch.setattr(workplace_module, "sync_folder", lambda folder: (real_sync(folder), happened.append("sync"))[0])
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (happened.append(f"{self.name}>{Path(to).name}"), real_rename(self, to))[1]
    )
    run(dest, tmp_path / "made")
    wanted = [one for one in happened if one == "sync" or one.endswith((">.parts", ">metadata.json", ">made"))]
    assert wanted == [".metadata.json>metadata.json", "sync", "parts>.parts", "made.partial>made"]


def test_without_locks_it_goes_on(dest, tmp_path, quiet, monkeypatch):
    import errno

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workplace_module.fcntl, "flock", none)
    run(dest, tmp_path / "made")
    assert_same_archive(tmp_path / "made", quiet)


@pytest.mark.parametrize("path", ["s3://bucket/made", "/dev/null/made", "/proc/made"])
def test_places_where_no_archive_can_be(dest, path):
    with pytest.raises(ConfigError) as caught:
        create_archive(dest, path)
    assert caught.value.kind == (
        "not-local" if path.startswith("s3") else "in-the-way" if "null" in path else "bad-path"
    )


def test_a_folder_of_somebody_else_is_in_the_way(dest, tmp_path):
    path = tmp_path / "made"
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="in the way") as caught:
        run(dest, path)
    assert caught.value.kind == "in-the-way"
    assert (tmp_path / "made.partial" / "mine.txt").read_text() == "mine"
    (tmp_path / "other.partial").write_text("mine")
    with pytest.raises(ConfigError, match="in the way"):
        run(dest, tmp_path / "other")


def test_a_full_disk_is_said_ahead_and_nothing_is_left(dest, tmp_path, monkeypatch):
    monkeypatch.setattr(workplace_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ConfigError, match=r"made takes 0.0 MB, and 0.0 MB are free there") as caught:
        run(dest, tmp_path / "made")
    assert caught.value.kind == "disk-full"
    assert not (tmp_path / "made.partial").exists()


def test_a_disk_that_fills_up_is_one_line_and_room_is_enough_to_go_on(dest, tmp_path, quiet, monkeypatch):
    import errno
    import os

    path, real, calls = tmp_path / "made", os.pwrite, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(ConfigError, match="no space left") as caught:
            run(dest, path)
    assert caught.value.kind == "disk-full"
    watching = Watching()
    run(dest, path, watching=watching)
    assert watching.said[0][0] > 0
    assert_same_archive(path, quiet)


@pytest.mark.parametrize("damage", ["plan", "receipt", "foreign receipt", "array", "no parts"])
def test_a_damaged_workplace_is_refused_or_begun_again(dest, tmp_path, quiet, damage):
    path = tmp_path / "made"
    begin(dest, path)
    folder = Workplace(path).folder
    if damage == "plan":
        flip_bit(folder / PLAN_NAME)
    elif damage == "receipt":
        flip_bit(folder / "parts" / "000000.json")
    elif damage == "foreign receipt":
        (folder / "parts" / "000000.json").rename(folder / "parts" / "000004.json")
    elif damage == "array":
        (folder / "data.npy").unlink()
    else:
        shutil.rmtree(folder / "parts")
        run(dest, path)
        assert_same_archive(path, quiet)
        return
    with pytest.raises(CorruptError) as caught:
        run(dest, path)
    assert "remove" in caught.value.hint
    assert not path.exists()


def test_what_is_there_without_its_plan_is_begun_again(dest, tmp_path, quiet):
    """The first row pointer is never written: it has to be zero from the beginning."""
    path = tmp_path / "made"
    begin(dest, path)
    folder = Workplace(path).folder
    (folder / PLAN_NAME).unlink()
    (folder / "row_ptr.npy").write_bytes(b"\7" * 1_000)
    watching = Watching()
    run(dest, path, watching=watching)
    assert watching.said[0][0] == 0
    assert_same_archive(path, quiet)


def test_the_same_by_another_name_goes_on(dest, tmp_path, quiet, monkeypatch):
    """Of whoever stands in another folder: sources are where they are, whatever they are called."""
    path = tmp_path / "made"
    monkeypatch.chdir(dest.parent)
    begin(dest.name, path)
    monkeypatch.chdir(tmp_path)
    watching = Watching()
    run(dest, "made", watching=watching)
    assert watching.said[0][0] > 0
    assert_same_arrays(path, quiet)
    assert open_theirs(path).get_row(3, return_var_features=True)
    assert open_theirs(path).var_features().lookup(3)[1] == dest.name
    assert run(dest, path).was_there


def test_a_worker_that_does_not_see_the_folder_says_so(dest, tmp_path):
    @contextmanager
    def elsewhere(factory, _size, **_):
        shutil.rmtree(Workplace(factory.path).folder)
        yield SerialPool(factory)

    with pytest.raises(ConfigError, match=r"plan.json is not there") as caught:
        run(dest, tmp_path / "made", open_pool=elsewhere)
    assert caught.value.kind == "pool-start"
    assert "all machines share" in caught.value.hint


def test_a_worker_left_over_writes_nothing_into_another_conversion(dest, shelf, tmp_path):
    """Its driver is dead, its folder removed, and another conversion begun by the same name."""
    kept = []

    @contextmanager
    def stolen(factory, _size, **_):
        folder = Workplace(factory.path).folder
        shutil.rmtree(folder)
        other = draft_plan([shelf.made("float32-none")], ReadOptions(), data_dtype="uint16")
        workplace = Workplace(factory.path)
        workplace._staging.make()
        workplace.enter(other)
        kept.append((folder / "data.npy").read_bytes())
        yield SerialPool(factory)

    with pytest.raises(ConfigError, match="of another conversion now"):
        run(dest, tmp_path / "made", open_pool=stolen)
    assert (tmp_path / "made.partial" / "data.npy").read_bytes() == kept[0]


def test_a_part_that_somebody_takes_away_is_a_conflict(dest, tmp_path):
    @contextmanager
    def losing(factory, _size, **_):
        pool = SerialPool(factory)
        pool.wait(0)  # its worker has opened the arrays
        shutil.rmtree(Workplace(factory.path).folder)
        yield pool

    with pytest.raises(ConflictError, match="is gone while it is written") as caught:
        run(dest, tmp_path / "made", open_pool=losing)
    assert caught.value.kind == "workplace-gone"


def test_trouble_that_may_pass_is_tried_again(dest, tmp_path, quiet, monkeypatch):
    from ingest.errors import TransientError
    from ingest.load.memmap.convert.chunks import ChunkRows
    from ingest.schedule import Policy, Scheduler

    monkeypatch.setattr(run_module, "Scheduler", lambda *a, **k: Scheduler(*a, policy=Policy(first_s=0.01), **k))
    real, failed = ChunkRows.write, []

    def unlucky(self, place, into, **options):
        if place.first_row == 19 and len(failed) < 2:
            failed.append(place)
            raise TransientError("the store is down") if len(failed) == 1 else RuntimeError("a bug")
        return real(self, place, into, **options)

    monkeypatch.setattr(ChunkRows, "write", unlucky)
    watching = Watching()
    run(dest, tmp_path / "made", watching=watching)
    assert [kind for kind, _, _ in watching.troubles] == ["transient", "unforeseen"]
    assert watching.rows[-1] == 106
    assert watching.rows == sorted(watching.rows)
    assert_same_archive(tmp_path / "made", quiet)


def test_fewer_than_one_worker_is_refused(dest, tmp_path):
    with pytest.raises(ConfigError, match="-d 0: at least one worker"):
        create_archive(dest, tmp_path / "made", workers=0)


def test_workers_are_no_more_than_memory_and_parts_ask_for(monkeypatch):
    monkeypatch.setattr(run_module, "available_cpus", lambda: 64)
    monkeypatch.setattr(run_module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5 << 30}))
    assert [run_module.planned_workers(n, None) for n in (0, 3, 100)] == [1, 3, 5]
    assert run_module.planned_workers(100, 12) == 12
