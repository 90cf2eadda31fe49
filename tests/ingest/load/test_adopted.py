"""Chunks that were not written in one go: adopted ones, whose offsets nobody noted, shortened ones, and empty ones."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ingest.errors import CorruptError
from ingest.finish import finish
from ingest.load.dataset import open_chunks
from ingest.opened import open_plan
from ingest.preparing import divide_work, profile_of_plan
from ingest.repairing import repair_dataset
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.store.open import open_store
from ingest.testing.datasets import SilentObserver, make_dataset, open_serial_pool, write_h5ad_index
from ingest.testing.plain_chunks import read_plainly
from ingest.testing.shelf import KINDS, add_columns, small_blocks, write_sample
from ingest.without_bad import run_without_bad

WORK = WorkSettings(workers=1)


def check_all(path, plain):
    n = len(plain.obs)
    with open_chunks(path, threads=2) as cells:
        assert cells.n_cells == n
        found = cells.to_anndata(np.arange(n))
        np.testing.assert_array_equal(found.X.toarray(), plain.matrix.toarray())
        assert list(found.obs_names) == plain.names
        assert found.obs.age.tolist() == plain.obs.age.tolist()
        rows = np.random.default_rng(0).integers(0, n, 60)
        np.testing.assert_array_equal(cells.counts(rows).data, plain.matrix[rows].data)
        assert cells.find(plain.names[::-1]).tolist() == list(range(n))[::-1]


def run_again(dest, shelf, kind):
    """Run the same plan: what stands there without a receipt is adopted."""
    with small_blocks():
        again = make_dataset(str(dest.path), shelf.index(kind), data=KINDS[kind])
    assert again.report.exit_code == 0
    return again.report.driven.totals.adopted


@pytest.mark.parametrize("kind", ["float32-deflate", "float32-lz4", "uint16-none", "h5-deflate", "h5-none"])
def test_chunks_of_which_nobody_knows_where_their_blocks_lie(shelf, damageable, kind):
    """Adopted in other bytes than this version would write: HDF5 is asked."""
    dest = damageable(kind)
    for number in (1, 4):
        dest.reseal(number, offsets=())
    offsets = pa.ipc.open_file(dest.path / "chunk_offsets.feather").read_all()
    assert set(offsets["chunk"].to_pylist()) == {0, 2, 3, 5}
    check_all(dest.path, shelf.plain(kind))


def test_adopted_chunks_of_blocks_of_another_size(shelf, damageable):
    """As an older version, or one with other settings, wrote them: its offsets are looked up, too."""
    dest = damageable()
    path = dest.chunk(4)
    with h5py.File(path, "r+") as file:
        for name in ("X/data", "X/indices"):
            values = file[name][()]
            del file[name]
            file.create_dataset(name, data=values, chunks=(50,), compression="gzip", compression_opts=9, shuffle=True)
    dest.receipt(4).unlink()
    assert run_again(dest, shelf, "float32-deflate") == 1
    assert 4 not in pa.ipc.open_file(dest.path / "chunk_offsets.feather").read_all()["chunk"].to_pylist()
    check_all(dest.path, shelf.plain("float32-deflate"))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_an_adopted_chunk_that_is_damaged_since(shelf, damageable, damage):
    dest = damageable()
    dest.reseal(4, offsets=())
    path = dest.chunk(4)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:3000])
    with open_chunks(dest.path) as cells, pytest.raises(CorruptError, match=r"chunk_000004.h5ad") as raised:
        cells.counts([80])
    assert raised.value.kind == ("chunk-missing" if damage == "missing" else "chunk-damaged")
    assert raised.value.chunk == 4
    assert "repair" in raised.value.hint
    np.testing.assert_array_equal(
        open_chunks(dest.path).counts(range(76)).data, shelf.plain("float32-deflate").matrix[:76].data
    )


def rewrite(dest, how):
    path = dest.chunk(4)
    if how == "h5":
        with h5py.File(path, "r+") as file:
            rows = file["X"][()]
            del file["X"]
            file.create_dataset("X", data=rows, chunks=(1, 40), compression="gzip")
    elif how == "two sizes":
        with h5py.File(path, "r+") as file:
            for name, size in (("X/data", 50), ("X/indices", 20)):
                values = file[name][()]
                del file[name]
                file.create_dataset(name, data=values, chunks=(size,), compression="gzip", shuffle=True)
    else:
        anndata.read_h5ad(path).write_h5ad(path, compression=None if how == "plain" else "gzip")


@pytest.mark.parametrize("how", ["plain", "gzip", "two sizes", "h5"])
def test_a_chunk_of_another_writer_is_no_damaged_one(shelf, damageable, how):
    """Equal content in other bytes is adopted, whoever wrote it; a loader says so, and how to get on."""
    kind = "h5-deflate" if how == "h5" else "float32-deflate"
    dest = damageable(kind)
    rewrite(dest, how)
    dest.receipt(4).unlink()
    assert run_again(dest, shelf, kind) == 1
    with open_chunks(dest.path) as cells, pytest.raises(CorruptError, match="as another program stores it") as raised:
        cells.counts([80])
    assert (raised.value.kind, raised.value.chunk) == ("foreign-layout", 4)
    assert "remove it" in raised.value.hint
    dest.chunk(4).unlink()
    with small_blocks():
        report = repair_dataset(dest.open(), None, WORK, open_serial_pool, SilentObserver())
    assert report.exit_code == 0
    check_all(dest.path, shelf.plain(kind))


def test_without_offsets_at_all(shelf, damageable):
    """An older dataset, or one whose receipts say nothing of them."""
    dest = damageable()
    for number in range(6):
        dest.reseal(number, offsets=())
    assert pa.ipc.open_file(dest.path / "chunk_offsets.feather").read_all().num_rows == 0
    check_all(dest.path, shelf.plain("float32-deflate"))


@pytest.fixture(params=["h5ad", "h5"])
def without_bad(request, tmp_path):
    """Finish without the second of three files: chunks lose some of their rows, one all of them."""
    files = [write_sample(tmp_path / f"s{n}.h5ad", n_cells=25, n_genes=30, seed=n) for n in range(3)]
    index = add_columns(write_h5ad_index(tmp_path / "index.feather", files))
    files[1].write_bytes(files[1].read_bytes()[:1000])
    data = DataSettings(cells_per_chunk=10, **({"format": "h5", "dtype": "int16"} if request.param == "h5" else {}))
    with small_blocks():
        assert make_dataset_with_failures(tmp_path / "dest", index, data) == 3
        opened = open_plan(open_store(str(tmp_path / "dest")))
        work = divide_work(profile_of_plan(opened, WORK), opened, opened.ledger.done(), WORK)
        _, report = run_without_bad(opened, work, WORK, run_once, lambda *_: None)
    assert report.exit_code == 0
    return tmp_path / "dest", files


def make_dataset_with_failures(dest, index, data):
    return make_dataset(str(dest), index, data=data).report.exit_code


def run_once(opened, work):
    return run_plan(opened, work, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)


def test_chunks_without_the_rows_of_a_bad_source(without_bad):
    dest, _ = without_bad
    plain = read_plainly(dest)
    sizes = [len(part) for part in np.array_split(plain.names, [0])][1:]
    assert sizes == [50]
    check_all(dest, plain)
    with open_chunks(dest) as cells:
        chunks = {cells.locate(row)[1] for row in range(50)}
        assert len(chunks) < cells.manifests[0].n_chunks  # some have no row at all
        assert set(cells.categories("source")) >= set(plain.obs.source)
        assert sorted(pd.Series(plain.obs.source).value_counts().tolist()) == [25, 25]


def test_finishing_again_changes_nothing(damageable, shelf):
    dest = damageable()
    finish(dest.open())
    check_all(dest.path, shelf.plain("float32-deflate"))
