"""Damaged arrays: a typed error or what TileDB reads as well, never another file's bytes, never a dead process."""

from __future__ import annotations

import random
import shutil
import struct
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
import tiledbsoma
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import IngestError
from ingest.fetch.assemble import GeneMap
from ingest.fetch.tiles import fragment, kernels
from ingest.fetch.tiles.folder import LocalArray
from ingest.fetch.tiles.format import ZSTD, Cursor, Pipeline, Unfamiliar, generic_tile, parts_of
from ingest.fetch.tiles.fragment import Footer, read_fragment
from ingest.fetch.tiles.reader import TileReader
from ingest.fetch.tiles.stored import open_stored
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.examples import examples
from ingest.validate import check_counts

N_CELLS, N_GENES = 2_500, 800
DATA = ["a0.tdb", "d0.tdb", "d1.tdb"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    spec = CensusSpec(n_cells=N_CELLS, n_genes=N_GENES, mean_nnz_per_cell=60)
    census = build_census(tmp_path_factory.mktemp("census") / "mini", spec)
    return census.path / "census_data/homo_sapiens/ms/RNA/X/raw"


def read_all(path):
    genes = GeneMap(np.empty(0, np.int32), N_GENES, N_GENES)
    reader = TileReader(open_stored(LocalArray(path)), genes, threads=1, source="x")
    try:
        return reader.assemble(np.arange(N_CELLS), np.array([[0, N_CELLS - 1]]), None).counts
    finally:
        reader.close()


def damaged(sound, tmp_path, name, change):
    """A copy of which one file is `change`d."""
    path = tmp_path / "x"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sound, path)
    file = next(path.glob(f"__fragments/*/{name}"))
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)
    return path


@pytest.mark.parametrize("name", [*DATA, "__fragment_metadata.tdb"])
def test_flipped_bits(sound, tmp_path, name):
    """What Zstd does not notice is another count or place, for which each cell's nnz and sum are compared later."""
    draw = random.Random(name)  # noqa: S311  # repeatable, not secret
    noticed = 0
    for _ in range(60):

        def flip(data):
            at = draw.randrange(len(data))
            data[at] ^= 1 << draw.randrange(8)

        try:
            counts = read_all(damaged(sound, tmp_path, name, flip))
        except (IngestError, Unfamiliar, OSError):
            noticed += 1
        else:
            assert counts.n_cells == N_CELLS
            assert counts.nnz == len(counts.indices) == len(counts.data)
            assert not counts.nnz or 0 <= counts.indices.min() <= counts.indices.max() < N_GENES
    assert noticed > 10


