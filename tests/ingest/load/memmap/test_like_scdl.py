"""What bionemo-scdl's documentation says, asked of both libraries by the same lines: each test runs with either."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch.utils.data import DataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse "),  # torch's, of its CSR tensors
    pytest.mark.filterwarnings("ignore:Importing CSRDataset:FutureWarning"),  # what bionemo-scdl asks anndata for
]


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two, by its modules' names."""

    dataset: str
    collection: str
    features: str
    collate: str
    script: str

    def __getattr__(self, name: str) -> Any:
        home = {
            "SingleCellMemMapDataset": self.dataset,
            "NeighborSamplingStrategy": self.dataset,
            "SingleCellCollection": self.collection,
            "ObservedFeatureIndex": self.features,
            "VariableFeatureIndex": self.features,
            "collate_sparse_matrix_batch": self.collate,
            "collate_neighbor_sparse_matrix_batch": self.collate,
            "main": self.script,
        }[name]
        return getattr(importlib.import_module(home), name)


_OURS = "ingest.load.memmap"
LIBRARIES = {
    "bionemo-scdl": Library(
        "bionemo.scdl.io.single_cell_memmap_dataset",
        "bionemo.scdl.io.single_cell_collection",
        "bionemo.scdl.index.row_feature_index",
        "bionemo.scdl.util.torch_dataloader_utils",
        "bionemo.scdl.scripts.convert_h5ad_to_scdl",
    ),
    "ours": Library(_OURS, _OURS, _OURS, _OURS, "ingest.cli.convert_scdl"),
}


@pytest.fixture(params=LIBRARIES.values(), ids=LIBRARIES.keys())
def scdl(request):
    return request.param


N_CELLS = 9
WHOLE = {}
PIECES = {"paginated_load_cutoff": 0, "load_block_row_size": 2}
read_both_ways = pytest.mark.parametrize("how", [WHOLE, PIECES], ids=["whole", "in pieces"])


def _counts(n_cells=N_CELLS, n_genes=7, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.6, (n_cells, n_genes)).astype(np.float32)
    counts[1] = 0  # a cell without entries
    counts[0, 3] = 5
    return sp.csr_matrix(counts)


def _adata(counts, start=0):
    n_cells, n_genes = counts.shape
    names = [f"c{cell}" for cell in range(start, start + n_cells)]
    lines = pd.Categorical([("A549", "HeLa")[cell % 2] for cell in range(n_cells)])
    obs = pd.DataFrame({"cell_line": lines, "depth": np.arange(n_cells) * 0.5}, index=names)
    var = pd.DataFrame({"feature_id": [f"ENSG{gene}" for gene in range(n_genes)], "length": np.arange(n_genes)})
    var.index = [f"g{gene}" for gene in range(n_genes)]
    adata = anndata.AnnData(counts * 0.5, obs=obs, var=var, raw={"X": counts, "var": var})
    if n_cells == N_CELLS:
        pairs = sp.csr_matrix(([0.5, 1.5, 2.5], ([0, 0, 4], [2, 3, 8])), shape=(n_cells, n_cells))
        adata.obsp["next_cell_ids"] = pairs
    return adata


@pytest.fixture
def h5ad(tmp_path):
    _adata(_counts()).write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def folder(tmp_path):
    """Three files, the second of other genes, below a folder; not in the order of their making."""
    (tmp_path / "hdf5s" / "deeper").mkdir(parents=True)
    _adata(_counts(4, 7, 2), 20).write_h5ad(tmp_path / "hdf5s" / "deeper" / "c.h5ad")
    _adata(_counts(3, 7, 1)).write_h5ad(tmp_path / "hdf5s" / "a.h5ad")
    _adata(_counts(5, 11, 3), 40).write_h5ad(tmp_path / "hdf5s" / "b.h5ad")
    return tmp_path / "hdf5s"


FOLDER = (_counts(3, 7, 1), _counts(5, 11, 3), _counts(4, 7, 2))
"""What is in it, sorted."""


def _arrays(cells):
    return [np.asarray(array) for array in (cells.data, cells.col_index, cells.row_index)]


def _holds(cells, *matrices):
    data, columns, rows = _arrays(cells)
    ends = np.cumsum([0, *(matrix.nnz for matrix in matrices)])
    pointers = [matrix.indptr[1:] + end for matrix, end in zip(matrices, ends, strict=False)]
    assert data.tolist() == np.concatenate([matrix.data for matrix in matrices]).tolist()
    assert columns.tolist() == np.concatenate([matrix.indices for matrix in matrices]).tolist()
    assert rows.tolist() == [0, *np.concatenate(pointers).tolist()]


