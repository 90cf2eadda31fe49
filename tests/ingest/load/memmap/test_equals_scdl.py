"""Fifty files drawn at random: bionemo-scdl and we make the same of each, and each reads what the other has made."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset as Theirs
from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch as their_collate
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ingest.load.memmap import SingleCellMemMapDataset, collate_sparse_matrix_batch
from ingest.testing.examples import examples
from ingest.testing.scdl_files import ScdlFile, write_scdl_file

FEATURES = ("cell_line", "missing", "n_counts", "score", "is_primary", "batch", "note", "feature_id", "length")
DTYPES = ("uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")

files = st.builds(
    ScdlFile,
    n_cells=st.integers(1, 40),
    n_genes=st.sampled_from([1, 2, 200, 256, 257, 900]),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    dtype=st.sampled_from(["float32", "float64", "int32", "int64", "uint8", "uint16", "bool"]),
    index_dtype=st.sampled_from(["int32", "int64"]),
    largest=st.sampled_from([1, 40, 255, 300, 70_000, 1 << 25]),
    in_raw=st.booleans(),
    codec=st.sampled_from([None, "gzip", "lzf"]),
    obs_columns=st.lists(st.sampled_from(FEATURES), unique=True, max_size=4).map(tuple),
    var_columns=st.lists(st.sampled_from(FEATURES), unique=True, max_size=3).map(tuple),
    neighbors=st.booleans(),
    unsorted=st.booleans(),
    seed=st.integers(0, 1 << 16),
)


@dataclass
class Made:
    archive: object
    error: str | None
    warned: list[str]


def made(kind, *arguments, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            archive, error = kind(*arguments, **options), None
        except ValueError as raised:
            archive, error = None, str(raised)
    said = [str(one.message) for one in caught if "Downcasted" in str(one.message)]
    return Made(archive, error, [text.split(": ", 1)[1] for text in said])


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and len(one) == len(other) and all(map(same, one.tolist(), other.tolist()))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def assert_alike(one, other):
    assert one.dtypes == other.dtypes
    assert one.shape() == other.shape()
    assert (one.number_of_values(), one.number_nonzero_values()) == (
        other.number_of_values(),
        other.number_nonzero_values(),
    )
    assert one.sparsity() == other.sparsity()
    for name in ("data", "row_index", "col_index"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert np.array_equal(getattr(one, name), getattr(other, name))
    if one.load_neighbors:
        assert one.get_neighbor_stats() == other.get_neighbor_stats()


def assert_same_rows(one, other):
    for row in {0, len(one) // 2, len(one) - 1}:
        ours, theirs = (each.get_row(row, True, None, True, None) for each in (one, other))
        assert all(map(np.array_equal, ours[0], theirs[0]))
        assert [part.dtype for part in ours[0]] == [part.dtype for part in theirs[0]]
        for mine, its in zip(ours[1:], theirs[1:], strict=True):
            assert len(mine) == len(its)
            assert all(map(same, mine, its))
        assert one[row].dtype == other[row].dtype
        assert (one[row] == other[row]).all()
        assert same(one.get_row_padded(row)[0], other.get_row_padded(row)[0])
        if one.load_neighbors:
            assert same(one.get_neighbor_indices_for_cell(row), other.get_neighbor_indices_for_cell(row))
            assert same(one.get_neighbor_weights_for_cell(row), other.get_neighbor_weights_for_cell(row))


# torch's, of what bionemo-scdl makes of a batch
@pytest.mark.filterwarnings("ignore:Sparse")
@settings(
    max_examples=examples(12),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(file=files, use_x=st.booleans(), data_dtype=st.sampled_from([None, *DTYPES]))
@example(file=ScdlFile(n_genes=70_000, density=0.01), use_x=False, data_dtype=None)
@example(file=ScdlFile(largest=300), use_x=True, data_dtype="uint8")
def test_both_make_the_same(file, use_x, data_dtype):
    with tempfile.TemporaryDirectory() as folder:
        h5ad = str(write_scdl_file(Path(folder) / "cells.h5ad", file))
        options = {"use_X_not_raw": use_x, "data_dtype": data_dtype, "load_neighbors": file.neighbors}
        ours = made(SingleCellMemMapDataset, f"{folder}/ours", h5ad, **options)
        theirs = made(Theirs, f"{folder}/theirs", h5ad, **options)
        assert ours.error == theirs.error
        assert set(ours.warned) == set(theirs.warned)
        if theirs.archive is None:
            assert not Path(f"{folder}/ours").exists()
            return
        assert_alike(ours.archive, theirs.archive)
        read = {"load_neighbors": file.neighbors}
        crossed = SingleCellMemMapDataset(f"{folder}/theirs", **read), Theirs(f"{folder}/ours", **read)
        assert_alike(*crossed)
        assert_same_rows(*crossed)
        assert_same_rows(ours.archive, Theirs(f"{folder}/theirs", **read))
        rows = [len(ours.archive) - 1, 0]
        batches = (
            collate_sparse_matrix_batch(ours.archive.__getitems__(rows), shrink=True),
            collate_sparse_matrix_batch([ours.archive[row] for row in rows]),
            their_collate([theirs.archive[row] for row in rows]),
        )
        for batch in batches[:2]:
            assert batch.shape == batches[2].shape
            assert batch.dtype == batches[2].dtype
            for part in ("crow_indices", "col_indices", "values"):
                assert (getattr(batch, part)() == getattr(batches[2], part)()).all()


def test_a_header_says_the_same(tmp_path):
    h5ad = str(write_scdl_file(tmp_path / "cells.h5ad", ScdlFile()))
    SingleCellMemMapDataset(tmp_path / "ours", h5ad)
    Theirs(str(tmp_path / "theirs"), h5ad)
    for name in ("header.sch", "metadata.json", "version.json", "data.npy", "row_ptr.npy", "col_ptr.npy"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
