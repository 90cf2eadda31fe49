"""The handle beside plain anndata, on real files and on every layout and encoding."""

from __future__ import annotations

import copy
import gc
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from ingest.errors import AbsentError, HostileFileError, NoColumnError, SourceChangedError
from ingest.stream import AnnData, read_backed, read_h5ad_ondisk, write_obs, write_uns_dict_to_h5ad
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant
from ingest.testing.h5ad_same import assert_same

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout"),
]
FILES = [pytest.param(path, marks=realdata) for path in sorted(p.name for p in REAL.glob("*.h5ad")) or ["none"]]
# What anndata says of old files is not ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::anndata.OldFormatWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
UNS = {
    "params": {"n": 3, "name": "umap", "deep": {"x": np.arange(9)}, "a": 1, "b": 2, "c": 3, "d": 4},
    "colors": np.array([f"#{number:06x}" for number in range(12)], dtype=object),
    "flag": True,
    "table": pd.DataFrame({"p": np.arange(8.0)}, index=[f"r{number}" for number in range(8)]),
    "graph": sample_counts(7, 7),
    "long": np.arange(1000),
}


def same_as_anndata(path):
    theirs, backed = anndata.read_h5ad(path), anndata.read_h5ad(path, backed="r")
    with AnnData(path) as handle:
        assert_same(handle.to_memory(), theirs)
        assert_same(handle.backed.to_memory(), backed.to_memory())
        assert handle.backed.isbacked
        assert (handle.n_obs, handle.n_vars, handle.shape) == (theirs.n_obs, theirs.n_vars, theirs.shape)
        for name in ("obs", "var"):
            view, table = getattr(handle, name), getattr(theirs, name)
            pd.testing.assert_frame_equal(view.load(), table)
            pd.testing.assert_frame_equal(view.head(7), table.head(7))
            pd.testing.assert_index_equal(view.index, table.index)
            assert (list(view), len(view), view.shape) == (list(table.columns), len(table), table.shape)
            for column in table.columns:
                pd.testing.assert_series_equal(view[column], table[column])
        assert list(handle.uns) == list(theirs.uns)
        for key, entry in handle.uns.items():
            assert_same(entry.load(), theirs.uns[key])
    backed.file.close()


@pytest.mark.parametrize("name", FILES)
def test_real_files(name):
    same_as_anndata(REAL / name)


@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
@pytest.mark.parametrize("where", ["X", "raw", "layer:counts"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_every_layout_and_encoding(tmp_path, layout, where, legacy):
    same_as_anndata(
        write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20), layout=layout, where=where, legacy=legacy)
    )


def test_columns_of_every_type(tmp_path):
    rng = np.random.default_rng(0)
    obs = sample_obs(40)
    obs["ordered"] = pd.Categorical(rng.choice(["low", "high"], 40), ["low", "high", "unused"], ordered=True)
    obs["numbers"] = pd.Categorical(rng.integers(0, 3, 40))
    obs["maybe"] = pd.array([True, None] * 20, dtype="boolean")
    for kind in ("i1", "u1", "i4", "u8", "f4"):
        obs[kind] = rng.integers(0, 100, 40).astype(kind)
    for kind in ("Int8", "UInt16", "Int64"):
        obs[kind] = pd.array([1, None] * 20, dtype=kind)
    obs["nothing"] = np.nan
    anndata.AnnData(sample_counts(40, 5), obs=obs).write_h5ad(tmp_path / "a.h5ad")
    same_as_anndata(tmp_path / "a.h5ad")
    anndata.AnnData(sample_counts(1, 1)).write_h5ad(tmp_path / "one.h5ad")
    same_as_anndata(tmp_path / "one.h5ad")
    anndata.AnnData(np.zeros((0, 3), np.float32)).write_h5ad(tmp_path / "none.h5ad")
    same_as_anndata(tmp_path / "none.h5ad")


@pytest.fixture
def path(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20))
    with h5py.File(path, "r+") as file:
        anndata.io.write_elem(file, "uns", UNS)
        anndata.io.write_elem(file, "obsm", {"X_pca": np.ones((30, 3))})
    return path


def test_it_is_a_path(path):
    handle = AnnData(path)
    assert (handle.path, handle.filename, os.fspath(handle), str(handle)) == (path, str(path), str(path), str(path))
    assert isinstance(handle, os.PathLike)
    assert Path(handle) == path
    assert AnnData(handle).path == path


def test_it_pickles_closed_or_open(path):
    handle = AnnData(path, mode="r+")
    for _ in range(2):
        again = pickle.loads(pickle.dumps(handle))  # noqa: S301 # our own
        assert (again.path, again.backed.file._filemode) == (path, "r+")
        assert len(pickle.dumps(handle)) < 1000
        again.close()
        assert list(copy.copy(handle).obs) == list(handle.obs)
        assert handle.backed.n_obs == 30  # open from here on
    handle.close()