@pytest.mark.parametrize("name", [*DATA, "__fragment_metadata.tdb"])
def test_files_cut_short_or_filled_up(sound, tmp_path, name):
    for change in (lambda data: data.__delitem__(slice(len(data) // 2, None)), lambda data: data.extend(b"\xff" * 900)):
        with pytest.raises((IngestError, Unfamiliar, OSError)):
            read_all(damaged(sound, tmp_path, name, change))


@pytest.mark.parametrize("name", DATA)
def test_a_file_that_shrinks_after_it_was_opened(sound, tmp_path, name):
    path = tmp_path / "x"
    shutil.copytree(sound, path)
    genes = GeneMap(np.empty(0, np.int32), N_GENES, N_GENES)
    reader = TileReader(open_stored(LocalArray(path)), genes, threads=1, source="x")
    file = next(path.glob(f"__fragments/*/{name}"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(OSError, match="cut short"):
        reader.assemble(np.arange(N_CELLS), np.array([[0, N_CELLS - 1]]), None)
    reader.close()


def test_every_bit_of_a_footer(sound):
    """Of a footer nothing may be believed: each flip is noticed, changes nothing, or leaves it to TileDB."""
    file = next(sound.glob("__fragments/*/__fragment_metadata.tdb"))
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[-8:])
    other = 0
    for bit in range(8 * (len(whole) - 8 - length), 8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        try:
            footer = Footer.parse(bytes(data), len(data))
            read_fragment("x", footer, 1 << 16, lambda places, data=data: [bytes(data[a:b]) for a, b in places])
        except Unfamiliar:
            other += 1
    assert other > 300


@pytest.mark.parametrize("starts", [[0, 2**62 + 10, 2**64 - 2**62], [0, 500, 400], [5, 5, 9], [0, 2**40, 2**41]])
def test_tiles_that_lie_nowhere(starts):
    table = struct.pack(f"<Q{len(starts)}Q", len(starts), *starts)
    with pytest.raises(Unfamiliar):
        fragment._starts(table, len(starts), 2**42, most_bytes=1 << 20)


def test_columns_beyond_all_bounds_matter_where_they_are_wanted(tmp_path):
    path = tmp_path / "x"
    tiledbsoma.SparseNDArray.create(str(path), type=pa.float32(), shape=(10, 2**40)).close()
    with tiledbsoma.open(str(path), "w") as array:
        columns = pa.array([3, 2**31 + 5, 2**33 + 1], pa.int64())
        array.write(pa.table({"soma_dim_0": [1, 2, 3], "soma_dim_1": columns, "soma_data": np.ones(3, np.float32)}))
    genes = GeneMap(np.empty(0, np.int32), N_GENES, N_GENES)
    reader = TileReader(open_stored(LocalArray(path)), genes, threads=1, source="x")
    counts = reader.assemble(np.array([1]), np.array([[1, 1]]), None).counts
    assert (counts.indices.tolist(), counts.data.tolist()) == ([3], [1])
    for row in (2, 3):
        with pytest.raises(IngestError) as caught:
            reader.assemble(np.array([row]), np.array([[row, row]]), None)
        assert caught.value.kind == "index-range"


def test_a_row_of_more_entries_than_genes_is_refused_before_there_is_room_for_it(tmp_path):
    path = tmp_path / "x"
    options = {
        "allows_duplicates": True,
        "capacity": 1 << 16,
        "dims": {"soma_dim_0": {"tile": 10}, "soma_dim_1": {"tile": 10}},
    }
    shape = (10, N_GENES)
    tiledbsoma.SparseNDArray.create(
        str(path), type=pa.float32(), shape=shape, platform_config={"tiledb": {"create": options}}
    ).close()
    zeros = np.zeros(N_GENES + 1, np.int64)
    with tiledbsoma.open(str(path), "w") as array:
        array.write(pa.table({"soma_dim_0": zeros, "soma_dim_1": zeros, "soma_data": np.ones(len(zeros), np.float32)}))
    genes = GeneMap(np.empty(0, np.int32), N_GENES, N_GENES)
    reader = TileReader(open_stored(LocalArray(path)), genes, threads=1, source="x")
    with pytest.raises(IngestError, match="a row of 801 entries for 800 genes"):
        reader.assemble(np.array([0]), np.array([[0, 0]]), None)


def test_the_undamaged_one(sound):
    counts = read_all(sound)
    check_counts(counts, source="test")
    with tiledbsoma.open(str(sound)) as array:
        assert counts.nnz == array.nnz


def chunk(*, original=4, filtered=4, metadata=b"", data=b"abcd"):
    return struct.pack("<III", original, filtered, len(metadata)) + metadata + data


def tile(*chunks, count=None):
    return np.frombuffer(struct.pack("<Q", len(chunks) if count is None else count) + b"".join(chunks), np.uint8)


def lengths(n_metadata, n_data, *pairs):
    return struct.pack("<II", n_metadata, n_data) + b"".join(struct.pack("<II", *pair) for pair in pairs)


def test_where_parts_lie():
    assert parts_of(tile(chunk(), chunk()), Pipeline(())) == [[20, 24, 4], [36, 40, 4]]
    packed = chunk(original=9, filtered=7, metadata=lengths(1, 2, (8, 2), (4, 3), (5, 2)), data=b"mmaaabb")
    assert parts_of(tile(packed), Pipeline((ZSTD,))) == [[54, 57, 4], [57, 59, 5]]


@pytest.mark.parametrize(
    ("bad", "filters"),
    [
        (tile(chunk(original=5)), ()),
        (tile(chunk(metadata=b"m")), ()),
        (tile(chunk(), count=2), ()),
        (tile(chunk(), count=2**63), ()),
        (tile(chunk(filtered=2**32 - 1)), ()),
        (tile(chunk(), b"x", count=1), ()),
        (np.zeros(7, np.uint8), ()),
        (tile(chunk(metadata=b"1234567")), (ZSTD,)),
        (tile(chunk(metadata=lengths(0, 1, (5, 4)))), (ZSTD,)),
        (tile(chunk(metadata=lengths(0, 1, (4, 5)))), (ZSTD,)),
        (tile(chunk(metadata=lengths(0, 2, (4, 4)))), (ZSTD,)),
        (tile(chunk(metadata=lengths(2**31, 2**31, (4, 4)))), (ZSTD,)),
        (tile(chunk(metadata=lengths(1, 0, (4, 4)))), (ZSTD,)),
    ],
)
def test_tiles_whose_lengths_contradict_each_other(bad, filters):
    with pytest.raises(Unfamiliar):
        parts_of(bad, Pipeline(filters))


def test_a_head_that_ends_before_its_lengths():
    """Whatever lies behind the tile is no part of it, and would be taken for lengths that add up."""
    inside = tile(chunk(original=8, filtered=0, metadata=lengths(0, 2, (4, 0))[:16], data=b""))
    behind = struct.pack("<II", 4, 0)
    memory = np.concatenate([inside, np.frombuffer(behind, np.uint8)])
    assert kernels.tile_directory(memory[: len(inside)], True, np.empty((8, 3), np.int64)) == -1


@st.composite
def nearly_tiles(draw):
    """Chunks that add up, but for a number here and there."""
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        pairs = [(draw(st.integers(0, 9)), draw(st.integers(0, 9))) for _ in range(draw(st.integers(0, 3)))]
        n_metadata = draw(st.integers(0, len(pairs)))
        data = bytes(sum(stored for _, stored in pairs))
        head = lengths(n_metadata, len(pairs) - n_metadata, *pairs)
        chunks.append(
            chunk(original=sum(size for size, _ in pairs[n_metadata:]), filtered=len(data), metadata=head, data=data)
        )
    whole = bytearray(tile(*chunks).tobytes())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(whole) - 1))
        whole[at] = draw(st.sampled_from([0, 1, 2, 7, 8, 9, 16, 255]))
    return bytes(whole)


@settings(max_examples=examples(240))
@given(st.binary(max_size=200) | nearly_tiles(), st.booleans())
def test_any_bytes_have_parts_inside_of_them_or_none(data, compressed):
    bytes_of_it = np.frombuffer(data, np.uint8)
    directory = np.full((64, 3), -1, np.int64)
    count = kernels.tile_directory(bytes_of_it, compressed, directory)
    assert -1 <= count <= 64
    for start, stop, _ in directory[: max(count, 0)]:
        assert 0 <= start <= stop <= len(data)


@settings(max_examples=examples(120))
@given(st.binary(max_size=120))
def test_any_bytes_are_a_generic_tile_or_unfamiliar(data):
    with suppress(Unfamiliar):
        generic_tile(data)
    with pytest.raises(Unfamiliar):
        Cursor(data).bytes(len(data) + 1)
    with pytest.raises(Unfamiliar):
        Cursor(data).bytes(-1)
