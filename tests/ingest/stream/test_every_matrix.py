"""Every layout, type of values and of indices, filter and age of file through every operation, beside scanpy."""

from __future__ import annotations

import itertools
import warnings

import anndata
import h5py
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from ingest import stream
from ingest.stream.matrix import work as work_module
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.h5ad_same import assert_same
from ingest.testing.stream_operations import (
    COLUMN,
    CONTROL,
    EDIT,
    MAKE,
    N_CELLS,
    N_GENES,
    READ,
    write_everything,
)

DTYPES = ("bool", *(f"{kind}{8 << n}" for kind in ("int", "uint") for n in range(4)), "float16", "float32", "float64")
STORED = itertools.cycle([*itertools.product(("int64", "int32"), ("gzip", None, "lzf"))])
MATRICES = [
    (layout, dtype, *next(STORED))
    for layout in ("csr", "csc", "dense")
    for dtype in DTYPES
    if layout == "dense" or dtype != "float16"  # scipy has none of half precision
]
KEPT = np.arange(N_CELLS) != N_CELLS // 2, np.arange(N_GENES) != N_GENES // 2
"""What `MAKE["write_filtered_subset"]` keeps."""
OLD = {
    "anndata", "array", "categorical", "csc_matrix", "csr_matrix", "dataframe", "dict", "nullable-boolean",
    "nullable-integer", "numeric-scalar", "raw", "rec-array", "string", "string-array",
}  # fmt: skip
"""Encodings that anndata 0.8 reads."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(work_module, "BLOCK_BYTES", 300)
    monkeypatch.setattr(work_module, "_LEAST_BLOCK_BYTES", 300)


def make_matrix(layout, dtype, indices):
    """Whole numbers, which all types hold: of float64 with fractions that float32 has not."""
    counts = sample_counts(N_CELLS, N_GENES, seed=len(dtype)).astype(np.float64)
    counts.data += 0.1 if dtype in ("float32", "float64") else 0
    if layout == "dense":
        return counts.toarray().astype(dtype)
    made = counts.asformat(layout).astype(dtype)
    made.indices, made.indptr = made.indices.astype(indices), made.indptr.astype(indices)
    return made


def write_matrix(file, path, matrix, compression):
    parent, _, name = path.rpartition("/")
    anndata.io.write_elem(file[parent] if parent else file, name, matrix, dataset_kwargs={"compression": compression})


def read(path, *, old=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if old else "error")  # of what is written anew there is nothing to warn of
        warnings.filterwarnings("ignore", message=".*names are not unique")
        return anndata.read_h5ad(path)


def values(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def same_matrix(found, expected, layout):
    assert getattr(found, "format", "dense") == layout
    np.testing.assert_array_equal(values(found), values(expected))
    assert found.dtype == expected.dtype


def ranks(obs):
    labels = sorted(set(obs[COLUMN].dropna()), key=lambda label: (label != CONTROL, label))
    return obs[COLUMN].map({label: number for number, label in enumerate(labels)}).astype(float).fillna(len(labels))


def rows_of(obs):
    """Rows of the output by operation, where they are not all in their order."""
    return {
        "write_filtered_subset": np.flatnonzero(KEPT[0]),
        "sort_by_perturbation": np.argsort(ranks(obs), kind="stable"),
    }


def x_of_every_kind():
    """Of each type of values one layout; the others by `make test-long`."""
    for matrix in MATRICES:
        turn = DTYPES.index(matrix[1]) % 3 == ("csr", "csc", "dense").index(matrix[0])
        marks = [] if turn or matrix[1] == "float16" else [pytest.mark.long]
        yield pytest.param(matrix, marks=marks, id="-".join(map(str, matrix)))


@pytest.mark.parametrize("matrix", [*x_of_every_kind()])
@pytest.mark.sampled(3)
def test_x_of_every_kind(matrix, tmp_path):
    layout, dtype, indices, compression = matrix
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(N_CELLS, N_GENES))
    with h5py.File(path, "r+") as file:
        del file["X"]
        write_matrix(file, "X", make_matrix(layout, dtype, indices), compression)
        assert layout == "dense" or file["X/indices"].dtype == indices
    cells = read(path)
    half = cells.X.astype(np.float32) if dtype == "float16" else cells.X  # in sparse outputs
    for kind in ("csr", "csc"):
        made = read(MAKE[f"convert_to_{kind}"](path, tmp_path))
        same_matrix(made.X, getattr(sparse, f"{kind}_matrix")(half), kind)
        assert made.X.has_canonical_format
    for options in ({}, {"log1p": False}, {"normalize": False}):
        expected = anndata.AnnData(cells.X.astype(np.float64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if options.get("normalize", True):
                sc.pp.normalize_total(expected, target_sum=1e4)
            if options.get("log1p", True):
                sc.pp.log1p(expected)
        found = read(stream.normalize_total_log1p(path, tmp_path / "n.h5ad", verbose=False, **options).path).X
        assert (found.format, found.dtype) == ("csr", np.float32)
        np.testing.assert_allclose(values(found), values(expected.X), rtol=3e-7)
    same_matrix(read(MAKE["write_filtered_subset"](path, tmp_path)).X, cells.X[KEPT[0]][:, KEPT[1]], layout)
    (tmp_path / "out.h5ad").unlink()  # which sorting would not write over
    in_order = np.argsort(ranks(cells.obs), kind="stable")
    sorted_cells = read(MAKE["sort_by_perturbation"](path, tmp_path))
    same_matrix(sorted_cells.X, cells.X[in_order], "dense" if layout == "dense" else "csr")
    assert list(sorted_cells.obs_names) == list(cells.obs_names[in_order])
    assert_same(read(MAKE["standardize_dataset"](path, tmp_path)).X, cells.X)
    for name, axis in (("iter_matrix_chunks of rows", 0), ("iter_matrix_chunks of genes", 1)):
        found = np.concatenate(READ[name](path), axis=axis)
        np.testing.assert_array_equal(found, values(cells.X))
        assert found.dtype == cells.X.dtype
    assert_same(READ["AnnData.to_memory"](path).X, cells.X)
    assert_same(READ["calculate_adaptive_qc_thresholds"](path), READ["calculate_adaptive_qc_thresholds"](cells))


RAW = [("csr", "uint16", "int64", None), ("csc", "float64", "int32", "lzf"), ("dense", "bool", "", "gzip")]


@pytest.mark.parametrize(
    "raw",
    [RAW[0], *(pytest.param(case, marks=pytest.mark.long) for case in RAW[1:])],
    ids=lambda case: case[0],
)
def test_what_goes_along_of_every_kind(raw, tmp_path):
    """One file with all of them as layers, and raw: cut, sorted or as they are, of their layout and type."""
    path = write_everything(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        for matrix in MATRICES:
            write_matrix(file, f"layers/{'-'.join(map(str, matrix))}", make_matrix(*matrix[:3]), matrix[3])
        write_matrix(file, "raw/X", make_matrix(*raw[:3])[:, np.arange(50) % N_GENES], raw[3])
    cells = read(path)
    rows = rows_of(cells.obs)
    for name, make in MAKE.items():
        (folder := tmp_path / name).mkdir()
        made = read(make(path, folder))
        chosen, genes = rows.get(name, np.arange(N_CELLS)), KEPT[1] if name == "write_filtered_subset" else slice(None)
        for layer, matrix in cells.layers.items():
            same_matrix(made.layers[layer], matrix[chosen][:, genes], getattr(matrix, "format", "dense"))
        same_matrix(made.raw.X, cells.raw.X[chosen], raw[0])
    for name, edit in EDIT.items():
        (copy := tmp_path / f"{name}.h5ad").write_bytes(path.read_bytes())
        edit(copy)
        made = read(copy)
        for layer, matrix in cells.layers.items():
            assert_same(made.layers[layer], matrix)
        assert_same(made.raw.X, cells.raw.X)


@pytest.mark.parametrize(
    ("layout", "legacy"),
    [
        ("csr", "0.7"),
        ("csc", "0.6"),
        ("dense", "0.7"),
        *(pytest.param(*case, marks=pytest.mark.long) for case in (("csr", "0.6"), ("csc", "0.7"), ("dense", "0.6"))),
    ],
)
@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning", "ignore:.*are not unique now")
def test_old_files(legacy, layout, tmp_path):
    """Whatever makes a file of an old one makes one of today; whatever changes it leaves what anndata reads."""
    counts = sample_counts(N_CELLS, N_GENES, seed=2)
    path = write_h5ad_variant(tmp_path / "a.h5ad", counts, layout=layout, where="raw", legacy=legacy)
    cells = read(path, old=True)
    rows = rows_of(cells.obs)
    for name, make in MAKE.items():
        (folder := tmp_path / name).mkdir()
        made = make(path, folder)
        if made == path:  # in that layout already
            continue
        found = read(made, old=name == "standardize_dataset")  # which copies its bytes
        chosen, genes = rows.get(name, np.arange(N_CELLS)), KEPT[1] if name == "write_filtered_subset" else slice(None)
        expected = values(cells.X)[chosen][:, genes]
        if name == "normalize_total_log1p":
            expected = np.log1p(expected * 1e4 / np.maximum(expected.sum(axis=1, keepdims=True), 1e-30))
        np.testing.assert_allclose(values(found.X), expected, rtol=1e-6)
        np.testing.assert_array_equal(values(found.raw.X), values(cells.raw.X)[chosen])
        for column in cells.obs if name != "standardize_dataset" else [COLUMN]:
            assert list(found.obs[column].astype(str)) == list(cells.obs[column].astype(str).iloc[chosen]), column
        if name != "standardize_dataset":
            check_as_anndata_writes(made, tmp_path / "again.h5ad")
    for name, edit in EDIT.items():
        (copy := tmp_path / f"{name}.h5ad").write_bytes(path.read_bytes())
        edit(copy)
        made = read(copy, old=True)
        np.testing.assert_array_equal(values(made.X), values(cells.X))
        np.testing.assert_array_equal(values(made.raw.X), values(cells.raw.X))
        made.write_h5ad(tmp_path / "again.h5ad")


def elements(path):
    """What every group and dataset says it is."""
    with h5py.File(path) as file:
        found = {"/": told(file)}
        file.visititems(lambda name, node: found.update({name: told(node)}))
    return found


def told(node):
    said = {name: node.attrs[name] for name in node.attrs if name != "cell-ingest-made-from"}
    if "indptr" in node.parent and node.name != node.parent.name:  # a matrix's own arrays: anndata's releases differ
        said = {}
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in said.items()}
    kind = (node.dtype.kind, node.shape) if isinstance(node, h5py.Dataset) else "group"
    return plain, kind


def check_as_anndata_writes(path, again):
    """Read by anndata and written again, every element says the same of itself, and nothing that 0.8 does not know."""
    anndata.read_h5ad(path).write_h5ad(again, convert_strings_to_categoricals=False)
    ours, theirs = elements(path), elements(again)
    assert set(ours) == set(theirs)
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}
    assert {said["encoding-type"] for said, _ in ours.values() if "encoding-type" in said} <= OLD


def ways():
    """Of what makes files each from one layout; from the others by `make test-long`."""
    for at, name in enumerate(MAKE):
        for turn, layout in enumerate(("csr", "csc", "dense")):
            yield pytest.param(name, layout, marks=[] if at % 3 == turn else [pytest.mark.long])
    for name in EDIT:
        yield name, "csr"


@pytest.mark.parametrize(("name", "layout"), [*ways()])
@pytest.mark.filterwarnings("ignore:.*are not unique now")
def test_every_element_is_as_anndata_writes_it(name, layout, tmp_path):
    path = write_everything(tmp_path / "a.h5ad", layout)
    if name in MAKE:
        path = MAKE[name](path, tmp_path)
    else:
        EDIT[name](path)
    check_as_anndata_writes(path, tmp_path / "again.h5ad")
