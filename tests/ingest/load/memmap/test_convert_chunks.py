"""Rows straight from chunks: what plain readers find in them, in any cut and type; damage is named."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import CorruptError, IncompleteError
from ingest.finish import finish
from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles
from ingest.load.memmap.convert import chunks as module
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.convert.casting import cast_values
from ingest.load.memmap.convert.chunks import ChunkRows
from ingest.load.memmap.names import FLOAT_ORDER, INT_ORDER, FileNames
from ingest.store.open import open_store
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.shelf import KINDS, Shelf

N = 106


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("chunk-rows"))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(module, "_WINDOW_ENTRIES", 60)
    monkeypatch.setattr("ingest.load.read.chunk._PLAIN_ENTRIES", 48)
    monkeypatch.setattr("ingest.load.read.chunk._PLAIN_BYTES", 500)


def write(rows: ChunkRows, folder, cuts=None, dtype="float32"):
    """Write all rows, part by part, the last part first; return what is written and the matrix that is there then."""
    folder.mkdir()
    spec = ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, dtype)
    cuts = [0, *(cuts or ()), rows.n_rows]
    before = rows.entries_before(np.array(cuts)).tolist()
    said = []
    with ArrayFiles.create(folder, spec) as into:
        for at in reversed(range(len(cuts) - 1)):
            place = Place(cuts[at], cuts[at + 1] - cuts[at], cuts[at], before[at])
            said.append(rows.write(place, into))
            assert (said[-1].n_rows, said[-1].n_entries) == (place.n_rows, before[at + 1] - before[at])
    data, columns, ends = (
        np.fromfile(folder / name.value, spec.arrays[name][0])
        for name in (FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR)
    )
    shape = (rows.n_rows, rows.n_columns)
    return said, sparse.csr_matrix((data, columns.astype(np.int64), ends.astype(np.int64)), shape=shape)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith(("deflate", "none"))])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.sampled(3)
def test_all_rows_of_every_kind_of_chunk(shelf, tmp_path, kind, threads):
    plain = shelf.plain(kind)
    rows = ChunkRows(str(shelf.made(kind)), threads=threads)
    assert (rows.n_rows, rows.n_columns, rows.n_entries) == (N, len(plain.genes), plain.matrix.nnz)
    said, found = write(rows, tmp_path / "a", [7, 38, 90])
    rows.close()
    assert all(one.lossy is None for one in said)
    assert (found.indptr == plain.matrix.indptr).all()
    assert (found.indices == plain.matrix.indices).all()
    assert (found.data == plain.matrix.data.astype(np.float32)).all()


@given(cuts=st.sets(st.integers(1, N - 1), max_size=5), window=st.integers(1, 3_000))
def test_however_rows_are_cut(shelf, cuts, window, tmp_path_factory):
    rows = ChunkRows(str(shelf.made("float32-deflate")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_ENTRIES", window)
        _, found = write(rows, tmp_path_factory.mktemp("cut") / "a", sorted(cuts))
    rows.close()
    assert (found != shelf.plain("float32-deflate").matrix).nnz == 0


@pytest.mark.parametrize("dtype", [*INT_ORDER, *FLOAT_ORDER])
@pytest.mark.parametrize("kind", ["float32-deflate", "int32-lz4", "fractions-deflate", "h5-zstd"])
def test_every_type_and_what_it_does_not_hold(shelf, tmp_path, kind, dtype):
    """The worst entry of all, as numpy says that it differs; entries are numpy's own cast."""
    plain = shelf.plain(kind).matrix
    values = plain.data.astype("int32" if kind.startswith("h5") else KINDS[kind].dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        cast = values.astype(dtype)
        differences = np.abs(cast - values)
    rows = ChunkRows(str(shelf.made(kind)))
    said, found = write(rows, tmp_path / "a", [50], dtype)
    rows.close()
    assert found.data.tobytes() == cast.tobytes()
    worst = max((one.lossy for one in said if one.lossy), key=lambda lossy: lossy.size, default=None)
    if np.allclose(cast, values, rtol=0, atol=1e-8):
        assert worst is None
        return
    assert worst.size == differences.max()
    at = int(np.flatnonzero(differences == differences.max())[0])
    assert worst.value == str(values[at])
    assert differences[plain.indptr[worst.row] : plain.indptr[worst.row + 1]].max() == differences.max()


def test_a_tolerance_is_kept_to(shelf, tmp_path):
    rows = ChunkRows(str(shelf.made("fractions-deflate")))
    spec = ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, "uint8")
    with ArrayFiles.create(tmp_path, spec) as into:
        place = Place(0, rows.n_rows, 0, 0)
        assert rows.write(place, into, tolerance=1.0).lossy is None
        assert rows.write(place, into, tolerance=0.1).lossy is not None
    rows.close()


