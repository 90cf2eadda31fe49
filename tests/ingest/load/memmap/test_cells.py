"""The loader over an archive delivers what it delivers of the chunks that the archive was made of."""

from __future__ import annotations

import pickle

import anndata
import numpy as np
import pytest
import torch

from ingest.errors import ConfigError
from ingest.load import create_dataloader, open_chunks
from ingest.load.memmap import SingleCellMemMapDataset, create_archive
from ingest.load.memmap.cells import MappedCells, is_archive
from ingest.load.split import SplitRule, split
from ingest.load.torch.datasets import ChunkDataset, ShuffledCells
from ingest.load.transform import Compose, LogTokens, NormalizeLog1p
from ingest.testing.scdl_files import ScdlFile, write_scdl_file

ALIKE = {"block_cells": 4, "window_cells": 64}


@pytest.fixture(scope="module")
def archive(dest, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "cells.scdl"
    create_archive([str(dest)], path)
    return path


@pytest.fixture(scope="module")
def chunks(dest):
    with open_chunks(dest) as opened:
        yield opened


@pytest.fixture
def mapped(archive):
    return MappedCells(archive)


@pytest.mark.parametrize("form", ["dense", "csr", "ragged"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"shuffle": False, "drop_last": True},
        {"genes": [7, 3, 20]},
        {"genes": [7, 3, 20], "transform": NormalizeLog1p()},
        {"where": "cell_type == 'B cell'"},
        {"rank": 1, "world_size": 2},
    ],
)
def test_batches_are_those_of_the_chunks(archive, chunks, form, how):
    options = {"batch_size": 16, "block_cells": 4, "window_cells": 64, "form": form, "obs": ["cell_type"], "seed": 5}
    both = [create_dataloader(source, **options, **how) for source in (archive, chunks)]
    assert len(both[0]) == len(both[1])
    assert both[0].categories == both[1].categories
    for (ours, about), (theirs, told) in zip(*both, strict=True):
        if form == "ragged":
            assert all(torch.equal(*parts) for parts in zip(ours, theirs, strict=True))
        else:
            assert torch.equal(ours.to_dense(), theirs.to_dense())
            assert ours.shape == theirs.shape
        assert list(about["cell_id"]) == list(told["cell_id"])
        assert torch.equal(about["cell_type"], told["cell_type"])
        assert torch.equal(about["experiment_id"], told["experiment_id"])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(archive, workers):
    def loader():
        return create_dataloader(archive, 16, window_cells=32, block_cells=4, num_workers=workers, form="csr")

    whole = [batch.to_dense() for batch, _ in loader()]
    first = loader()
    begun = iter(first)
    left = [next(begun)[0].to_dense() for _ in range(3)]
    state = first.state_dict()
    again = loader()
    again.load_state_dict(state)
    left += [batch.to_dense() for batch, _ in again]
    assert len(left) == len(whole)
    assert all(map(torch.equal, left, whole))
    for one in (first, again):
        one.close()


def test_cells_are_shuffled_one_by_one(archive, chunks):
    """Of chunks neighbours come together, in blocks; here any cell is as near as the next."""
    for source, together in ((archive, False), (chunks, True)):
        order = create_dataloader(source, 16, window_cells=16)._order()
        rows = np.concatenate([window.rows for window in order.windows()])
        assert len(np.unique(rows)) == chunks.n_cells
        assert (np.ptp(rows[:16]) < 64) == together


def test_balance_and_split(archive, chunks):
    ours, theirs = (create_dataloader(source, 16, balance="cell_type", seed=2, **ALIKE) for source in (archive, chunks))
    assert [about["cell_id"] for _, about in ours] == [about["cell_id"] for _, about in theirs]
    for by in ("cell", "cell_type"):
        parts = [split(cells, SplitRule(by=by, val=0.3, test=0.2)).parts for cells in (MappedCells(archive), chunks)]
        assert (parts[0] == parts[1]).all()


def test_other_datasets_of_torch(archive, chunks):
    ours, theirs = ChunkDataset(archive, transform=LogTokens(9)), ChunkDataset(chunks, transform=LogTokens(9))
    assert torch.equal(ours[3][0], theirs[3][0])
    with pytest.raises(ConfigError, match="has no chunks to keep"):
        ChunkDataset(archive, chunk_cache_size=2)
    streams = [list(ShuffledCells(source, 16, form="csr", seed=1, **ALIKE)) for source in (archive, chunks)]
    assert all(torch.equal(one.to_dense(), other.to_dense()) for (one, _), (other, _) in zip(*streams, strict=True))


