"""One archive: how it is made, what it says, what it refuses."""

from __future__ import annotations

import copy
import os
import pickle
import shutil

import anndata
import numpy as np
import pytest
import torch
from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset as Theirs
from scipy import sparse
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from ingest.errors import ConflictError, CorruptError, IngestError
from ingest.load.memmap import (
    Mode,
    NeighborSamplingStrategy,
    SingleCellMemMapDataset,
    collate_neighbor_sparse_matrix_batch,
    collate_sparse_matrix_batch,
)
from ingest.load.memmap.arrays import entries_of
from ingest.load.memmap.attempt import Attempt
from ingest.load.memmap.cells import MappedCells
from ingest.load.memmap.revise import changing
from ingest.testing.scdl_files import ScdlFile, write_scdl_file


@pytest.fixture
def h5ad(tmp_path):
    return str(write_scdl_file(tmp_path / "cells.h5ad", ScdlFile(n_cells=30, neighbors=True)))


@pytest.fixture
def archive(tmp_path, h5ad):
    return SingleCellMemMapDataset(tmp_path / "archive", h5ad, load_neighbors=True)


def test_what_it_says_is_what_anndata_says(archive, h5ad):
    adata = anndata.read_h5ad(h5ad)
    assert len(archive) == archive.number_of_rows() == 30
    assert archive.shape() == (30, [40])
    assert archive.number_of_values() == 1200
    assert archive.number_nonzero_values() == adata.raw.X.nnz
    dense = np.stack([archive.get_row_padded(row)[0] for row in range(30)])
    assert (dense == adata.raw.X.toarray()).all()
    assert archive.get_rows(np.arange(30)).to_scipy().toarray().tolist() == dense.tolist()
    assert [archive.obs_features()[row][0][0] for row in range(30)] == list(adata.obs["cell_line"])
    assert list(archive.get_row(0, return_var_features=True, var_feature_names=["feature_id"])[1][0]) == list(
        adata.var["feature_id"]
    )
    row, column = 3, int(archive.get_row(3)[0][1][0])
    assert archive.get_row_column(row, column) == dense[row, column]
    absent = int(np.flatnonzero(dense[row] == 0)[0])
    assert archive.get_row_column(row, absent) == 0.0
    assert archive.get_row_column(row, absent, impute_missing_zeros=False) is None


@pytest.mark.parametrize("row", [-1, 30, 1 << 40])
def test_rows_that_are_not_there(archive, row):
    with pytest.raises(IndexError):
        archive[row]
    with pytest.raises(IndexError):
        archive.get_rows([0, row])
    with pytest.raises(IndexError):
        archive.sample_neighbor_index(row)


def test_rows_are_asked_for_by_number(archive):
    with pytest.raises(IndexError, match="by number"):
        archive.get_rows([0.5])
    assert len(archive.get_rows([])) == 0


def test_features_that_are_not_there(archive):
    with pytest.raises(ValueError, match="nothing in select_features not present"):
        archive.get_row(0, return_var_features=True, var_feature_names=["nothing"])


