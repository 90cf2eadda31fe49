"""Datasets under torch's own DataLoader: cells by number, and the stream of shuffled batches."""

from __future__ import annotations

import pickle
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ingest.errors import ConfigError, CorruptError
from ingest.hvg.document import hvg_document, hvg_identity
from ingest.hvg.find import check_request, find_hvgs, read_data
from ingest.hvg.parameters import HvgParameters
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_hvg_dataloader
from ingest.load.torch.datasets import ChunkDataset, HVGDataset, ScRNADataset, ShuffledCells
from ingest.settings import WorkSettings
from ingest.testing.datasets import open_serial_pool

N = 106


@pytest.fixture(scope="module")
def row_of(plain):
    return {name: row for row, name in enumerate(plain.names)}


def check(batches, plain, row_of, genes=slice(None)):
    """Look at every batch, and return the numbers of its cells."""
    found = []
    for expression, metadata in batches:
        rows = [row_of[name] for name in metadata["cell_id"]]
        np.testing.assert_array_equal(expression.numpy(), plain.matrix[rows].toarray()[:, genes])
        found.append(rows)
    return found


def flat(parts):
    return list(chain.from_iterable(parts))


# By number


@pytest.mark.parametrize("kind", ["float32-deflate", "uint16-none", "h5-lz4"])
def test_one_cell(shelf, kind):
    plain = shelf.plain(kind)
    dataset = ScRNADataset(shelf.made(kind), obs=["age", "tissue"])
    assert len(dataset) == N
    for row in (0, 50, 105, -1, -106):
        expression, metadata = dataset[row]
        assert (expression.dtype, expression.shape) == (torch.float32, (40,))
        np.testing.assert_array_equal(expression.numpy(), plain.matrix[[row]].toarray()[0])
        assert metadata["cell_id"] == plain.names[row]
        assert metadata["age"] == plain.obs.age.iloc[row]
        code = metadata["tissue"]
        assert (dataset.categories["tissue"][code] if code >= 0 else None) == plain.obs.tissue.iloc[row]
        experiment = dataset.categories["experiment_id"][metadata["experiment_id"]]
        assert experiment == plain.obs.SRX_accession.iloc[row]


@pytest.mark.parametrize("row", [N, -N - 1, 10**9])
def test_no_such_cell(dest, row):
    """IndexError, which ends a for loop over a dataset."""
    with pytest.raises(IndexError, match=f"cell {row} of 106"):
        ScRNADataset(dest)[row]


def test_a_for_loop_ends(dest):
    assert sum(1 for _ in ScRNADataset(dest)) == N


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_own_loader(dest, plain, row_of, workers):
    dataset = ScRNADataset(dest, obs=["age"])
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=workers, generator=generator)
    for _ in range(2):
        batches = list(loader)
        assert sorted(flat(check(batches, plain, row_of))) == list(range(N))
        for _, metadata in batches:
            assert metadata["age"].tolist() == plain.obs.age.loc[metadata["cell_id"]].tolist()


def test_spawned_workers_have_the_datasets(dest, plain, row_of):
    """Under spawn, and in a checkpoint of a trainer, a dataset is pickled."""
    dataset = pickle.loads(pickle.dumps(ChunkDataset(dest, genes=[3, 1], where="age == 1")))  # noqa: S301 # our own
    assert flat(check(DataLoader(dataset, batch_size=4), plain, row_of, [3, 1])) == [1 + 7 * n for n in range(15)]
    stream = pickle.loads(pickle.dumps(ShuffledCells(dest, 16, seed=2)))  # noqa: S301 # our own
    assert check(stream, plain, row_of) == check(ShuffledCells(dest, 16, seed=2), plain, row_of)


def test_a_loader_travels(dest, plain, row_of):
    """A Lightning trainer that starts processes pickles loaders."""
    from ingest.load.torch.create import create_dataloader

    loader = create_dataloader(dest, 16, seed=4, genes=[7], num_workers=1)
    list(loader)
    loader.set_epoch(0)
    copy = pickle.loads(pickle.dumps(loader))  # noqa: S301 # our own
    assert check(copy, plain, row_of, [7]) == check(loader, plain, row_of, [7])


def test_some_cells(dest, plain, row_of):
    dataset = ChunkDataset(dest, rows=[100, 5, 7, 9], where="age in [5, 2, 0]", include_srx_accessions=["SRX0", "SRX3"])
    assert len(dataset) == 4
    assert flat(check(DataLoader(dataset, batch_size=3), plain, row_of)) == [100, 5, 7, 9]
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize("rows", [[N], [-1], [1 << 40]], ids=str)
def test_rows_that_are_not_there(dest, rows):
    with pytest.raises(ConfigError, match="no cell"):
        ChunkDataset(dest, rows=rows)


