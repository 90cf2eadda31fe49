"""CSC and dense matrices: what bionemo-scdl makes of the same matrix written as CSR."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import HostileFileError, SourceChangedError
from ingest.fetch.h5ad_matrix import describe_matrix
from ingest.fetch.h5ad_open import open_h5ad
from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.load.memmap.convert.h5ad_csc import CscRows
from ingest.load.memmap.convert.h5ad_kernels import place_entries
from ingest.load.memmap.convert.h5ad_matrix import Reading
from ingest.testing.examples import examples
from ingest.testing.h5ad_entries import Archived, StoredEntries, cast_is_defined, convert_by_scdl, stored_entries

if TYPE_CHECKING:
    from pathlib import Path

FROM_FILES = settings(
    deadline=None, max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr("ingest.fetch.h5ad_stored._LEAST_BLOCK_BYTES", 24)
    monkeypatch.setattr("ingest.fetch.h5ad_stored._RUN_BYTES", 400)
    monkeypatch.setattr("ingest.load.memmap.convert.h5ad_csc._ENTRIES", 50)
    monkeypatch.setattr("ingest.load.memmap.convert.h5ad_dense._SLAB_BYTES", 3000)


def archive(path: Path, folder: Path, dtype: str, *, cuts=(), **options) -> Archived:
    rows = H5adRows(path, use_X_not_raw=True, **options)
    try:
        spec = ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, dtype)
        bounds = np.unique(np.array([0, *cuts, rows.n_rows]).clip(0, rows.n_rows))
        entries = rows.entries_before(bounds)
        folder.mkdir()
        said = []
        with ArrayFiles.create(folder, spec) as into:
            for part in range(len(bounds) - 1):
                place = Place(
                    *(int(n) for n in (bounds[part], bounds[part + 1] - bounds[part], bounds[part], entries[part]))
                )
                reached = []
                written = rows.write(place, into, reached=reached.append)
                assert written.n_entries == entries[part + 1] - entries[part]
                assert reached == sorted(reached)
                assert reached[-1] == place.n_rows
                said.append(written.lossy)
        return Archived.read(folder, tuple(one.difference for one in said if one))
    finally:
        rows.close()


def as_csr(stored: StoredEntries) -> StoredEntries:
    """Return a CSC matrix by rows, as scipy has it: nothing added up, nothing left out."""
    made = sparse.csc_matrix((stored.data, stored.indices, stored.indptr), stored.shape).tocsr()
    return StoredEntries(made.indptr, made.indices, made.data, stored.shape[1])


@FROM_FILES
@given(
    stored=stored_entries(),
    dtype=st.sampled_from(["uint8", "float16", "float32"]),
    threads=st.sampled_from([1, 3]),
    memory_bytes=st.sampled_from([40, 1000, 1 << 29]),
)
def test_csc_is_transposed(tmp_path_factory, stored, dtype, threads, memory_bytes):
    """In one pass and in many, with rows that do not fit by themselves."""
    assume(cast_is_defined(stored.data, dtype))
    at = tmp_path_factory.mktemp("csc")
    by_columns = StoredEntries(
        stored.indptr, stored.indices, stored.data, stored.width, "csc", stored.filters, stored.chunks
    )
    want = convert_by_scdl(
        as_csr(by_columns).write(at / "csr.h5ad"), at / "theirs", data_dtype=dtype, use_X_not_raw=True
    )
    path = by_columns.write(at / "csc.h5ad")
    assert archive(path, at / "ours", dtype, threads=threads, memory_bytes=memory_bytes) == want


@FROM_FILES
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 30), st.sampled_from([1, 5, 300])),
    dtype=st.sampled_from(["<f4", "<f8", "<i4", "<u2", "?", "<i8"]),
    target=st.sampled_from(["uint8", "float16", "float32"]),
    chunks=st.sampled_from([None, True, (1, 3), (7, 1), (30, 2), (1000, 1)]),
    compression=st.sampled_from([None, "gzip", "lzf"]),
    memory_bytes=st.sampled_from([200, 4000, 1 << 29]),
)
def test_of_dense_ones_what_is_not_zero(
    tmp_path_factory, seed, shape, dtype, target, chunks, compression, memory_bytes
):
    """By slabs of rows, and by columns of chunks where those are tall."""
    rng, at = np.random.default_rng(seed), tmp_path_factory.mktemp("dense")
    values = (rng.integers(1, 400, shape) * (rng.random(shape) < 0.3) / (1 if dtype != "<f8" else 3)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values[rng.random(shape) < 0.05] = rng.choice([np.nan, -0.0, np.inf])
    values[0, 0] = 1
    anndata.AnnData(sparse.csr_matrix(values)).write_h5ad(at / "csr.h5ad")
    write_dense(at / "dense.h5ad", values, chunks, compression)
    want = convert_by_scdl(at / "csr.h5ad", at / "theirs", data_dtype=target, use_X_not_raw=True)
    assert archive(at / "dense.h5ad", at / "ours", target, memory_bytes=memory_bytes) == want


def write_dense(path, values, chunks=None, compression=None):
    anndata.AnnData(sparse.csr_matrix(values.shape, dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        if isinstance(chunks, tuple):
            chunks = tuple(min(pair) for pair in zip(chunks, values.shape, strict=True))
        made = file.create_dataset(
            "X", data=values, chunks=chunks if compression is None else chunks or True, compression=compression
        )
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


@pytest.mark.parametrize("chunks", [None, (10, 300), (40, 7)])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f4"])
def test_dense_by_parts_and_in_types_that_scipy_does_not_read(tmp_path, chunks, dtype):
    rng = np.random.default_rng(0)
    values = (rng.integers(1, 40, (40, 300)) * (rng.random((40, 300)) < 0.3)).astype(dtype)
    write_dense(tmp_path / "a.h5ad", values, chunks)
    made = archive(tmp_path / "a.h5ad", tmp_path / "ours", "float32", cuts=(1, 17, 18, 33), memory_bytes=50_000)
    want = sparse.csr_matrix(values.astype(np.float32))
    assert made.arrays["data.npy"] == want.data.tobytes()
    assert made.arrays["col_ptr.npy"] == want.indices.astype(np.uint16).tobytes()
    assert made.arrays["row_ptr.npy"] == want.indptr.astype(np.uint16).tobytes()


@pytest.mark.parametrize("layout", ["csc", "dense"])
def test_the_row_of_the_worst_entry(tmp_path, layout):
    values = np.zeros((9, 5), np.float32)
    values[0, 0], values[6, 4], values[7, 2] = 1, 2.5, 2.25
    if layout == "dense":
        write_dense(tmp_path / "a.h5ad", values)
    else:
        anndata.AnnData(sparse.csc_matrix(values)).write_h5ad(tmp_path / "a.h5ad")
    rows = H5adRows(tmp_path / "a.h5ad", use_X_not_raw=True)
    with ArrayFiles.create(tmp_path, ArchiveSpec.smallest(9, 3, 5, "uint8")) as into:
        lossy = rows.write(Place(0, 9, 0, 0), into).lossy
        assert (lossy.row, lossy.value, lossy.difference) == (6, "2.5", "0.5")
        lossy = rows.write(Place(7, 2, 7, 2), into).lossy
        assert (lossy.row, lossy.value) == (7, "2.25")
        assert rows.write(Place(0, 6, 0, 0), into).lossy is None
    assert rows.is_cuttable == (layout == "dense")
    rows.close()


def test_rows_of_csc_that_are_no_rows(tmp_path):
    path = StoredEntries(np.array([0, 2, 3]), np.array([0, 1, 9]), np.ones(3, np.float32), 4, "csc").write(
        tmp_path / "a"
    )
    rows = H5adRows(path, use_X_not_raw=True)
    with pytest.raises(HostileFileError, match=r"a: X/indices: column 1: row 9 of 4") as caught:
        rows.entries_before(np.array([0, 4]))
    assert caught.value.kind == "index-range"
    rows.close()


@pytest.mark.parametrize(("rows_moved", "by"), [(slice(10, 11), 1), (slice(10, 11), -1), (slice(10, 21), 1)])
def test_entries_that_move_between_two_passes(tmp_path, rows_moved, by):
    """The second pass believes nothing of the first."""
    made = sparse.random(20, 30, 0.4, "csc", np.float32, random_state=0)
    anndata.AnnData(made).write_h5ad(tmp_path / "a.h5ad")
    with open_h5ad(str(tmp_path / "a.h5ad")) as file:
        rows = CscRows(Reading(file, 1, 1 << 20), describe_matrix(file, "X"))
        ends = rows.entries_before(np.arange(21))
        ends[rows_moved] += by
        rows._ends = ends
        with (
            ArrayFiles.create(tmp_path, ArchiveSpec.smallest(20, made.nnz + 1, 30, "float32")) as into,
            pytest.raises(SourceChangedError, match="changed while it was read"),
        ):
            rows.write(Place(0, 20, 0, 0), into, tolerance=0, reached=lambda _: None)


def test_a_row_with_more_entries_than_were_counted():
    """Nothing is written beyond its room."""
    rows, columns, values = np.zeros(3, np.int32), np.arange(3), np.ones(3, np.uint32)
    to, into = np.full(3, 9, np.uint16), np.full(3, 9, np.uint32)
    assert place_entries(rows, columns, values, 0, np.array([0]), np.array([2]), to, into)
    assert (to.tolist(), into.tolist()) == ([0, 1, 9], [1, 1, 9])


def test_threads_end_with_what_they_were_for(tmp_path):
    before = threading.active_count()
    path = StoredEntries(np.array([0, 2, 3]), np.array([0, 1, 3]), np.ones(3, np.float32), 4, "csc").write(
        tmp_path / "a"
    )
    archive(path, tmp_path / "ours", "float32", threads=3)
    assert threading.active_count() == before