def test_all_else_is_anndatas(path):
    with AnnData(path) as handle:
        np.testing.assert_array_equal(handle.X[:5].toarray(), anndata.read_h5ad(path).X[:5].toarray())
        assert list(handle.obsm) == ["X_pca"]
        assert handle[:4, :3].shape == (4, 3)
        assert len(handle) == 30
        assert list(handle.obs_names[:2]) == list(handle.obs.index[:2])
        assert (handle.obs.groupby("cell_type", observed=True).size().sum(), handle.obs["note"].nunique()) == (30, 30)
        assert handle.obs[handle.obs["doublet"]].shape[1] == 5
        assert list(handle.obs[["note", "doublet"]].columns) == ["note", "doublet"]
        for thing in (handle, handle.obs, handle.uns["colors"]):
            with pytest.raises(AttributeError):
                _ = thing.no_such_thing
            with pytest.raises(AttributeError):
                _ = thing._no_such_thing


def test_closing(path):
    handle = AnnData(path)
    handle.close()
    backed = handle.backed
    assert handle.backed is backed
    handle.close()
    handle.close()
    assert not backed.file.is_open
    assert handle.n_obs == 30  # and opens again


def test_nothing_is_opened_before_it_is_asked(path, monkeypatch):
    monkeypatch.setattr(h5py, "File", None)
    handle = AnnData(path)
    _ = handle.obs, handle.var, handle.uns, handle.path, pickle.dumps(handle), str(handle)


def test_it_shows_what_is_there_now(path):
    handle = AnnData(path)
    before = handle.obs.load()
    kept = handle.backed
    write_obs(handle, before.assign(new=1.5))
    write_uns_dict_to_h5ad(handle, "fresh", {"a": 1})
    assert "new" in handle.obs
    assert "new" in handle.backed.obs
    assert handle.uns["fresh"].load() == {"a": 1}
    assert kept.X[0].shape == (1, 20)  # what somebody holds stays as it was
    path.unlink()
    with pytest.raises(FileNotFoundError):
        handle.obs.load()
    assert "there is no such file" in repr(handle)


def _count(handle, queue):
    parents, their_backed = handle._opened, handle._backed
    own = handle.opened is not parents and handle.backed is not their_backed
    queue.put((handle.n_obs, handle.backed.n_vars, own))


def test_a_fork_opens_its_own(path):
    handle = AnnData(path)
    assert handle.backed.n_obs == 30
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_count, args=(handle, queue))
    child.start()
    assert queue.get(timeout=300) == (30, 20, True)
    child.join()
    assert child.exitcode == 0
    assert handle.backed.X[0].shape == (1, 20)


def test_entries_are_read_one_by_one(path):
    with h5py.File(path, "r+") as file:
        broken = file["uns"].create_dataset("broken", (1000,), np.int64, chunks=(1000,), compression="gzip")
        broken.id.write_direct_chunk((0,), b"no deflate stream")
    uns = AnnData(path).uns
    assert len(uns) == len(UNS) + 1
    assert_same(uns["table"].load(), UNS["table"])
    assert uns["params"]["deep"]["x"].load().tolist() == list(range(9))
    assert uns["params"]["deep"]["x"][2] == 2
    assert set(uns["params"].keys()) == set(UNS["params"])
    with pytest.raises(HostileFileError, match="uns/broken"):
        uns["broken"].load()
    for key in ("missing", "params/deep", ""):
        with pytest.raises(KeyError, match=f"no entry '{key}' in uns"):
            uns[key]
    with pytest.raises(AbsentError):
        uns["params"]["deep/x"]


def test_previews(path):
    uns = AnnData(path).uns
    assert uns["long"].preview().tolist() == [0, 1, 2, 3, 4]
    assert uns["colors"].preview(2).tolist() == ["#000000", "#000001"]
    pd.testing.assert_frame_equal(uns["table"].preview(3), UNS["table"].head(3))
    assert uns["flag"].preview() is True or uns["flag"].preview() == np.True_
    assert "7 x 7" in uns["graph"].preview()
    assert uns["params"].preview(2) == {"a": 1, "b": 2, "…": "…"}
    assert uns["params"].preview(0) == {"…": "…"}
    assert repr(uns) == "uns: colors, flag, graph, long, params, table"
    assert repr(uns["long"]) == "uns/long: array([0, 1, 2, 3, 4])"


def test_a_preview_reads_no_more_than_it_shows(path):
    with h5py.File(path, "r+") as file:
        half = file["uns"].create_dataset("half", (2000,), np.int64, chunks=(1000,), compression="gzip")
        half[:1000] = 7
        half.id.write_direct_chunk((1000,), b"no deflate stream")
        column = file["obs/pct_mito"]
        values, attributes = column[()], dict(column.attrs)
        del file["obs/pct_mito"]
        column = file["obs"].create_dataset("pct_mito", data=values, chunks=(10,), compression="gzip")
        column.attrs.update(attributes)
        column.id.write_direct_chunk((10,), b"no deflate stream")
    handle = AnnData(path)
    assert handle.uns["half"].preview(1000).tolist() == [7] * 1000
    assert len(handle.obs.head(10)) == 10
    assert handle.obs["note"].nunique() == 30
    for read in (handle.uns["half"].load, handle.obs.load, lambda: handle.obs["pct_mito"]):
        with pytest.raises(HostileFileError):
            read()


