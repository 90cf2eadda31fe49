"""Rows out of stored tiles against TileDB's own reads, for every way in which an array of that kind may be stored."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import tiledbsoma
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import SourceError
from ingest.fetch.assemble import GeneMap
from ingest.fetch.ranges import ranges_of
from ingest.fetch.tiles.folder import LocalArray
from ingest.fetch.tiles.format import Unfamiliar
from ingest.fetch.tiles.reader import TileReader
from ingest.fetch.tiles.stored import open_stored
from ingest.testing.examples import examples
from ingest.testing.tiledb_upkeep import TileDBUpkeep
from ingest.validate import check_counts

SHAPE = (700, 90)
ZSTD = {"_type": "ZstdFilter", "level": 3}
SHUFFLED = ["ByteShuffleFilter", ZSTD]
FILTERS = [[], [ZSTD], SHUFFLED, [{"_type": "GzipFilter", "level": 1}], ["ByteShuffleFilter", "GzipFilter"]]
IDENTITY = GeneMap(np.empty(0, np.int32), SHAPE[1], SHAPE[1])


def create(path, *, rows=(ZSTD,), columns=SHUFFLED, values=SHUFFLED, dtype="float32", duplicates=True, **other):
    options = {
        "capacity": 64,
        "dims": {
            "soma_dim_0": {"tile": 50, "filters": list(rows)},
            "soma_dim_1": {"tile": 40, "filters": list(columns)},
        },
        "attrs": {"soma_data": {"filters": list(values)}},
        "cell_order": "row-major",
        "tile_order": "row-major",
        "allows_duplicates": duplicates,
        **other,
    }
    platform = {"tiledb": {"create": options}}
    tiledbsoma.SparseNDArray.create(
        str(path), type=pa.from_numpy_dtype(dtype), shape=SHAPE, platform_config=platform
    ).close()
    return path


def write(path, matrix):
    """One fragment."""
    coo = sp.coo_array(matrix)
    with tiledbsoma.open(str(path), "w") as array:
        array.write(
            pa.table(
                {"soma_dim_0": coo.row.astype(np.int64), "soma_dim_1": coo.col.astype(np.int64), "soma_data": coo.data}
            )
        )


def random_matrix(seed, *, first=0, last=SHAPE[0], density=0.1, dtype="float32"):
    rng = np.random.default_rng(seed)
    dense = np.zeros(SHAPE, dtype)
    mask = rng.random((last - first, SHAPE[1])) < density
    dense[first:last] = mask * rng.integers(1, 1_000, mask.shape)
    return sp.csr_array(dense)


def plain(path):
    """All entries as TileDB reads them, no code of ours."""
    with tiledbsoma.open(str(path)) as array:
        table = array.read(result_order="row-major").tables().concat()
    entries = table["soma_data"].to_numpy(), (table["soma_dim_0"].to_numpy(), table["soma_dim_1"].to_numpy())
    return sp.csr_array(sp.coo_array(entries, shape=SHAPE))


def read(reader, rows, columns=None):
    rows = np.asarray(rows, np.int64)
    return reader.assemble(rows, ranges_of(np.sort(rows), 3), columns)


def open_reader(path, genes=IDENTITY, *, threads=1):
    return TileReader(open_stored(LocalArray(path)), genes, threads=threads, source="x")


def same(found, wanted):
    counts = found.counts
    check_counts(counts, source="test", allow_noninteger=True)
    np.testing.assert_array_equal(counts.indptr, wanted.indptr)
    np.testing.assert_array_equal(counts.indices, wanted.indices)
    np.testing.assert_array_equal(counts.data, wanted.data)
    assert counts.data.dtype == wanted.data.dtype


@st.composite
def stored_arrays(draw):
    return {
        "rows": draw(st.sampled_from(FILTERS)),
        "columns": draw(st.sampled_from(FILTERS)),
        "values": draw(st.sampled_from(FILTERS)),
        "dtype": draw(st.sampled_from(["float32", "float64", "int32", "int64"])),
        "capacity": draw(st.sampled_from([7, 64, 5_000])),
        "tile_order": draw(st.sampled_from(["row-major", "col-major"])),
        "duplicates": draw(st.booleans()),
    }


@settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(how=stored_arrays(), seed=st.integers(0, 2**32), threads=st.sampled_from([1, 3]))
def test_any_rows_of_any_array_are_what_tiledb_reads(tmp_path_factory, how, seed, threads):
    rng = np.random.default_rng(seed)
    path = create(tmp_path_factory.mktemp("array") / "x", **how)
    edges = np.unique([0, *rng.integers(1, SHAPE[0], rng.integers(0, 4)), SHAPE[0]])
    for number, (first, last) in enumerate(itertools.pairwise(edges.tolist())):
        matrix = random_matrix(
            seed + number, first=first, last=last, density=rng.choice([0.01, 0.1, 0.6]), dtype=how["dtype"]
        )
        if matrix.nnz:
            write(path, matrix)
    whole = plain(path)
    if not whole.nnz:
        return
    reader = open_reader(path, threads=threads)
    for _ in range(3):
        rows = rng.permutation(SHAPE[0])[: rng.integers(1, SHAPE[0])]
        same(read(reader, rows), whole[rows])
    reader.close()


@settings(max_examples=examples(10), deadline=None)
@given(seed=st.integers(0, 2**32), ascending=st.booleans(), n_genes=st.integers(1, SHAPE[1]))
def test_genes_kept_and_moved(tmp_path_factory, seed, ascending, n_genes):
    rng = np.random.default_rng(seed)
    path = create(tmp_path_factory.mktemp("array") / "x")
    write(path, random_matrix(seed))
    kept = rng.permutation(SHAPE[1])[:n_genes]
    kept = np.sort(kept) if ascending else kept
    columns = np.full(SHAPE[1], -1, np.int32)
    columns[kept] = np.arange(n_genes)
    reader = open_reader(path, GeneMap(columns, SHAPE[1], n_genes))
    rows = rng.permutation(SHAPE[0])[:300]
    wanted = sp.csr_array(plain(path)[rows][:, kept])
    wanted.sort_indices()
    same(read(reader, rows, ranges_of(np.sort(kept), 5)), wanted)
    reader.close()


def test_stored_zeros_are_dropped_and_counted(tmp_path):
    path = create(tmp_path / "x")
    coo = sp.coo_array(random_matrix(1))
    coo.data[::3] = 0
    with tiledbsoma.open(str(path), "w") as array:
        array.write(
            pa.table(
                {"soma_dim_0": coo.row.astype(np.int64), "soma_dim_1": coo.col.astype(np.int64), "soma_data": coo.data}
            )
        )
    wanted = plain(path)
    zeros = int((wanted.data == 0).sum())
    wanted.eliminate_zeros()
    found = read(open_reader(path), range(SHAPE[0]))
    same(found, wanted)
    assert found.zeros_dropped == zeros == len(coo.data[::3])


def test_rows_that_lie_in_several_fragments(tmp_path):
    """Nothing ascends from one fragment to the next: entries are put in order."""
    path = create(tmp_path / "x")
    dense = random_matrix(2).toarray()
    for start in range(3):
        part = np.zeros_like(dense)
        part[:, 2 - start :: 3] = dense[:, 2 - start :: 3]
        write(path, sp.csr_array(part))
    same(read(open_reader(path), range(SHAPE[0])), sp.csr_array(dense))


def test_a_coordinate_that_stands_twice(tmp_path):
    path = create(tmp_path / "x")
    write(path, random_matrix(3))
    write(path, random_matrix(3))
    with pytest.raises(SourceError, match="twice") as caught:
        read(open_reader(path), [5, 6])
    assert caught.value.kind == "duplicate-entry"


def test_columns_that_var_does_not_have(tmp_path):
    path = create(tmp_path / "x")
    write(path, random_matrix(4))
    narrow = GeneMap(np.empty(0, np.int32), 60, 60)
    with pytest.raises(SourceError, match="of 60") as caught:
        read(open_reader(path, narrow), range(100))
    assert caught.value.kind == "index-range"


def test_bytes_and_tiles_are_counted(tmp_path):
    path = create(tmp_path / "x")
    write(path, random_matrix(5))
    reader = open_reader(path)
    read(reader, range(SHAPE[0]))
    files = [file for name in ("a0", "d0", "d1") for file in path.glob(f"__fragments/*/{name}.tdb")]
    assert reader.bytes_read == sum(file.stat().st_size for file in files)
    assert reader.tiles_read == -(-random_matrix(5).nnz // 64)


def test_consolidated_commits(tmp_path):
    """A file of commits counts as they did."""
    path = create(tmp_path / "x")
    for first in (0, 200, 400):
        write(path, random_matrix(first, first=first, last=first + 200))
    wanted = plain(path)
    TileDBUpkeep().consolidate(str(path), "commits")
    assert [file.suffix for file in path.glob("__commits/*")].count(".con") == 1
    same(read(open_reader(path), range(600)), wanted[:600])


def test_fragments_merged_by_tiledb(tmp_path):
    """They are one then, with the times of its entries beside it."""
    path = create(tmp_path / "x")
    for first in (0, 200, 400):
        write(path, random_matrix(first, first=first, last=first + 200))
    wanted = plain(path)
    upkeep = TileDBUpkeep()
    upkeep.consolidate(str(path), "fragments")
    with pytest.raises(Unfamiliar, match="'vac'"):  # both the old and the new are there
        open_stored(LocalArray(path))
    upkeep.vacuum(str(path), "fragments")
    stored = open_stored(LocalArray(path))
    assert len(stored.fragments(0, SHAPE[0])) == 1
    same(read(open_reader(path), range(SHAPE[0])), wanted)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"values": ["BitShuffleFilter", ZSTD]}, "soma_data filtered by"),
        ({"rows": ["DoubleDeltaFilter"]}, "soma_dim_0 filtered by"),
        ({"values": ["ChecksumMD5Filter"]}, "soma_data filtered by"),
        ({"dtype": "uint8"}, "values of TileDB's type"),
        ({"cell_order": "col-major"}, "row-major"),
    ],
)
def test_what_is_stored_otherwise_is_left_to_tiledb(tmp_path, how, why):
    path = create(tmp_path / "x", **how)
    write(path, random_matrix(6, dtype=how.get("dtype", "float32")))
    with pytest.raises(Unfamiliar, match=why):
        open_stored(LocalArray(path))


def test_overlapping_fragments_where_the_younger_counts(tmp_path):
    path = create(tmp_path / "x", duplicates=False)
    write(path, random_matrix(7))
    same(read(open_reader(path), range(SHAPE[0])), plain(path))
    write(path, random_matrix(8))
    with pytest.raises(Unfamiliar, match="overlap"):
        open_stored(LocalArray(path))


def test_a_fragment_that_was_not_committed_does_not_count(tmp_path):
    path = create(tmp_path / "x")
    write(path, random_matrix(9, last=300))
    wanted = plain(path)
    write(path, random_matrix(10, first=300))
    youngest = max(path.glob("__commits/*.wrt"))
    youngest.unlink()
    same(read(open_reader(path), range(SHAPE[0])), wanted)


@pytest.mark.parametrize("name", ["x.del", "x.upd", "x.ign", "__9999999999999_9999999999999_00_22.wrt", "odd.wrt"])
def test_commits_that_are_no_plain_fragments(tmp_path, name):
    path = create(tmp_path / "x")
    write(path, random_matrix(11))
    (path / "__commits" / name).touch()
    with pytest.raises(Unfamiliar):
        open_stored(LocalArray(path))


def test_an_array_without_fragments(tmp_path):
    with pytest.raises(Unfamiliar, match="no fragments"):
        open_stored(LocalArray(create(tmp_path / "x")))


@pytest.mark.parametrize("name", ["__1_1_0123456789abcdef0123456789abcdef_11", "__array_schema.tdb", "notes.txt"])
def test_what_older_formats_keep_beside_the_fragments(tmp_path, name):
    path = create(tmp_path / "x")
    write(path, random_matrix(12))
    (path / name).mkdir() if name.endswith("_11") else (path / name).touch()
    with pytest.raises(Unfamiliar, match="beside its fragments"):
        open_stored(LocalArray(path))


def test_what_was_written_since_does_not_count(tmp_path):
    path = create(tmp_path / "x")
    write(path, random_matrix(13, last=300))
    with tiledbsoma.open(str(path)) as array:
        until = array.tiledb_timestamp_ms
        time.sleep(0.01)
        write(path, random_matrix(14, first=300))
        with pytest.raises(Unfamiliar, match="a fragment named"):
            open_stored(LocalArray(path), until_ms=until)
    assert open_stored(LocalArray(path)).schema.capacity == 64


@pytest.mark.parametrize(
    "line", ["__fragments/__1_1_ab_22.wrt\nx", "no newline", f"__fragments/__1_{'9' * 5000}_ab_22.wrt\n"]
)
def test_commits_that_are_no_names_of_fragments(tmp_path, line):
    path = create(tmp_path / "x")
    write(path, random_matrix(15))
    (path / "__commits" / "__1_1_ab_22.con").write_text(line)
    with pytest.raises(Unfamiliar):
        open_stored(LocalArray(path))