def test_progress_is_told(shelf, tmp_path):
    rows = ChunkRows(str(shelf.made("float32-deflate")))
    spec = ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, "float32")
    heard: list[int] = []
    with ArrayFiles.create(tmp_path, spec) as into:
        rows.write(Place(10, 60, 10, int(rows.entries_before(np.array([10]))[0])), into, reached=heard.append)
    rows.close()
    assert heard == sorted(heard)
    assert (len(heard) > 3, heard[-1]) == (True, 60)


@pytest.mark.parametrize("kind", ["float32-deflate", "h5-none"])
def test_entries_before_any_row(shelf, kind):
    rows = ChunkRows(str(shelf.made(kind)))
    assert (rows.entries_before(np.arange(N + 1)) == shelf.plain(kind).matrix.indptr).all()
    starts, entries = rows.pieces
    assert (entries == shelf.plain(kind).matrix.indptr[starts]).all()
    assert len(rows.entries_before(np.empty(0, np.int64))) == 0
    rows.close()


def test_features_are_obs_names_and_genes(shelf):
    rows, plain = ChunkRows(str(shelf.made("float32-deflate")), label="lung"), shelf.plain("float32-deflate")
    obs, var = rows.obs_features(), rows.var_features()
    rows.close()
    assert rows.label == "lung"
    assert obs["cell_id"].to_pylist() == plain.names
    for name in plain.obs:
        assert obs[name].to_pylist() == plain.obs[name].tolist(), name
    assert var.column_names == ["feature_id", "feature_name", "feature_length"]
    assert var["feature_id"].to_pylist() == list(plain.genes)
    assert rows.neighbors("knn") is None


def test_the_smallest_type_is_what_receipts_say(shelf):
    found = {}
    for kind in ("float32-deflate", "int32-lz4", "fractions-deflate"):
        rows = ChunkRows(str(shelf.made(kind)))
        found[kind] = rows.smallest_dtype
        rows.close()
    largest = shelf.plain("int32-lz4").matrix.max()
    assert 2**16 <= largest < 2**32
    assert found == {"float32-deflate": "uint8", "int32-lz4": "uint32", "fractions-deflate": None}


@pytest.fixture
def damageable(shelf, tmp_path):
    def copy(kind):
        shutil.copytree(shelf.made(kind), tmp_path / kind)
        return DamageableDataset(tmp_path / kind, "h5" if kind.startswith("h5") else "h5ad")

    return copy


@pytest.mark.parametrize("kind", ["float32-deflate", "uint16-none", "h5-lz4"])
def test_chunks_of_which_nobody_knows_where_their_blocks_lie(damageable, shelf, tmp_path, kind):
    """Adopted ones: HDF5 is asked, of the bytes that are held."""
    dest = damageable(kind)
    path = dest.path / "chunk_offsets.feather"
    table = pa.ipc.open_file(path).read_all()
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table.filter(pc.not_equal(table["chunk"], 2)))
    rows = ChunkRows(str(dest.path))
    _, found = write(rows, tmp_path / "a", [40])
    rows.close()
    assert (found != shelf.plain(kind).matrix).nnz == 0