def test_heads(path):
    obs, table = AnnData(path).obs, anndata.read_h5ad(path).obs
    for n in (0, 1, 30, 99, -1, -29, -30, -99):
        pd.testing.assert_frame_equal(obs.head(n), table.head(n))


def test_columns_that_are_not_there(path):
    with pytest.raises(NoColumnError, match="no column 'cell_typ' in obs") as caught:
        AnnData(path).obs["cell_typ"]
    assert isinstance(caught.value, KeyError)
    assert "cell_type" in caught.value.hint


def test_other_modes(path):
    for mode in ("w", "a", "", True, None):
        with pytest.raises(ValueError, match="mode"):
            AnnData(path, mode=mode)


def test_x_can_be_changed_through_it(path):
    with AnnData(path, mode="r+") as handle:
        handle.backed.X[0, 0] = 77.0
    assert anndata.read_h5ad(path).X[0, 0] == 77


def test_reprs(path):
    handle = AnnData(path)
    assert repr(handle) == f"AnnData({str(path)!r}, mode='r'): 30 cells x 20 genes, X csr"
    assert repr(handle.obs).startswith("obs: 30 rows x 5 columns; .load() reads them\n")
    assert "AAA" in repr(handle.obs) or "-4" in repr(handle.obs)
    assert len(repr(handle.obs).splitlines()) <= 20


def test_a_file_replaced_while_it_is_opened(path, monkeypatch):
    import ingest.stream.whole as whole

    parts = whole._parts

    def meddle(opened):
        found = parts(opened)
        write_uns_dict_to_h5ad(path, "fresh", {"a": 1})
        return found

    monkeypatch.setattr(whole, "_parts", meddle)
    with pytest.raises(SourceChangedError):
        read_backed(path)


def test_reading_backed_outlives_the_call(path):
    matrix = read_backed(path).X
    gc.collect()
    assert matrix[:3].shape == (3, 20)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("extents", [(5, 5), (0, 3), (3, 0), (99, 99), (1, 20)])
def test_looking_at_a_file(tmp_path, capsys, layout, extents):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(30, 20, seed=3), layout=layout, where="raw")
    handle = read_h5ad_ondisk(path, n_obs=extents[0], n_vars=extents[1])
    shown = capsys.readouterr().out
    assert isinstance(handle, AnnData)
    assert shown.startswith("a.h5ad: 30 cells x 20 genes, ")
    assert " kB\n" in shown[:60]
    assert f"X: 30 x 20, {layout} float32" in shown
    assert "raw: 30 x 20" in shown
    cells = anndata.read_h5ad(path)
    for name in cells.obs_names[: extents[0]] if extents[0] <= 5 and extents[1] else ():
        assert shown.count(name) >= 2


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_the_corner_is_xs(tmp_path, layout):
    from ingest.fetch.h5ad_matrix import describe_matrix
    from ingest.stream.preview import corner
    from ingest.stream.storage import open_data

    counts = sample_counts(30, 20, density=0.6)
    path = write_h5ad_variant(tmp_path / "a.h5ad", counts, layout=layout)
    with open_data(path) as opened:
        matrix = describe_matrix(opened, "X")
        for n_obs in (0, 1, 4, 30, 50):
            for n_vars in (0, 1, 7, 20, 50):
                np.testing.assert_array_equal(corner(opened, matrix, n_obs, n_vars), counts.toarray()[:n_obs, :n_vars])


def test_a_wide_table_keeps_to_its_lines(tmp_path, capsys):
    obs = pd.DataFrame(np.ones((9, 40)), index=list("abcdefghi")).add_prefix("a_long_name_of_a_column_")
    anndata.AnnData(np.ones((9, 4), np.float32), obs=obs).write_h5ad(tmp_path / "a.h5ad")
    read_h5ad_ondisk(tmp_path / "a.h5ad")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert "obs: 40 columns" in shown


def test_looking_at_a_file_without_x(tmp_path, capsys):
    anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"])).write_h5ad(tmp_path / "a.h5ad")
    read_h5ad_ondisk(tmp_path / "a.h5ad")
    assert "no X" in capsys.readouterr().out
    with pytest.raises(ValueError, match="-1 cells"):
        read_h5ad_ondisk(tmp_path / "a.h5ad", n_obs=-1)


def test_previews_of_json_like_uns_survive(path):
    write_uns_dict_to_h5ad(path, "j", {"text": json.dumps({"a": [1]})})
    assert json.loads(AnnData(path).uns["j"]["text"].load()) == {"a": [1]}
