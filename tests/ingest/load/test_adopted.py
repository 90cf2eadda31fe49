"""Chunks that were not written in one go: adopted ones, whose offsets nobody noted, shortened ones, and empty ones."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from index.build import ScBaseCountOptions, index_scbasecount
from ingest.errors import ConfigError, CorruptError
from ingest.finish import finish
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_dataloader
from ingest.opened import open_plan
from ingest.preparing import divide_work, profile_of_plan
from ingest.repairing import repair_dataset
from ingest.running import run_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.store.open import open_store
from ingest.testing.datasets import SilentObserver, make_dataset, open_serial_pool
from ingest.testing.plain_chunks import read_plainly
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount
from ingest.testing.scbasecount_damage import damage_sample
from ingest.testing.shelf import KINDS, small_blocks
from ingest.without_bad import run_without_bad

WORK = WorkSettings(workers=1)


def check_counts(cells, plain):
    n = len(plain.obs)
    assert cells.n_cells == n
    found = cells.to_anndata(np.arange(n))
    np.testing.assert_array_equal(found.X.toarray(), plain.matrix.toarray())
    assert list(found.obs_names) == plain.names
    rows = np.random.default_rng(0).integers(0, n, 60)
    np.testing.assert_array_equal(cells.counts(rows).data, plain.matrix[rows].data)
    assert cells.find(plain.names[::-1]).tolist() == list(range(n))[::-1]


def check_all(path, plain):
    with open_chunks(path, threads=2) as cells:
        check_counts(cells, plain)
        assert cells.column("age", range(cells.n_cells)).values.tolist() == plain.obs.age.tolist()


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


BAD = "SRX1041167"
SPEC = ScBaseCountSpec(
    mean_cells=15,
    n_genes=60,
    mean_molecules=20,
    releases=("2026-01-12",),
    features=("GeneFull_Ex50pAS",),
    organisms=("Homo_sapiens",),
)


@pytest.fixture(scope="module")
def bad_sample(tmp_path_factory):
    """Index samples of which one has been cut since."""
    folder = tmp_path_factory.mktemp("bad")
    built = build_scbasecount(folder / "bucket", SPEC)
    index_scbasecount(ScBaseCountOptions(folder / "index.feather", root=str(built.path)))
    wanted = {"release": SPEC.releases[0], "feature": SPEC.features[0], "organism": SPEC.organisms[0]}
    damage_sample(built.file(BAD, **wanted), "truncated")
    return folder / "index.feather"


@pytest.mark.parametrize("kind", ["h5ad", "h5"])
def test_chunks_without_the_rows_of_a_bad_source(bad_sample, tmp_path, kind):
    """``--without-bad`` shortens some chunks, and leaves one empty."""
    data = DataSettings(cells_per_chunk=6, **({"format": "h5", "dtype": "int16"} if kind == "h5" else {}))
    with small_blocks():
        assert make_dataset(str(tmp_path / "dest"), bad_sample, data=data, work=WORK).report.exit_code == 3
        opened = open_plan(open_store(str(tmp_path / "dest")))
        work = divide_work(profile_of_plan(opened, WORK), opened, opened.ledger.done(), WORK)
        _, report = run_without_bad(opened, work, WORK, run_once, lambda *_: None)
    assert report.exit_code == 0
    plain = read_plainly(tmp_path / "dest")
    wanted = pd.read_feather(bad_sample)
    assert len(plain.obs) == (wanted.SRX_accession != BAD).sum() < len(wanted)
    with open_chunks(tmp_path / "dest", threads=2) as cells:
        sizes = np.diff(cells.manifests[0].starts)
        assert sizes.min() == 0
        assert len(set(sizes.tolist())) > 2
        check_counts(cells, plain)
        assert cells.column("SRX_accession", range(cells.n_cells)).values.min() >= 0
        loader = create_dataloader(cells, 16, window_cells=32, obs=["SRX_accession"])
        seen = []
        for expression, metadata in loader:
            rows = plain.obs.index.get_indexer(metadata["cell_id"])
            np.testing.assert_array_equal(expression.numpy(), plain.matrix[rows].toarray())
            codes = metadata["SRX_accession"].tolist()
            assert [loader.categories["SRX_accession"][code] for code in codes] == plain.obs.SRX_accession.iloc[
                rows
            ].tolist()
            seen += rows.tolist()
        assert sorted(seen) == list(range(cells.n_cells))
        with pytest.raises(ConfigError, match=BAD):
            cells.of_accessions([BAD])


def run_once(opened, work):
    return run_plan(opened, work, WORK, open_serial_pool, SilentObserver(), stop_requested=lambda: False)


def test_finishing_again_changes_nothing(damageable, shelf):
    dest = damageable()
    finish(dest.open())
    check_all(dest.path, shelf.plain("float32-deflate"))