def test_sizes_and_sparsity(scdl, tmp_path, h5ad):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    nnz = _counts().nnz
    assert (len(cells), cells.number_of_rows()) == (9, 9)
    assert (cells.number_of_variables(), cells.number_of_values()) == ([7], 63)
    assert cells.number_nonzero_values() == nnz
    assert cells.shape() == (9, [7])
    assert cells.sparsity() == pytest.approx(1 - nnz / 63)
    assert cells.version() == "0.1.3"
    assert {name: cells.dtypes[name] for name in ("data.npy", "col_ptr.npy", "row_ptr.npy")} == {
        "data.npy": "float32",
        "col_ptr.npy": "uint8",
        "row_ptr.npy": "uint8",
    }


def test_raw_unless_x_is_asked_for(scdl, tmp_path, h5ad):
    _holds(scdl.SingleCellMemMapDataset(tmp_path / "raw", h5ad), _counts())
    cells = scdl.SingleCellMemMapDataset(tmp_path / "X", h5ad, use_X_not_raw=True)
    assert np.asarray(cells.data).tolist() == (_counts().data / 2).tolist()


def test_saved_and_opened_by_its_path_alone(scdl, tmp_path, h5ad):
    made = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    assert made.save() is True
    again = scdl.SingleCellMemMapDataset(str(tmp_path / "archive"))
    _holds(again, _counts())
    assert again.dtypes == made.dtypes
    assert [len(again.var_features()), len(again.obs_features())] == [1, 1]


def test_the_lines_about_tokens(scdl, tmp_path, h5ad):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    (values, columns), genes, line = cells.get_row(
        0,
        return_var_features=True,
        var_feature_names=["feature_id"],
        return_obs_features=True,
        obs_feature_names=["cell_line"],
    )
    assert (len(genes), len(line)) == (1, 1)
    assert genes[0].tolist() == [f"ENSG{gene}" for gene in range(7)]
    assert line[0] == "A549"
    tokens = dict(zip(genes[0][columns], values, strict=True))
    assert tokens == {f"ENSG{gene}": count for gene, count in zip(*_entries(0), strict=True)}
    assert cells.get_row(0)[1:] == (None, None)


def _entries(cell):
    row = _counts()[cell]
    return row.indices, row.data


def test_the_lines_about_cells(scdl, tmp_path, h5ad):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    (some,), labels = cells.obs_features()[5:8]
    assert {name: values.tolist() for name, values in some.items()} == {
        "cell_line": ["HeLa", "A549", "HeLa"],
        "depth": [2.5, 3.0, 3.5],
    }
    assert [str(label) for label in labels] == [str(h5ad)]
    assert cells.obs_features()[3][0] == ["HeLa", 1.5]


def test_a_cell_padded_and_one_count(scdl, tmp_path, h5ad):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    dense = _counts().toarray()
    for cell in range(9):
        padded, genes, _ = cells.get_row_padded(cell, return_var_features=True, var_feature_names=["length"])
        assert (padded.dtype, padded.tolist()) == (np.float64, dense[cell].tolist())
        assert genes[0].tolist() == list(range(7))
        assert [cells.get_row_column(cell, gene) for gene in range(7)] == dense[cell].tolist()
    assert cells.get_row_column(1, 2, impute_missing_zeros=False) is None


def test_a_loader_of_single_cells_needs_no_collate_function(scdl, tmp_path, h5ad):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    for cell, batch in enumerate(DataLoader(cells, batch_size=1)):
        columns, values = _entries(cell)
        assert batch.shape == (1, 2, len(columns))
        assert (batch[0, 0].tolist(), batch[0, 1].tolist()) == (values.tolist(), columns.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_lines_about_loaders(scdl, tmp_path, h5ad, workers):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad)
    loader = DataLoader(
        cells, batch_size=4, shuffle=True, collate_fn=scdl.collate_sparse_matrix_batch, num_workers=workers
    )
    came: list[list[float]] = []
    for batch in loader:
        assert batch.is_sparse_csr
        dense = batch.to_dense().numpy()
        came += np.pad(dense, ((0, 0), (0, 7 - dense.shape[1]))).tolist()
    assert sorted(came) == sorted(_counts().toarray().tolist())


def test_single_cells_collated_by_hand(scdl):
    rows = [torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.zeros(2, 0), torch.tensor([[7.0], [2.0]])]
    batch = scdl.collate_sparse_matrix_batch(rows)
    assert batch.to_dense().tolist() == [[1, 0, 0, 0, 2], [0] * 5, [0, 0, 7, 0, 0]]
    assert batch.col_indices().dtype == torch.int32
    assert scdl.collate_sparse_matrix_batch([torch.zeros(2, 0)] * 2).shape == (2, 0)


@read_both_ways
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"])
@pytest.mark.sampled(3)
def test_values_of_a_type_that_holds_them(scdl, tmp_path, h5ad, dtype, how):
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad, data_dtype=dtype, **how)
    assert cells.data.dtype == dtype
    _holds(cells, _counts())
    assert scdl.SingleCellMemMapDataset(tmp_path / "archive").dtypes["data.npy"] == dtype