def test_what_cannot_be_made(tmp_path, h5ad, archive):
    with pytest.raises(FileExistsError, match="both an existing SCMMAP and an h5ad file"):
        SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    with pytest.raises(FileExistsError, match="Output directory already exists"):
        SingleCellMemMapDataset(tmp_path / "archive", mode=Mode.CREATE_APPEND)
    with pytest.raises(ValueError, match=r"An np\.memmap path, an h5ad path, or the number"):
        SingleCellMemMapDataset(tmp_path / "none")
    with pytest.raises(ValueError, match="Invalid data_dtype 'int32'"):
        SingleCellMemMapDataset(tmp_path / "none", h5ad, data_dtype="int32")
    with pytest.raises(ValueError, match="Unsupported neighbor_sampling_strategy: nearest"):
        SingleCellMemMapDataset(tmp_path / "none", h5ad, load_neighbors=True, neighbor_sampling_strategy="nearest")
    with pytest.raises(FileNotFoundError, match="could not find h5ad path"):
        SingleCellMemMapDataset(tmp_path / "none", str(tmp_path / "none.h5ad"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        archive.load(tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "cells.h5ad"]


def test_a_file_that_breaks_half_way_leaves_nothing(tmp_path, h5ad, monkeypatch):
    from ingest.load.memmap import from_h5ad

    def broken(*_args):
        raise RuntimeError("half way")

    monkeypatch.setattr(from_h5ad, "describe", broken)
    with pytest.raises(RuntimeError):
        SingleCellMemMapDataset(tmp_path / "none", h5ad)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_what_a_killed_attempt_left_goes_with_the_next_and_a_living_one_stays(tmp_path, h5ad):
    killed = os.fork()
    if not killed:
        Attempt(tmp_path / "made").make()
        os._exit(9)
    assert os.waitpid(killed, 0)[1] == 9 << 8
    left = next(tmp_path.glob("made.partial-*"))
    other, alive = Attempt(tmp_path / "made [1]"), Attempt(tmp_path / "made")
    other.make()
    assert left.exists()
    alive.make()
    assert not left.exists()
    SingleCellMemMapDataset(tmp_path / "made", h5ad_path=h5ad)
    assert sorted(one.name[:12] for one in tmp_path.glob("made*.partial-*")) == ["made [1].par", "made.partial"]
    assert alive.folder.exists()
    other.discard()
    alive.discard()
    assert not list(tmp_path.glob("made*.partial-*"))


def test_from_sizes_then_filled_and_saved(tmp_path):
    made = SingleCellMemMapDataset(tmp_path / "sizes", num_elements=3, num_rows=2)
    assert made.number_of_rows() == 0  # no features say otherwise
    with (
        pytest.raises(FileNotFoundError, match=r"metadata\.json does not exist"),
        pytest.warns(UserWarning, match="SCDL"),
    ):
        SingleCellMemMapDataset(tmp_path / "sizes")
    made.row_index[:] = [0, 1, 3]
    made.col_index[:] = [4, 0, 7]
    made.data[:] = [1.5, 2, 3]
    with (
        pytest.raises(FileNotFoundError, match=r"metadata\.json does not exist"),
        pytest.warns(UserWarning, match="SCDL"),
    ):
        Theirs(str(tmp_path / "sizes"))
    assert made.save()
    for kind in (SingleCellMemMapDataset, Theirs):
        again = kind(str(tmp_path / "sizes"))
        assert again.get_row(1)[0][0].tolist() == [2.0, 3.0]
        assert again.get_row(1)[0][1].tolist() == [0, 7]
    assert collate_sparse_matrix_batch(made.__getitems__([0, 1])).shape == (2, 8)
    with pytest.raises(NotImplementedError):
        made.save(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(("elements", "rows"), [(0, 2), (3, 0)])
def test_sizes_of_nothing(tmp_path, elements, rows):
    with pytest.raises(ValueError, match="must be positive to create CSR matrices"):
        SingleCellMemMapDataset(tmp_path / "sizes", num_elements=elements, num_rows=rows)
    assert not (tmp_path / "sizes").exists()


def test_to_other_processes_it_travels_as_its_path(archive):
    sent = pickle.dumps(archive)
    assert len(sent) < 4_000
    for twin in (pickle.loads(sent), copy.deepcopy(archive)):  # noqa: S301 # our own
        assert (twin[7] == archive[7]).all()
        assert twin.get_neighbor_stats() == archive.get_neighbor_stats()


# torch's, of the sparse tensors that it passes from process to process
@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_in_a_dataloader_with_workers(archive, context):
    loader = DataLoader(
        archive, 8, shuffle=True, collate_fn=collate_sparse_matrix_batch, num_workers=2, multiprocessing_context=context
    )
    batches = list(loader)
    assert all(batch.shape[1] == 40 for batch in batches)
    total = sum(float(batch.values().sum()) for batch in batches)
    assert total == float(archive.data.sum())


def test_with_other_collate_functions_and_none(archive):
    [row] = next(iter(DataLoader(archive, batch_size=1)))
    assert (row == archive[0]).all()
    for collate in (list, tuple, lambda rows: torch.cat(rows, dim=1).split([row.shape[1] for row in rows], dim=1)):
        batch = next(iter(DataLoader(archive, batch_size=4, collate_fn=collate)))
        assert all((row == archive[number]).all() for number, row in enumerate(batch))
    assert collate_sparse_matrix_batch(list(archive.__getitems__([0, 1])), width=40).shape == (2, 40)


def test_with_a_batch_sampler(archive):
    sampler = BatchSampler(RandomSampler(archive), 8, drop_last=False)
    batches = list(DataLoader(archive, sampler=sampler, batch_size=None))
    assert [batch.shape for batch in batches] == [(8, 40), (8, 40), (8, 40), (6, 40)]
    assert sum(float(batch.values().sum()) for batch in batches) == float(archive.data.sum())


def test_only_read(archive, tmp_path):
    read = SingleCellMemMapDataset(tmp_path / "archive", mode=Mode.READ)
    with pytest.raises(ValueError, match="read-only"):
        read.data[0] = 1
    assert (read[3] == archive[3]).all()
    for change in (read.save, lambda: read.concat(archive), lambda: read.cast_data_to_dtype("uint8")):
        with pytest.raises(PermissionError, match="nothing is changed by it"):
            change()


def test_casting_in_place_is_what_a_reader_finds(archive, tmp_path):
    before = archive.data.astype(np.float64)
    opened = SingleCellMemMapDataset(tmp_path / "archive")  # bionemo-scdl saves the old header of an opened one
    opened.cast_data_to_dtype("float64")
    for again in (opened, SingleCellMemMapDataset(tmp_path / "archive"), Theirs(str(tmp_path / "archive"))):
        assert again.dtypes["data.npy"] == "float64"
        assert again.data.tolist() == before.tolist()
    opened.cast_data_to_dtype("uint8")
    assert Theirs(str(tmp_path / "archive")).data.tolist() == before.astype(np.uint8).tolist()
    with pytest.raises(ValueError, match="Invalid data_dtype 'complex64'"):
        opened.cast_data_to_dtype("complex64")


def test_neighbors_are_drawn_as_theirs(archive, tmp_path):
    theirs = Theirs(str(tmp_path / "archive"), load_neighbors=True)
    assert archive.get_neighbor_stats() == theirs.get_neighbor_stats()
    drawn = []
    for one in (archive, theirs):
        np.random.seed(3)  # noqa: NPY002 # the generator that both draw from
        drawn.append([int(one.sample_neighbor_index(cell)) for cell in range(30)])
    assert drawn[0] == drawn[1]
    found = archive.get_row_padded_with_neighbor(5, True, ["feature_id"], True, ["cell_line"])
    np.random.seed(1)  # noqa: NPY002
    pairs = [archive.get_row_with_neighbor(cell) for cell in (5, 6)]
    assert found["current_cell"].tolist() == archive.get_row_padded(5)[0].tolist()
    assert len(found["var_features"][0]) == 40
    batch = collate_neighbor_sparse_matrix_batch(pairs, width=40)
    assert batch["current_cell_indices"] == [5, 6]
    assert batch["batch_size"] == 2
    assert batch["next_cells"].to_dense()[0].tolist() == archive.get_row_padded(pairs[0]["next_cell_index"])[0].tolist()


@pytest.mark.usefixtures("archive")
def test_the_first_neighbor_and_none(tmp_path):
    first = SingleCellMemMapDataset(
        tmp_path / "archive", load_neighbors=True, neighbor_sampling_strategy=NeighborSamplingStrategy.FIRST
    )
    some = next(cell for cell in range(30) if len(first.get_neighbor_indices_for_cell(cell)))
    assert first.sample_neighbor_index(some) == first.get_neighbor_indices_for_cell(some)[0]
    matrix = anndata.read_h5ad(tmp_path / "cells.h5ad")
    matrix.obsp["next_cell_ids"] = sparse.csr_matrix(([1.0], ([0], [1])), shape=(30, 30))
    matrix.write_h5ad(tmp_path / "lonely.h5ad")
    lonely = SingleCellMemMapDataset(
        tmp_path / "lonely", str(tmp_path / "lonely.h5ad"), load_neighbors=True, fallback_to_identity=False
    )
    with pytest.warns(UserWarning, match="Cell 4 has no neighbors and fallback_to_identity=False"):
        assert lonely.sample_neighbor_index(4) == 4
    without = SingleCellMemMapDataset(tmp_path / "archive")
    assert without.sample_neighbor_index(4) == 4
    assert len(without.get_neighbor_indices_for_cell(4)) == len(without.get_neighbor_weights_for_cell(4)) == 0
    assert without.get_neighbor_stats() == {"has_neighbors": False}
    with pytest.raises(ValueError, match="neighbor functionality is disabled"):
        without.get_row_with_neighbor(0)


def test_neighbors_asked_for_in_vain(tmp_path):
    h5ad = str(write_scdl_file(tmp_path / "cells.h5ad", ScdlFile()))
    with pytest.warns(UserWarning, match="Neighbor"):
        made = SingleCellMemMapDataset(tmp_path / "archive", h5ad, load_neighbors=True)
    with pytest.raises(ValueError, match="enabled but no neighbor data is available"):
        made.get_neighbor_indices_for_cell(0)


def test_columns_that_do_not_ascend(tmp_path):
    file = ScdlFile(n_cells=9, unsorted=True)
    h5ad = str(write_scdl_file(tmp_path / "cells.h5ad", file))
    made = SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    dense = anndata.read_h5ad(h5ad).raw.X.toarray()
    found = [[made.get_row_column(row, column) for column in range(file.n_genes)] for row in range(9)]
    assert found == dense.tolist()


def damage(name, change):
    def apply(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return apply


@pytest.mark.parametrize(
    "harm",
    [
        damage("data.npy", lambda data: data[:-1]),
        damage("data.npy", lambda data: data[:-4]),
        damage("col_ptr.npy", lambda data: data + data),
        damage("row_ptr.npy", lambda data: data[:-2] + b"\xff\xff"),
        damage("row_ptr.npy", lambda data: b"\x01" + data[1:]),
        damage("header.sch", lambda data: data[:40]),
        damage("header.sch", lambda data: data.replace(b"ROWPTR", b"ROWPTS")),
        damage("metadata.json", lambda _: b"{"),
    ],
)
def test_damage_is_named_when_it_is_opened(archive, tmp_path, harm):
    del archive
    harm(tmp_path / "archive")
    with pytest.raises(CorruptError) as caught:
        SingleCellMemMapDataset(tmp_path / "archive")
    assert str(tmp_path / "archive") in str(caught.value)
    assert isinstance(caught.value, IngestError)


@pytest.mark.usefixtures("archive")
def test_damage_inside_is_named_when_it_is_read(tmp_path):
    damage("col_ptr.npy", lambda data: b"\xff" * len(data))(tmp_path / "archive")
    cells = MappedCells(tmp_path / "archive")
    with pytest.raises(CorruptError, match="column 255 of 40"):
        cells.read(np.array([0, 1]), cells.gene_columns()[1])
    damage("row_ptr.npy", lambda data: data[:4] + b"\0\0" + data[6:])(tmp_path / "archive")
    opened = SingleCellMemMapDataset(tmp_path / "archive")
    with pytest.raises(CorruptError, match="archive"):
        opened.get_rows(np.arange(30))


def test_more_columns_than_var_has_genes(tmp_path):
    """As bionemo-scdl stores a raw.X with genes that X lacks: read, with a word, as wide as all cells need."""
    matrix = sparse.random(30, 80, 0.3, "csr", np.float32, random_state=1)
    adata = anndata.AnnData(matrix, var={"feature_id": [f"g{number}" for number in range(80)]})
    adata.raw = adata
    adata[:, :50].copy().write_h5ad(tmp_path / "wide.h5ad")
    Theirs(str(tmp_path / "theirs"), str(tmp_path / "wide.h5ad"))
    opened = SingleCellMemMapDataset(tmp_path / "theirs")
    with pytest.warns(UserWarning, match=f"batches are {matrix.indices.max() + 1} columns wide"):
        batch = opened.get_rows(np.arange(30))
    assert (batch.to_scipy().toarray() == matrix.toarray()[:, : batch.n_columns]).all()
    assert opened.get_rows([0]).n_columns == batch.n_columns
    ours = SingleCellMemMapDataset(tmp_path / "ours", str(tmp_path / "wide.h5ad"))
    assert ours.shape() == (30, [80])


def test_a_width_that_is_too_small(archive):
    largest = int(archive.get_rows(range(30)).columns.max())
    for batch in (archive.__getitems__(range(30)), [archive[row] for row in range(30)]):
        assert collate_sparse_matrix_batch(batch, width=largest + 1).shape == (30, largest + 1)
        with pytest.raises(ValueError, match=f"there is a column {largest}"):
            collate_sparse_matrix_batch(batch, width=largest)


def test_what_a_subclass_makes_of_a_cell_is_what_a_loader_gets(archive):
    class Tokens(SingleCellMemMapDataset):
        def __getitem__(self, idx):
            return {"cell": idx}

    [batch] = DataLoader(Tokens(archive.data_path), batch_size=30, collate_fn=list)
    assert batch == [{"cell": cell} for cell in range(30)]


@pytest.mark.parametrize("index", [torch.tensor(3), np.array(3), np.int8(3), np.uint8(3)])
def test_numbers_of_all_kinds(archive, index):
    assert (archive[index] == archive[3]).all()
    assert archive.get_row(index)[0][0].tolist() == archive.get_row(3)[0][0].tolist()


def test_wherever_the_process_goes(tmp_path, archive, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = SingleCellMemMapDataset("archive")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (copy.deepcopy(opened)[3] == archive[3]).all()
    opened.save()
    opened.cast_data_to_dtype("float64")
    assert opened.data_path == "archive"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_one_that_has_been_changed_since(tmp_path, archive):
    shutil.copytree(tmp_path / "archive", tmp_path / "twin")
    late, twin = SingleCellMemMapDataset(tmp_path / "archive"), SingleCellMemMapDataset(tmp_path / "twin")
    archive.cast_data_to_dtype("uint32")  # of the same size
    for change in (late.save, lambda: late.concat(late), lambda: late.cast_data_to_dtype("uint8")):
        with pytest.raises(ConflictError, match="has been changed since it was opened"):
            change()
    again = SingleCellMemMapDataset(tmp_path / "archive")
    with pytest.raises(ConflictError, match="has been changed since it was opened"):
        twin.concat(late)
    assert again.data.dtype == np.uint32
    assert again.data.tolist() == late.data.tolist()


def test_one_that_is_being_changed(tmp_path, archive):
    with changing(tmp_path / "archive"):
        with pytest.raises(ConflictError, match="is being changed by somebody else"):
            archive.save()
        assert len(SingleCellMemMapDataset(tmp_path / "archive")) == 30
        (tmp_path / "archive" / "revision.json").write_text('{"sizes": {}, "metadata": {}}')
        with pytest.raises(ConflictError, match="is being changed by somebody else"):
            SingleCellMemMapDataset(tmp_path / "archive")
        assert (tmp_path / "archive" / "revision.json").exists()
    assert len(SingleCellMemMapDataset(tmp_path / "archive")) == 30
    assert not (tmp_path / "archive" / "revision.json").exists()


def test_an_archive_without_header_is_one_of_the_oldest(tmp_path):
    made = SingleCellMemMapDataset(tmp_path / "sizes", num_elements=3, num_rows=2)
    made.row_index[:] = [0, 1, 3]
    made.save()
    (tmp_path / "sizes" / "header.sch").unlink()
    with pytest.warns(UserWarning, match="continuing without header"):
        assert SingleCellMemMapDataset(tmp_path / "sizes").row_index.tolist() == [0, 1, 3]


def test_one_that_cannot_be_written_is_read(archive, tmp_path, monkeypatch):
    del archive
    real = np.memmap

    def refused(path, dtype, mode, **options):
        if mode != "r":
            raise PermissionError(13, "no", str(path))
        return real(path, dtype, mode, **options)

    monkeypatch.setattr("ingest.load.memmap.arrays.np.memmap", refused)
    opened = SingleCellMemMapDataset(tmp_path / "archive")
    assert not opened.data.flags.writeable


def test_whole_numbers_of_entries(tmp_path):
    assert entries_of(tmp_path, 12, "uint32") == 3
    with pytest.raises(CorruptError, match="no whole number of uint32"):
        entries_of(tmp_path, 13, "uint32")


def test_a_lossy_cast_is_warned_of_and_its_block_named(tmp_path):
    h5ad = str(write_scdl_file(tmp_path / "cells.h5ad", ScdlFile(n_cells=30, largest=5_000)))
    with pytest.warns(UserWarning, match=r"Full Dataset: Downcasted data values for 'data\.npy' are not close"):
        SingleCellMemMapDataset(tmp_path / "one", h5ad, data_dtype="uint8")
    with pytest.warns(UserWarning, match="of the dataset: Downcasted") as caught:
        SingleCellMemMapDataset(
            tmp_path / "blocks", h5ad, data_dtype="uint8", paginated_load_cutoff=0, load_block_row_size=10
        )
    firsts = [str(one.message).split(": ")[0] for one in caught]
    assert firsts == [f"Rows {first} to {first + 9} of the dataset" for first in (0, 10, 20)]
    one, blocks = (SingleCellMemMapDataset(tmp_path / name) for name in ("one", "blocks"))
    assert (one.data == blocks.data).all()
    assert (one.row_index == blocks.row_index).all()


def test_it_is_a_dataset_of_torch(archive):
    assert isinstance(archive, torch.utils.data.Dataset)
    assert archive.version() == "0.1.3"
    assert archive.header_path == os.path.join(archive.data_path, "header.sch")  # noqa: PTH118
    shutil.rmtree(archive.data_path)
    with pytest.raises(FileNotFoundError):
        archive.save()