@pytest.mark.parametrize(
    "options", [{"chunk_cache_size": 2}, {"max_chunks_in_memory": 1, "chunk_cache_size": 9}], ids=str
)
@pytest.mark.parametrize("kind", ["float32-deflate", "h5-deflate"])
def test_the_cache_is_counted_in_chunks(shelf, kind, options):
    dataset = ChunkDataset(shelf.made(kind), **options)
    held = dataset.cells._reader.cache
    for row in range(0, N, 5):
        dataset[row]
    chunks = min(options.values())
    largest = 19 * 40 * 8
    assert 0 < held.nbytes <= chunks * largest
    before = held.misses
    for row in range(100, N):  # the chunk used last
        dataset[row]
        dataset[row]
    assert held.misses - before <= 30


def test_no_chunk_is_kept_when_none_is_to_be(dest):
    dataset = ChunkDataset(dest, chunk_cache_size=0)
    dataset[3]
    assert dataset.cells._reader.cache.nbytes == 0


def test_cells_kept_from_a_dataset_never_change(dest, plain):
    dataset = ScRNADataset(dest)
    kept = [dataset[row][0] for row in range(N)]
    np.testing.assert_array_equal(torch.stack(kept).numpy(), plain.matrix.toarray())


# Highly variable genes


@pytest.fixture(scope="module")
def with_hvgs(shelf):
    """Choose genes as ``python -m ingest hvg`` does."""
    from ingest.testing.damage import DamageableDataset

    folder = shelf.made("float32-lz4")
    data = read_data(DamageableDataset(folder).open())
    parameters = HvgParameters.of("dispersion", n_hvgs=12)
    found = find_hvgs(
        check_request(data, parameters, memory_bytes=1 << 30),
        WorkSettings(workers=1, pool="serial"),
        open_serial_pool,
        lambda _word: Unseen(),
    )
    (folder / "hvg_info.json").write_bytes(hvg_document(hvg_identity(data, parameters), found, data.opened.genes, None))
    return folder


class Unseen:
    def reached(self, n_cells):
        pass

    def troubled(self, failure, retried):
        pass


@pytest.fixture(scope="module")
def by_dispersion(shelf):
    """Return the genes by variance over mean, as the seed's README describes it, with numpy."""
    counts = shelf.plain("float32-lz4").matrix.toarray()
    return np.argsort(-(counts.var(axis=0, ddof=1) / counts.mean(axis=0)), kind="stable")


def test_highly_variable_genes(with_hvgs, by_dispersion, plain, row_of):
    wanted = by_dispersion[:8].tolist()
    dataset = HVGDataset(with_hvgs, n_hvgs=8)
    assert list(dataset.genes.ids) == [plain.genes[column] for column in wanted]
    batches = DataLoader(dataset, batch_size=20, shuffle=True, num_workers=2)
    assert sorted(flat(check(batches, plain, row_of, wanted))) == list(range(N))
    loader = create_hvg_dataloader(with_hvgs, 20, n_hvgs=8, num_workers=1)
    assert sorted(flat(check(loader, plain, row_of, wanted))) == list(range(N))


def test_all_that_were_chosen(with_hvgs, by_dispersion, plain):
    assert list(HVGDataset(with_hvgs).genes.ids) == [plain.genes[column] for column in by_dispersion[:12]]
    assert len(create_hvg_dataloader(with_hvgs).genes) == 12


def test_too_few_were_chosen(with_hvgs):
    with pytest.raises(ConfigError, match="has 12 highly variable genes, not 2,000") as raised:
        HVGDataset(with_hvgs, 2000)
    assert "--n-hvgs 2000 --force" in raised.value.hint


def test_none_were_chosen(dest):
    with pytest.raises(ConfigError, match=r"has no hvg_info.json") as raised:
        create_hvg_dataloader(dest)
    assert "hvg" in raised.value.hint


def test_genes_of_another_folder(with_hvgs, dest, by_dispersion, plain, row_of):
    loader = create_hvg_dataloader(dest, 50, n_hvgs=3, hvg_dir=str(with_hvgs))
    check(loader, plain, row_of, by_dispersion[:3].tolist())


