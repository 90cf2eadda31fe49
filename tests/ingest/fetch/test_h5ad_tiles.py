"""Tiles of a dense matrix read below HDF5 are what h5py reads of it, however it is stored; damage is noticed."""

from __future__ import annotations

import threading
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import HostileFileError
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_tiles import StoredTiles

SHAPE = 53, 37
NUMBERS = np.random.default_rng(0).integers(0, 50, SHAPE)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr("ingest.fetch.h5ad_stored._LEAST_BLOCK_BYTES", 8)
    monkeypatch.setattr("ingest.fetch.h5ad_tiles._TILE_BYTES", 1_000)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.h5ad", lambda _file: None)


def write(path, create):
    with h5py.File(path, "w") as file:
        for name in ("obs", "var"):
            file.create_dataset(f"{name}/_index", data=np.array([b"x"]))
        create(file)
    return path


def read(path, dtype=None, *, below):
    """Put the tiles together, compare that with what h5py says, and tell whether HDF5 was done without."""
    with h5py.File(path) as file:
        want = file["a"][()]
    dtype = np.dtype(dtype or want.dtype.newbyteorder("="))
    with open_h5ad(str(path)) as opened:
        stored = StoredTiles(opened, "a", threading.Lock(), dtype)
        got = np.full(want.shape, 99, dtype)
        tall, wide = stored.tile
        for row in range(0, want.shape[0], tall):
            for column in range(0, want.shape[1], wide):
                tile = stored.read(row, column)
                assert tile.flags.c_contiguous
                assert tile.dtype == dtype
                got[row : row + tall, column : column + wide] = tile
        np.testing.assert_array_equal(got, want)
        assert (stored._blocks is not None) == below
    return stored.tile


PIPELINES = [
    ({}, True),
    ({"compression": "gzip"}, True),
    ({"compression": "gzip", "shuffle": True}, True),
    ({"compression": "lzf", "shuffle": True}, True),
    ({"compression": "gzip", "fletcher32": True}, False),
    (dict(hdf5plugin.Zstd()), False),
]


@given(
    st.sampled_from(PIPELINES), st.sampled_from(["<f4", "<f8", "<i2", "|u1", "<f2"]),
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60),
)  # fmt: skip
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_chunks(path, pipeline, dtype, n, m, tall, wide):
    options, below = pipeline
    values = np.resize(NUMBERS, (n, m)).astype(dtype)
    chunks = min(tall, n), min(wide, m)
    write(path, lambda file: file.create_dataset("a", data=values, chunks=chunks, **options))
    is_tiny = chunks[0] * chunks[1] * values.itemsize < 8
    tile = read(path, below=below and not is_tiny)
    assert all(size % chunk == 0 for size, chunk in zip(tile, chunks, strict=True))


def test_a_matrix_in_one_piece(path):
    write(path, lambda file: file.create_dataset("a", data=NUMBERS.astype(np.float32)))
    assert read(path, below=True) == (6, 37)  # of 148 bytes a row


@pytest.mark.parametrize("dtype", [">f4", "?"])
def test_numbers_that_are_not_this_machines(path, dtype):
    values = (NUMBERS % 2).astype(dtype)
    write(path, lambda file: file.create_dataset("a", data=values, chunks=(10, 10), compression="gzip"))
    read(path, below=False)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_nothing(path, shape):
    write(path, lambda file: file.create_dataset("a", shape, np.float32))
    read(path, below=False)


@pytest.mark.parametrize("fill", [0, 7])
def test_blocks_that_were_never_written_and_a_matrix_that_has_shrunk(path, fill):
    def create(file):
        made = file.create_dataset(
            "a", (90, 70), np.float32, chunks=(20, 15), maxshape=(None, None), compression="gzip", fillvalue=fill
        )
        made[25:30, 3:40] = 3
        made[80:, 60:] = 4
        made.resize(SHAPE)

    read(write(path, create), below=True)


@pytest.mark.parametrize("place", [(0, 0), (20, 15), (40, 30)])
@pytest.mark.parametrize("raw", [b"no deflate", zlib.compress(bytes(4 * 299)), zlib.compress(bytes(4 * 3_000))])
def test_a_damaged_block_is_noticed(path, place, raw):
    def create(file):
        made = file.create_dataset("a", data=NUMBERS.astype(np.float32), chunks=(20, 15), compression="gzip")
        made.id.write_direct_chunk(place, raw)

    write(path, create)
    with open_h5ad(str(path)) as opened:
        stored = StoredTiles(opened, "a", threading.Lock(), np.dtype(np.float32))
        with pytest.raises(HostileFileError) as caught:
            stored.read(*place)
    assert caught.value.kind == "unreadable"


def test_a_block_that_is_not_full_and_not_compressed_is_left_to_hdf5(path):
    """HDF5 knows by a flag of the dataset which it is; a block that is full is damaged."""
    edge = np.ones((20, 15), np.float32)

    def create(file):
        made = file.create_dataset("a", data=NUMBERS.astype(np.float32), chunks=(20, 15), compression="gzip")
        made.id.write_direct_chunk((40, 30), edge.tobytes(), 1)  # the mask says so
        made.id.write_direct_chunk((20, 30), edge.tobytes(), 1)

    read(write(path, create), below=True)


def test_a_block_beyond_the_file(path):
    write(path, lambda file: file.create_dataset("a", data=NUMBERS, chunks=(20, 15), compression="gzip"))
    with open_h5ad(str(path)) as opened:
        stored = StoredTiles(opened, "a", threading.Lock(), np.dtype(np.int64))
        stored._blocks.offsets[0] = path.stat().st_size - 3
        with pytest.raises(HostileFileError, match="lie beyond the file's end") as caught:
            stored.read(0, 0)
    assert caught.value.kind == "truncated"
