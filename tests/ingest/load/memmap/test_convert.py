"""Archives of datasets and files: bionemo-scdl's own conversion of the same; values that do not survive."""

from __future__ import annotations

import threading
import time
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import ConfigError, SourceError
from ingest.load.memmap.convert import plan as plan_module
from ingest.load.memmap.convert.api import create_archive, local_pool
from ingest.load.memmap.convert.opening import ReadOptions
from ingest.load.memmap.convert.run import run_conversion
from ingest.load.memmap.convert.survey import draft_plan
from ingest.load.memmap.names import FileNames
from ingest.testing.conversions import Watching, assert_same_arrays, open_theirs, write_raw_file
from ingest.testing.examples import examples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from bionemo.scdl.io.single_cell_collection import SingleCellCollection as TheirCollection


def theirs_of(folder, path, tmp_path, **options):
    """Convert a folder by bionemo-scdl, as its script does."""
    collection = TheirCollection(str(tmp_path / "collection"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        collection.load_h5ad_multi(str(folder), max_workers=1, **options)
        collection.flatten(str(path), destroy_on_copy=True)
    return [str(one.message) for one in said if "Downcasted" in str(one.message)]


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


def test_chunks_as_bionemo_scdl_converts_them(shelf, tmp_path):
    dest = shelf.made("float32-deflate")
    ours = create_archive(dest, tmp_path / "ours")
    theirs_of(dest / "chunks", tmp_path / "theirs", tmp_path, use_X_not_raw=True)
    assert ours == tmp_path / "ours"
    for name in (FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR):
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
    write_raw_file(folder / "b.h5ad", seed=1)
    write_raw_file(folder / "a" / "z.h5ad", seed=2, n_cells=7)
    write_raw_file(folder / "a.h5ad", seed=3)
    write_raw_file(folder / "c" / "wide.h5ad", seed=4, n_genes=300)
    write_raw_file(
        folder / "c" / "wider.h5ad", seed=5, n_genes=300, obs=pd.DataFrame(index=[f"c{n}" for n in range(30)])
    )
    theirs_of(folder, tmp_path / "theirs", tmp_path)
    ours = create_archive(folder, tmp_path / "ours", pool=pool, workers=2)
    assert_same_arrays(ours, tmp_path / "theirs")
    assert_same_features(open_theirs(ours), open_theirs(tmp_path / "theirs"))


@settings(max_examples=examples(7), suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        path = write_raw_file(tmp_path / "in" / f"{number}.h5ad", n_cells, n_genes, seed=number, obs=obs)
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
    file = write_raw_file(tmp_path / "a.h5ad", n_cells=9)
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
        write_raw_file(tmp_path / "a.h5ad", 20, obsp={"knn": pairs[0]}),
        write_raw_file(tmp_path / "b.h5ad", 10),
        write_raw_file(tmp_path / "c.h5ad", 30, obsp={"knn": pairs[1]}),
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
    file = write_raw_file(tmp_path / "a.h5ad")
    with pytest.raises(ConfigError, match=r"no source has obsp\['knn'\]") as caught:
        create_archive(file, tmp_path / "made", neighbor_key="knn")
    assert caught.value.kind == "no-neighbors"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.usefixtures("small_parts")
def test_a_value_that_the_type_does_not_hold_is_an_error_that_names_it(tmp_path):
    file = write_raw_file(tmp_path / "a.h5ad", scale=1.5)
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

    files = [write_raw_file(tmp_path / "a.h5ad", scale=1.5)]
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
    files = [write_raw_file(tmp_path / "a.h5ad", 3, scale=1.5), write_raw_file(tmp_path / "b.h5ad")]
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
        create_archive(write_raw_file(tmp_path / "a.h5ad"), tmp_path / "x", data_dtype="auto")