@read_both_ways
def test_a_type_that_does_not_hold_them_is_warned_of(scdl, tmp_path, h5ad, how):
    wanted = r"Downcasted data values for 'data.npy' are not close to original values\. Max abs diff: 0\.5"
    with pytest.warns(UserWarning, match=wanted):
        scdl.SingleCellMemMapDataset(tmp_path / "X", h5ad, use_X_not_raw=True, data_dtype="uint8", **how)
    # Within the tolerance there is nothing to say: warnings are errors here.
    more = {"use_X_not_raw": True, "data_dtype": "uint8", "data_dtype_tolerance": 0.5}
    scdl.SingleCellMemMapDataset(tmp_path / "tolerated", h5ad, **more, **how)


def test_values_cast_where_they_are(scdl, tmp_path, h5ad):
    scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad).cast_data_to_dtype("uint16")
    again = scdl.SingleCellMemMapDataset(tmp_path / "archive")
    assert again.dtypes["data.npy"] == "uint16"
    _holds(again, _counts())
    with pytest.raises(ValueError, match=r"Invalid data_dtype 'int32'\. Must be one of: uint8, uint16"):
        again.cast_data_to_dtype("int32")


def test_archives_become_one(scdl, tmp_path, folder):
    files = [folder / "a.h5ad", folder / "b.h5ad", folder / "deeper" / "c.h5ad"]
    one, *others = (scdl.SingleCellMemMapDataset(tmp_path / path.stem, path) for path in files)
    one.concat(others)
    _holds(one, *FOLDER)
    assert (one.number_of_variables(), one.number_of_values()) == ([7, 11, 7], 3 * 7 + 5 * 11 + 4 * 7)
    assert one.get_row(4, return_var_features=True, var_feature_names=["feature_id"])[1][0][-1] == "ENSG10"
    assert one.get_row(11, return_obs_features=True)[2] == ["HeLa", 1.5]
    assert one.get_row_padded(4)[0].tolist() == FOLDER[1].toarray()[1].tolist()


def test_kinds_of_numbers_are_not_mixed(scdl, tmp_path, folder):
    whole = scdl.SingleCellMemMapDataset(tmp_path / "a", folder / "a.h5ad", data_dtype="uint8")
    real = scdl.SingleCellMemMapDataset(tmp_path / "b", folder / "b.h5ad")
    with pytest.raises(ValueError, match="Cannot merge datasets with a mix of int and float dtypes for data"):
        whole.concat(real)


def test_a_collection_becomes_one_archive(scdl, tmp_path, folder):
    files = scdl.SingleCellCollection(tmp_path / "collection")
    files.load_h5ad_multi(folder, max_workers=2)
    assert sorted(path.name for path in files.fname_to_mmap) == ["a", "b", "c"]
    assert (files.number_of_rows(), files.number_nonzero_values()) == (12, sum(matrix.nnz for matrix in FOLDER))
    assert files.shape() == (12, [7, 11, 7])
    files.flatten(tmp_path / "flat", destroy_on_copy=True)
    assert not (tmp_path / "collection").exists()
    _holds(scdl.SingleCellMemMapDataset(tmp_path / "flat"), *FOLDER)


def test_the_script(scdl, tmp_path, folder, monkeypatch):
    words = ["--data-path", str(folder), "--save-path", str(tmp_path / "out"), "--data-dtype", "uint16"]
    monkeypatch.setattr(sys, "argv", ["convert_h5ad_to_scdl", *words, "--num-workers", "2"])
    try:
        scdl.main()
    except SystemExit as ended:
        assert not ended.code  # noqa: PT017
    cells = scdl.SingleCellMemMapDataset(tmp_path / "out")
    assert cells.data.dtype == np.uint16
    _holds(cells, *FOLDER)


def _with_neighbors(scdl, tmp_path, h5ad, **more):
    return scdl.SingleCellMemMapDataset(
        tmp_path / "neighbors", h5ad, load_neighbors=True, neighbor_key="next_cell_ids", **more
    )


@read_both_ways
def test_neighbors_of_a_cell(scdl, tmp_path, h5ad, how):
    cells = _with_neighbors(scdl, tmp_path, h5ad, **how)
    reopened = scdl.SingleCellMemMapDataset(tmp_path / "neighbors", load_neighbors=True)
    for dataset in (cells, reopened):
        assert [dataset.get_neighbor_indices_for_cell(cell).tolist() for cell in (0, 1, 4)] == [[2, 3], [], [8]]
        assert dataset.get_neighbor_weights_for_cell(0).tolist() == [0.5, 1.5]
        assert {dataset.sample_neighbor_index(0) for _ in range(60)} == {2, 3}
        assert dataset.sample_neighbor_index(1) == 1
        assert dataset.get_neighbor_stats() == {
            "has_neighbors": True,
            "total_connections": 3,
            "min_neighbors_per_cell": 0,
            "max_neighbors_per_cell": 2,
            "avg_neighbors_per_cell": 3 / 9,
            "cells_with_no_neighbors": 7,
        }
    with pytest.raises(IndexError, match="Cell index 9 out of bounds for dataset with 9 cells"):
        cells.get_neighbor_indices_for_cell(9)