def test_a_damaged_list(tmp_path, dest):
    (tmp_path / "hvg_info.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"hvg_info.json is damaged"):
        HVGDataset(dest, 3, hvg_dir=str(tmp_path))


# The stream


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_of_batches(dest, plain, row_of, workers):
    stream = ShuffledCells(dest, 10, window_cells=20, block_cells=3, seed=1, obs=["age"])
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    assert len(loader) == 11
    batches = list(loader)
    rows = check(batches, plain, row_of)
    assert sorted(flat(rows)) == list(range(N))
    assert sorted(map(len, rows)) == [6, *[10] * 10]
    for _, metadata in batches:
        assert metadata["age"].tolist() == plain.obs.age.loc[metadata["cell_id"]].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_reaches_workers_that_live_on(dest, plain, row_of, workers):
    stream = ShuffledCells(dest, 10, window_cells=20, seed=1)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    found = []
    for epoch in (0, 1, 2, 1):
        stream.set_epoch(epoch)
        found.append(check(loader, plain, row_of))
        assert sorted(flat(found[-1])) == list(range(N))
    assert found[0] != found[1] != found[2]
    assert found[3] == found[1]
    again = ShuffledCells(dest, 10, window_cells=20, seed=1)
    again.set_epoch(2)
    assert sorted(map(sorted, check(again, plain, row_of))) == sorted(map(sorted, found[2]))


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_stream_over_ranks_and_workers(dest, plain, row_of, drop_last):
    options = {"batch_size": 7, "window_cells": 14, "drop_last": drop_last, "where": "age > 0"}
    ranks = []
    for rank in range(3):
        stream = ShuffledCells(dest, **options, rank=rank, world_size=3)
        ranks.append(check(DataLoader(stream, batch_size=None, num_workers=2), plain, row_of))
        assert len(ranks[-1]) == len(stream)
    assert len({len(batches) for batches in ranks}) == 1
    delivered = flat(chain.from_iterable(ranks))
    assert len(delivered) == len(set(delivered))
    wanted = np.flatnonzero(plain.obs.age > 0).tolist()
    assert sorted(delivered) == wanted if not drop_last else len(delivered) == 84


def test_spawned_workers_are_of_the_rank_that_started_them(dest, monkeypatch):
    """Such a process is not part of torch.distributed."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "get_rank", lambda: 1)
        patch.setattr(torch.distributed, "get_world_size", lambda: 2)
        stream = ShuffledCells(dest, 10, window_cells=20)
        travelled = pickle.dumps(stream)
    assert len(stream) == 11
    assert len(pickle.loads(travelled)) == 6  # noqa: S301 # our own
    # Pickled before torch.distributed is in use, it will be a rank of its own.
    assert len(pickle.loads(pickle.dumps(stream))) == 11  # noqa: S301 # our own


# torch's own, of every sparse tensor that comes from another process
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("form", ["dense", "csr", "ragged"])
def test_forms_of_a_stream(dest, plain, row_of, form):
    stream = ShuffledCells(dest, 30, form=form, genes=[4, 2, 0])
    for found, metadata in DataLoader(stream, batch_size=None, num_workers=1):
        rows = [row_of[name] for name in metadata["cell_id"]]
        wanted = plain.matrix[rows].toarray()[:, [4, 2, 0]]
        if form == "ragged":
            values, indices, lengths = found
            assert lengths.tolist() == (wanted > 0).sum(axis=1).tolist()
            assert values.tolist() == wanted[wanted > 0].tolist()
            assert indices.tolist() == np.nonzero(wanted)[1].tolist()
        else:
            np.testing.assert_array_equal((found.to_dense() if form == "csr" else found).numpy(), wanted)


def test_a_cache_asked_for_by_one_is_not_the_others(dest, plain, row_of):
    """A second dataset over the same open cells neither closes the files of a pass that is under way nor sets them."""
    cells = open_chunks(dest)
    stream = iter(ShuffledCells(cells, 8, window_cells=16))
    seen = [next(stream)]
    kept = ChunkDataset(cells, chunk_cache_size=2)
    assert (kept[3][1]["cell_id"], cells.settings.cache_bytes) == (plain.names[3], None)
    assert kept.cells.settings.cache_bytes > 0
    seen += stream
    assert sorted(flat(check(seen, plain, row_of))) == list(range(len(plain.names)))


def test_genes_of_a_file(dest, plain, tmp_path):
    ids = [plain.genes[column] for column in (4, 1, 7)]
    (tmp_path / "genes.txt").write_text("# what qc kept\n" + "\n".join(ids))
    item, _ = ChunkDataset(dest, genes=f"@{tmp_path / 'genes.txt'}")[5]
    np.testing.assert_array_equal(item.numpy(), plain.matrix[[5]].toarray()[0, [4, 1, 7]])
    with pytest.raises(ConfigError, match="genes=: cannot read"):
        ChunkDataset(dest, genes="@nowhere.txt")
