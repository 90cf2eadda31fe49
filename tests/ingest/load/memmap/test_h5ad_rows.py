"""Entries of h5ad files in an archive: what bionemo-scdl makes of the same file, byte for byte, and what it says."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import NoFileError, NoMatrixError, SourceChangedError
from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.source import Source
from ingest.testing.examples import examples
from ingest.testing.h5ad_entries import (
    ARRAYS,
    Archived,
    StoredEntries,
    cast_is_defined,
    convert_by_scdl,
    stored_entries,
)
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

DTYPES = ["uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
FROM_FILES = settings(
    deadline=None, max_examples=examples(14), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Few entries are many blocks, stretches, slices and steps of pointers."""
    monkeypatch.setattr("ingest.fetch.h5ad_stored._LEAST_BLOCK_BYTES", 24)
    monkeypatch.setattr("ingest.fetch.h5ad_stored._RUN_BYTES", 400)
    monkeypatch.setattr("ingest.fetch.h5ad_stored._SLICE_BYTES", 300)
    monkeypatch.setattr("ingest.load.memmap.convert.h5ad_csr._POINTERS", 5)


@pytest.fixture
def folder():
    """A new one for every example."""

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp()))
        return made[-1]

    made: list[Path] = []
    yield make
    for path in made:
        shutil.rmtree(path)


def archive(path, folder, *, dtype="float32", use_x=True, tolerance=1e-8, cuts=(), **options) -> Archived:
    """Write an archive's arrays by parts that end at `cuts`, the last part first."""
    rows = H5adRows(path, use_X_not_raw=use_x, **options)
    try:
        spec = ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, dtype)
        bounds = np.unique(np.array([0, *cuts, rows.n_rows]).clip(0, rows.n_rows))
        entries = rows.entries_before(bounds)
        folder.mkdir()
        said = []
        with ArrayFiles.create(folder, spec) as into:
            for part in reversed(range(len(bounds) - 1)):
                n_rows, reached = int(bounds[part + 1] - bounds[part]), []
                place = Place(int(bounds[part]), n_rows, int(bounds[part]), int(entries[part]))
                written = rows.write(place, into, tolerance=tolerance, reached=reached.append)
                assert (written.n_rows, written.n_entries) == (n_rows, entries[part + 1] - entries[part])
                assert reached == sorted(reached)
                assert reached[-1:] == [n_rows] or not written.n_entries
                said += [written.lossy.difference] if written.lossy else []
        return Archived.read(folder, tuple(said))
    finally:
        rows.close()


@FROM_FILES
@given(stored=stored_entries(), dtype=st.sampled_from(DTYPES), raw=st.booleans(), threads=st.sampled_from([1, 3]))
def test_the_arrays_and_the_warning_are_theirs(folder, stored, dtype, raw, threads):
    assume(cast_is_defined(stored.data, dtype))
    at = folder()
    path = stored.write(at / "a.h5ad", "raw/X" if raw else "X")
    want = convert_by_scdl(path, at / "theirs", data_dtype=dtype, use_X_not_raw=not raw)
    assert archive(path, at / "ours", dtype=dtype, use_x=not raw, threads=threads) == want


@FROM_FILES
@given(stored=stored_entries(), tolerance=st.sampled_from([0.0, 0.2, 3.0, 1e9]))
def test_what_is_tolerated_is_numpys_allclose(folder, stored, tolerance):
    at = folder()
    path = stored.write(at / "a.h5ad")
    want = convert_by_scdl(path, at / "theirs", data_dtype="uint16", use_X_not_raw=True, data_dtype_tolerance=tolerance)
    assert archive(path, at / "ours", dtype="uint16", tolerance=tolerance) == want