@pytest.mark.parametrize("kind", ["float32-none", "float32-lz4", "h5-none"])
@pytest.mark.parametrize("damage", ["flipped", "another", "cut", "gone"])
def test_damage_that_no_codec_sees_is_named(damageable, tmp_path, kind, damage):
    """lz4 and none have no checksum, and a chunk in another's place has a good one: sha256 tells."""
    dest = damageable(kind)
    if damage == "flipped":
        flip_bit(dest.chunk(2))
    elif damage == "another":
        shutil.copy(dest.chunk(1), dest.chunk(2))
    elif damage == "cut":
        dest.chunk(2).write_bytes(dest.chunk(2).read_bytes()[:-10])
    else:
        dest.chunk(2).unlink()
    rows = ChunkRows(str(dest.path))
    spec = ArchiveSpec.smallest(rows.n_rows, rows.n_entries, rows.n_columns, "float32")
    with ArrayFiles.create(tmp_path, spec) as into:
        rows.write(Place(0, 38, 0, 0), into)  # chunks before it
        with pytest.raises(CorruptError, match="chunk_000002") as caught:
            rows.write(Place(30, 60, 0, 0), into)
    rows.close()
    assert (caught.value.chunk, "repair" in caught.value.hint) == (2, True)


def test_an_incomplete_dataset_is_refused_and_taken_when_asked(damageable, tmp_path, shelf):
    dest = damageable("float32-deflate")
    dest.receipt(2).unlink()
    (dest.path / "_SUCCESS.json").unlink()  # of what was finished nobody makes less
    finish(dest.open())
    with pytest.raises(IncompleteError) as caught:
        ChunkRows(str(dest.path))
    assert "--allow-incomplete" in caught.value.hint
    rows = ChunkRows(str(dest.path), allow_incomplete=True)
    _, found = write(rows, tmp_path / "a", [40])
    rows.close()
    left = np.r_[:38, 57:N]
    assert (found != shelf.plain("float32-deflate").matrix[left]).nnz == 0


@pytest.mark.parametrize("server", ["s3_server", "gcs_server"])
def test_from_a_bucket(shelf, tmp_path, request, server, monkeypatch):
    there = request.getfixturevalue(server)
    for name, value in there.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scheme = "s3" if server == "s3_server" else "gs"
    url = f"{there.create_bucket(f'{scheme}-chunk-rows')}/lung"
    made = shelf.made("float32-lz4")
    store = open_store(url)
    for path in sorted(made.rglob("*")):
        if path.is_file():
            store.put_new(str(path.relative_to(made)), path.read_bytes())
    store.close()
    rows = ChunkRows(url)
    _, found = write(rows, tmp_path / "a", [40])
    names = rows.obs_features()["cell_id"].to_pylist()
    rows.close()
    assert (found != shelf.plain("float32-lz4").matrix).nnz == 0
    assert names == shelf.plain("float32-lz4").names


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    st.sampled_from([*INT_ORDER, *FLOAT_ORDER]),
    st.sampled_from([1e-8, 0.3, 2.0]),
)
def test_a_cast_is_lossy_where_numpy_finds_it_far(values, dtype, tolerance):
    values = np.array(values, np.float32)
    cast, worst, lossy = cast_values(values, np.dtype(dtype), tolerance)
    with np.errstate(all="ignore"):
        theirs = values.astype(dtype)
        assert cast.tobytes() == theirs.tobytes()
        assert (lossy is None) == bool(np.allclose(theirs, values, rtol=0, atol=tolerance))
        if lossy is not None:
            assert lossy.difference == str(np.max(np.abs(theirs - values)))
            assert lossy.value == str(values[worst])


def test_negative_numbers_do_not_pass_as_the_large_ones_that_they_become():
    _, _, lossy = cast_values(np.array([3, -1], np.int32), np.dtype("uint32"), 1e-8)
    assert (lossy.value, lossy.difference) == ("-1", "4294967296")