def test_it_is_what_the_chunks_are(mapped, chunks, archive):
    assert len(mapped) == mapped.n_cells == chunks.n_cells
    assert mapped.genes.ids == chunks.genes.ids
    assert mapped.genes.names == chunks.genes.names
    assert set(chunks.obs.columns) <= set(mapped.obs.columns)
    assert mapped.cell_ids([5, 0]) == chunks.cell_ids([5, 0])
    assert mapped.where("cell_type == 'B cell'").tolist() == chunks.where("cell_type == 'B cell'").tolist()
    assert pickle.loads(pickle.dumps(mapped)).identity == mapped.identity  # noqa: S301 # our own
    assert str(archive) in repr(mapped)
    mapped.close()
    assert mapped.cell_ids([5, 0]) == chunks.cell_ids([5, 0])
    with pytest.raises(ConfigError, match="no column 'cell_typ'"):
        mapped.where("cell_typ == 'B cell'")
    with pytest.raises(ConfigError, match="numbered from 0"):
        mapped.numbers([mapped.n_cells])


def test_archives_are_told_from_datasets(archive, dest, tmp_path):
    assert is_archive(archive)
    assert not is_archive(dest)
    SingleCellMemMapDataset(tmp_path / "sizes", num_elements=3, num_rows=2)
    assert not is_archive(tmp_path / "sizes")


@pytest.fixture
def ragged(tmp_path):
    """An archive of cells with different genes, columns out of order, values as halves, and no names of cells."""
    files = [
        ScdlFile(n_cells=9, n_genes=40, unsorted=True, seed=0, obs_columns=("cell_line", "n_counts")),
        ScdlFile(n_cells=7, n_genes=30, seed=2, obs_columns=("cell_line",)),
    ]
    made = []
    for number, file in enumerate(files):
        path = tmp_path / f"{number}.h5ad"
        write_scdl_file(path, file)
        made.append(SingleCellMemMapDataset(tmp_path / f"a{number}", str(path), data_dtype="float16"))
    made[0].concat(made[1])
    frames = [anndata.read_h5ad(tmp_path / f"{number}.h5ad") for number in range(2)]
    for frame in frames:
        frame.X, frame.var_names = frame.raw.X, list(frame.var["feature_id"])
        del frame.raw
    return tmp_path / "a0", frames


def test_cells_with_different_genes_are_aligned(ragged):
    path, frames = ragged
    for align, join in (("union", "outer"), ("intersection", "inner")):
        cells = MappedCells(path, align)
        expected = anndata.concat(frames, join=join, fill_value=0, keys=["0", "1"], index_unique="-")
        expected = expected[:, list(cells.genes.ids)]
        rows = np.array([15, 0, 8, 9, 3, 3])
        names, columns = cells.gene_columns()
        found = cells.read(rows, columns).counts
        assert names.ids == cells.genes.ids
        assert found.data.dtype == np.float32
        dense = np.zeros((len(rows), len(names)), np.float32)
        for row in range(len(rows)):
            mine = slice(found.indptr[row], found.indptr[row + 1])
            assert (np.diff(found.indices[mine]) > 0).all()
            dense[row, found.indices[mine]] = found.data[mine]
        assert (dense == np.asarray(expected.X[rows].todense())).all()


def test_obs_of_all_blocks_and_what_cells_are_of(ragged):
    path, frames = ragged
    cells = MappedCells(path)
    assert cells.obs.columns == ("cell_line", "source")
    assert cells.experiment_column == "source"
    lines = [line for frame in frames for line in frame.obs["cell_line"]]
    assert cells.where("cell_line == 'HeLa'").tolist() == [at for at, line in enumerate(lines) if line == "HeLa"]
    texts = cells.categories("source")
    assert [text.rsplit("/", 1)[1] for text in texts] == ["0.h5ad", "1.h5ad"]
    assert cells.obs.take("source", np.array([0, 8, 9, 15])).values.tolist() == [0, 0, 1, 1]
    assert cells.cell_ids([3, 1]) == ["3", "1"]
    loader = create_dataloader(path, 4, transform=Compose([NormalizeLog1p()]), balance="cell_line")
    assert sum(len(about["cell_id"]) for _, about in loader) == 16


def test_without_features_nobody_knows_the_genes(tmp_path):
    made = SingleCellMemMapDataset(tmp_path / "sizes", num_elements=3, num_rows=2)
    made.save()
    with pytest.raises(ConfigError, match="does not say what its columns are"):
        MappedCells(tmp_path / "sizes").gene_columns()