@FROM_FILES
@given(
    stored=stored_entries(for_scipy=False),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_parts_make_the_whole_whatever_type_columns_have(folder, stored, cuts):
    at = folder()
    path = stored.write(at / "a.h5ad")
    made = archive(path, at / "ours", dtype="float64", cuts=tuple(cuts))
    spec = ArchiveSpec.smallest(len(stored.indptr) - 1, len(stored.data), stored.width, "float64")
    want = stored.data.astype("<f8"), stored.indices.astype(spec.columns), stored.indptr.astype(spec.rows)
    assert made.arrays == {name: array.tobytes() for name, array in zip(ARRAYS, want, strict=True)}


@pytest.mark.parametrize(
    "source", ["<u4", "<u8", "<i8", *(pytest.param(dtype, marks=pytest.mark.long) for dtype in ("<i4", "<u2", "<i2"))]
)
@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.sampled(3)
def test_numbers_at_the_end_of_their_type(tmp_path, source, target):
    """Where casts are not defined, or round to what the type does not have."""
    most = int(np.iinfo(source).max)
    near = [most - by for by in (0, 1, 2, most // 2, most // 2 + 1)] + [2**24 + 1, 2**24, 2**53 + 1, 2048, 2049]
    data = np.array([number for number in near if number <= most], source)
    for end in range(1, len(data) + 1):
        stored = StoredEntries(np.array([0, 1]), np.zeros(1, np.int32), data[end - 1 : end], 1)
        path = stored.write(tmp_path / f"{end}.h5ad")
        want = convert_by_scdl(path, tmp_path / f"theirs-{end}", data_dtype=target, use_X_not_raw=True)
        assert archive(path, tmp_path / f"ours-{end}", dtype=target) == want


def test_the_worst_entry_is_named(tmp_path):
    indptr = np.array([0, 0, 3, 3, 3, 3, 3, 3, 7, 7])
    data = np.array([1, 2.5, 3, 4, 5, 300, 7], np.float32)
    path = StoredEntries(indptr, np.arange(7), data, 9).write(tmp_path / "a.h5ad")
    rows = H5adRows(path, use_X_not_raw=True)
    with ArrayFiles.create(tmp_path, ArchiveSpec.smallest(9, 7, 9, "uint8")) as into:
        lossy = rows.write(Place(0, 9, 0, 0), into).lossy
        assert (lossy.row, lossy.value, lossy.difference, lossy.size) == (7, "300.0", "256.0", 256.0)
        lossy = rows.write(Place(0, 7, 0, 0), into).lossy
        assert (lossy.row, lossy.value, lossy.difference) == (1, "2.5", "0.5")
        assert rows.write(Place(2, 3, 2, 3), into).lossy is None
    rows.close()


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
@pytest.mark.parametrize("where", ["X", "raw"])
def test_files_of_anndata(tmp_path, monkeypatch, compression, legacy, where):
    """Through the steps of real sizes, and those of old versions."""
    monkeypatch.undo()
    matrix = sample_counts(700, 300, density=0.3)
    path = tmp_path / "a.h5ad"
    write_h5ad_variant(path, matrix, where=where, compression=compression, legacy=legacy)
    made = archive(path, tmp_path / "ours", use_x=where == "X", cuts=(300,))
    assert made.arrays == {
        "data.npy": matrix.data.tobytes(),
        "col_ptr.npy": matrix.indices.astype(np.uint16).tobytes(),
        "row_ptr.npy": matrix.indptr.astype(np.uint16).tobytes(),
    }


@pytest.mark.parametrize(("use_x", "there"), [(True, "raw"), (False, "X")])
def test_a_matrix_that_is_not_there(tmp_path, use_x, there):
    matrix = sample_counts(5, 4)
    adata = anndata.AnnData(matrix)
    if there == "raw":
        adata.raw = adata.copy()
        adata.X = None
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError) as theirs:  # noqa: PT011 # the text is compared
        convert_by_scdl(tmp_path / "a.h5ad", tmp_path / "out", use_X_not_raw=use_x)
    with pytest.raises(NoMatrixError) as ours:
        H5adRows(tmp_path / "a.h5ad", use_X_not_raw=use_x)
    assert str(ours.value) == str(theirs.value)
    assert str(pickle.loads(pickle.dumps(ours.value))) == str(theirs.value)  # noqa: S301 # our own


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as theirs:
        convert_by_scdl(tmp_path / "none.h5ad", tmp_path / "out")
    with pytest.raises(NoFileError) as ours:
        H5adRows(tmp_path / "none.h5ad")
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_without_entries_there_is_no_archive(tmp_path, shape):
    anndata.AnnData(sparse.csr_matrix(shape, dtype=np.float32)).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError) as theirs:  # noqa: PT011 # the text is compared
        convert_by_scdl(tmp_path / "a.h5ad", tmp_path / "out", use_X_not_raw=True)
    rows = H5adRows(tmp_path / "a.h5ad", use_X_not_raw=True)
    assert (rows.n_rows, rows.n_columns, rows.n_entries) == (*shape, 0)
    assert rows.entries_before(np.arange(shape[0] + 1)).tolist() == [0] * (shape[0] + 1)
    with pytest.raises(ValueError) as ours:  # noqa: PT011 # the text is compared
        ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, "float32")
    rows.close()
    assert str(ours.value) == str(theirs.value)


def test_a_file_that_changes_is_noticed(tmp_path):
    write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(20, 9))
    rows = H5adRows(tmp_path / "a.h5ad", use_X_not_raw=True)
    spec = ArchiveSpec.smallest(20, rows.n_entries, 9, "float32")
    with h5py.File(tmp_path / "b.h5ad", "w"):
        pass
    (tmp_path / "b.h5ad").replace(tmp_path / "a.h5ad")
    with ArrayFiles.create(tmp_path, spec) as into, pytest.raises(SourceChangedError):
        rows.write(Place(0, 20, 0, 0), into)
    rows.close()
    with pytest.raises(SourceChangedError):
        H5adRows(Source("h5ad", (tmp_path / "a.h5ad").as_uri(), rows.version))


def test_what_it_says_of_itself(tmp_path):
    path = write_h5ad_variant(tmp_path / "a.h5ad", sample_counts(20, 9))
    rows = H5adRows(path, use_X_not_raw=True)
    assert (rows.label, rows.size_bytes, rows.dtype, rows.is_cuttable) == (
        str(path),
        path.stat().st_size,
        "float32",
        True,
    )
    rows.close()
    named = H5adRows(Source.parse(str(path)), use_X_not_raw=True, label="mine")
    assert named.label == "mine"
    named.close()