def test_the_lines_about_contrast(scdl, tmp_path, h5ad):
    cells = _with_neighbors(scdl, tmp_path, h5ad, neighbor_sampling_strategy=scdl.NeighborSamplingStrategy.FIRST)
    pairs = [cells.get_row_with_neighbor(cell) for cell in range(len(cells))]
    assert [(pair["current_cell_index"], pair["next_cell_index"]) for pair in pairs][:5] == [
        *((0, 2), (1, 1), (2, 2), (3, 3), (4, 8))
    ]
    batch = scdl.collate_neighbor_sparse_matrix_batch(pairs)
    assert (batch["batch_size"], batch["next_cell_indices"][4]) == (9, 8)
    dense = _counts().toarray()
    for which, wanted in (("current_cells", dense), ("next_cells", dense[batch["next_cell_indices"]])):
        assert batch[which].dtype == torch.float32
        assert batch[which].to_dense().numpy().tolist() == wanted[:, : batch[which].shape[1]].tolist()
    padded = cells.get_row_padded_with_neighbor(4)
    assert (padded["current_cell"].tolist(), padded["next_cell"].tolist()) == (dense[4].tolist(), dense[8].tolist())
    assert set(padded) == {
        *("current_cell", "next_cell", "current_cell_index", "next_cell_index", "var_features", "obs_features")
    }


def test_neighbors_that_are_not_there(scdl, tmp_path, h5ad):
    with pytest.warns(UserWarning, match="Neighbor key 'other' not found in AnnData.obsp. Neighbor loading skipped."):
        cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", h5ad, load_neighbors=True, neighbor_key="other")
    assert cells.get_neighbor_stats() == {"has_neighbors": False}
    with pytest.raises(ValueError, match="Neighbor functionality was enabled but no neighbor data is available"):
        cells.sample_neighbor_index(0)
    with pytest.raises(ValueError, match="Cannot include neighbor data"):
        cells.get_row_with_neighbor(0)
    with pytest.warns(UserWarning, match="Neighbor loading was requested but neighbor files are missing"):
        scdl.SingleCellMemMapDataset(tmp_path / "archive", load_neighbors=True)
    without = scdl.SingleCellMemMapDataset(tmp_path / "archive")
    assert (without.sample_neighbor_index(3), without.get_neighbor_indices_for_cell(3).tolist()) == (3, [])
    with pytest.raises(ValueError, match="Unsupported neighbor_sampling_strategy: nearest"):
        _with_neighbors(scdl, tmp_path, h5ad, neighbor_sampling_strategy="nearest")


def test_what_cannot_be_opened_or_made(scdl, tmp_path, h5ad):
    make = scdl.SingleCellMemMapDataset
    with pytest.raises(ValueError, match=r"An np\.memmap path, an h5ad path, or the number of elements and rows is"):
        make(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"Error: could not find h5ad path .*no\.h5ad"):
        make(tmp_path / "archive", tmp_path / "no.h5ad")
    with pytest.raises(ValueError, match=r"Invalid data_dtype 'int8'\. Must be one of: uint8, uint16"):
        make(tmp_path / "other", h5ad, data_dtype="int8")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="Invalid input; both an existing SCMMAP and an h5ad file were passed"):
        make(tmp_path / "there", h5ad)
    with pytest.raises(FileExistsError, match="Output directory already exists"):
        make(tmp_path / "there", h5ad, mode="w+")


def test_a_file_without_the_matrix(scdl, tmp_path):
    adata = _adata(_counts())
    adata.raw = None
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(ValueError, match="does not have raw count data; set use_X_not_raw=True"):
        scdl.SingleCellMemMapDataset(tmp_path / "archive", tmp_path / "x.h5ad")


def test_one_filled_by_hand(scdl, tmp_path):
    counts = _counts()
    cells = scdl.SingleCellMemMapDataset(tmp_path / "archive", num_rows=9, num_elements=counts.nnz)
    cells.data[:], cells.col_index[:], cells.row_index[:] = counts.data, counts.indices, counts.indptr
    cells.save()
    again = scdl.SingleCellMemMapDataset(tmp_path / "archive")
    _holds(again, counts)
    assert (len(again), again.number_of_variables()) == (0, [0])  # of no features it knows of
    assert again.get_row(0)[0][0].tolist() == _entries(0)[1].tolist()
