"""Arrays read below HDF5 are what h5py reads of them, however they are stored; damage is noticed."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import struct
import threading
import zlib
from pathlib import Path

import anndata
import h5py
import hdf5plugin
import numpy as np
import pytest
from scipy import sparse

from ingest.errors import HostileFileError
from ingest.fetch.h5ad_lzf import undo_lzf
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_planes import plain_numbers
from ingest.fetch.h5ad_stored import StoredArray
from ingest.load.memmap.convert.h5ad_copy import usable_threads

N = 9_500
CHUNK = 2_000
NUMBERS = np.random.default_rng(0).integers(0, 50, N)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("ingest.fetch.h5ad_stored._LEAST_BLOCK_BYTES", 1000)


@pytest.fixture
def make(tmp_path):
    """Make a file with the dataset ``a`` that a function creates in it."""
    anndata.AnnData(sparse.csr_matrix((3, 4), dtype=np.float32)).write_h5ad(tmp_path / "empty.h5ad")

    def make(create) -> Path:
        path = tmp_path / "a.h5ad"
        shutil.copy(tmp_path / "empty.h5ad", path)
        with h5py.File(path, "r+") as file:
            create(file)
        return path

    return make


def read(path, *, below=None, start=0, stop=None):
    """Read the array, compare it with what h5py says, and tell whether HDF5 was done without."""
    with h5py.File(path) as file:
        want = file["a"][()]
    with open_h5ad(str(path)) as opened:
        stored = StoredArray(opened, "a", threading.Lock())
        assert len(stored) == len(want)
        stretches = list(stored.stretches(start, len(want) if stop is None else stop))
        parts = [plain_numbers(part, stored.dtype) for stretch in stretches for part in stored.read(stretch)]
        got = np.concatenate([*parts, np.empty(0, stored.dtype)])
        np.testing.assert_array_equal(got, want[start:stop].astype(stored.dtype))
        assert got.dtype == stored.dtype
        assert (stored._blocks is not None) == below if below is not None else True
    return got


def chunked(values, **options):
    return lambda file: file.create_dataset("a", data=values, chunks=(CHUNK,), **options)


@pytest.mark.parametrize(
    "dtype",
    ["<f4", "<i8", "<u2", *(pytest.param(dtype, marks=pytest.mark.long) for dtype in ("<f8", "<i4", "|u1", "<f2"))],
)
@pytest.mark.parametrize(
    ("options", "below"),
    [
        ({}, True),
        ({"compression": "gzip"}, True),
        ({"compression": "gzip", "shuffle": True}, True),
        ({"shuffle": True}, False),
        ({"compression": "lzf"}, True),
        ({"compression": "lzf", "shuffle": True}, True),
        ({"compression": "gzip", "fletcher32": True}, False),
        (dict(hdf5plugin.Zstd()), False),
        (dict(hdf5plugin.Blosc(cname="lz4")), False),
        ({"scaleoffset": 0}, False),
    ],
)
@pytest.mark.sampled(3)
def test_filters(make, dtype, options, below):
    if "scaleoffset" in options and np.dtype(dtype).kind == "f":
        options = {"scaleoffset": 3}
    if dtype == "<f2" and "scaleoffset" in options:
        options = {}
        below = True
    path = make(chunked(NUMBERS.astype(dtype), **options))
    read(path, below=below)
    for start, stop in itertools.product((0, 1, 1999, 2000, 5_000), (2_001, 5_001, 9_499)):
        if start < stop:
            read(path, start=start, stop=stop)


def test_an_array_in_one_piece(make):
    read(make(lambda file: file.create_dataset("a", data=NUMBERS)), below=True)


def test_an_array_in_its_header(make):
    def create(file):
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        made = h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_INT64, h5py.h5s.create_simple((5,)), dcpl=creation)
        h5py.Dataset(made)[:] = np.arange(5)

    read(make(create), below=False)


@pytest.mark.parametrize("dtype", [">f4", ">i8", "?"])
def test_numbers_that_are_not_this_machines(make, dtype):
    read(make(chunked((NUMBERS % 2).astype(dtype), compression="gzip")), below=False)


@pytest.mark.parametrize("fill", [0, 7])
def test_blocks_that_were_never_written(make, fill):
    def create(file):
        made = file.create_dataset("a", (N,), np.float32, chunks=(CHUNK,), compression="gzip", fillvalue=fill)
        made[2_500:2_600] = 3
        made[-1] = 4

    read(make(create), below=True)


def test_nothing_was_ever_written(make):
    read(make(lambda file: file.create_dataset("a", (N,), np.float32, fillvalue=3)), below=False)
    read(make(lambda file: file.create_dataset("b", (N,), np.float32) and file.create_dataset("a", (0,), np.float32)))


def test_an_array_that_has_shrunk(make):
    def create(file):
        made = file.create_dataset("a", data=NUMBERS, chunks=(CHUNK,), maxshape=(None,), compression="gzip")
        made.resize((3_100,))

    assert len(read(make(create), below=True)) == 3_100


@pytest.mark.parametrize("mask", [0b01, 0b10, 0b11])
def test_filters_left_out_of_a_block(make, mask):
    values = NUMBERS[:CHUNK].astype(np.float32)
    raw = values.tobytes() if mask & 1 else values.view(np.uint8).reshape(-1, 4).T.tobytes()

    def create(file):
        made = chunked(NUMBERS.astype(np.float32), compression="gzip", shuffle=True)(file)
        made.id.write_direct_chunk((CHUNK,), raw if mask & 2 else zlib.compress(raw), mask)

    got = read(make(create), below=True)
    np.testing.assert_array_equal(got[CHUNK : 2 * CHUNK], values)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_last_block_that_is_not_full_and_not_filtered(make, shuffle):
    """HDF5 knows it by a flag of the dataset, which h5py has no word for."""

    def create(file):
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((CHUNK,))
        if shuffle:
            creation.set_shuffle()
        creation.set_deflate(4)
        maps = Path("/proc/self/maps").read_text().splitlines()
        hdf5 = ctypes.CDLL(next(line.split()[-1] for line in maps if "libhdf5-" in line or "libhdf5.so" in line))
        assert hdf5.H5Pset_chunk_opts(ctypes.c_int64(creation.id), ctypes.c_uint(2)) >= 0
        made = h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((N,)), dcpl=creation)
        h5py.Dataset(made)[:] = NUMBERS
        assert len(made.read_direct_chunk((N // CHUNK * CHUNK,))[1]) == CHUNK * 4

    read(make(create), below=True)


def test_a_file_with_a_block_of_its_own_before_it(make, tmp_path):
    def create(file):
        file.create_dataset("a", data=NUMBERS, chunks=(CHUNK,), compression="gzip")

    path = make(create)
    with h5py.File(tmp_path / "b.h5ad", "w", userblock_size=1024) as new, h5py.File(path) as old:
        for name in old:
            old.copy(name, new)
    read(tmp_path / "b.h5ad", below=False)


def test_tiny_blocks_are_read_through_hdf5(make):
    read(make(lambda file: file.create_dataset("a", data=NUMBERS, chunks=(10,), compression="gzip")), below=False)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_flipped_byte_is_noticed(make, shuffle):
    values = NUMBERS[:4_000].astype(np.float32)
    path = make(chunked(values, compression="gzip", shuffle=shuffle))
    with h5py.File(path) as file:
        block = file["a"].id.get_chunk_info(1)
    good = bytearray(path.read_bytes())
    for at in range(block.byte_offset, block.byte_offset + block.size, max(block.size // 60, 1)):
        bad = good.copy()
        bad[at] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(HostileFileError, match="block 1 of 2 is damaged") as caught:
            load(path)
        assert caught.value.kind == "unreadable"


def load(path):
    with open_h5ad(str(path)) as opened:
        stored = StoredArray(opened, "a", threading.Lock())
        return np.concatenate(
            [plain_numbers(part, stored.dtype) for one in stored.stretches(0, len(stored)) for part in stored.read(one)]
        )


def texts_of_lzf():
    """Bytes that LZF has short and long words for, near and far, overlapping and at the very end."""
    rng = np.random.default_rng(0)
    yield np.zeros(40_000, np.uint8)
    for period in (1, 2, 3, 7, 8, 9, 31, 33, 250, 8_000, 8_191, 8_192, 8_193, 9_000):
        yield np.resize(rng.integers(0, 256, period), 20_000).astype(np.uint8)
    for n in (4_000, 4_001, 4_031, 4_033):
        yield np.repeat(rng.integers(0, 4, n), rng.integers(1, 300, n))[:n].astype(np.uint8)
    yield np.concatenate([rng.integers(0, 256, 5_000), np.zeros(300), rng.integers(0, 256, 37)]).astype(np.uint8)
    yield np.concatenate([np.zeros(5_000), rng.integers(0, 3, 5_000)]).astype(np.uint8)


def test_lzf_is_undone_as_h5py_undoes_it(make):
    for text in texts_of_lzf():
        path = make(lambda file, text=text: file.create_dataset("a", data=text, chunks=text.shape, compression="lzf"))
        np.testing.assert_array_equal(read(path, below=True), text)


def test_damaged_lzf_is_refused_or_of_the_right_length():
    """It has no checksum; whatever it says, nothing is read or written beyond its place."""
    rng = np.random.default_rng(0)
    for _ in range(20_000):
        packed = rng.integers(0, 256, rng.integers(0, 60)).astype(np.uint8)
        size = int(rng.integers(0, 400))
        found = undo_lzf(packed.data, size)
        assert found is None or len(found) == size


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (b"\x02abc", b"abc"),
        (b"\x02abc\x20\x02", b"abcabc"),
        (b"\x00a\xe0\x00\x00", b"a" * 10),
        (b"\x01ab\xe0\xff\x01", b"ab" * 133),
        (b"", b""),
        (b"\x02ab", None),
        (b"\x00a\x20", None),
        (b"\x00a\xe0", None),
        (b"\x00a\xe0\x00", None),
        (b"\x00a\x20\x01", None),
        (b"\x20\x00", None),
    ],
)
def test_words_of_lzf(packed, text):
    for size in range(400):
        found = undo_lzf(memoryview(packed), size)
        assert (None if found is None else bytes(found)) == (text if text is not None and size == len(text) else None)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n", [0, 1, CHUNK - 1, CHUNK + 1, 60 * CHUNK])
def test_blocks_that_become_too_much_or_too_little(make, shuffle, n):
    def create(file):
        made = chunked(NUMBERS.astype(np.float32), compression="gzip", shuffle=shuffle)(file)
        made.id.write_direct_chunk((CHUNK,), zlib.compress(bytes(4 * n)))

    with pytest.raises(HostileFileError, match="block 1 of 5 is damaged"):
        load(make(create))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("without", [1, 4])
def test_a_block_without_its_checksum(make, shuffle, without):
    def create(file):
        made = chunked(NUMBERS.astype(np.float32), compression="gzip", shuffle=shuffle)(file)
        made.id.write_direct_chunk((CHUNK,), zlib.compress(bytes(4 * CHUNK))[:-without])

    with pytest.raises(HostileFileError, match="block 1 of 5 is damaged"):
        load(make(create))


def test_a_shuffle_of_another_width(make):
    """HDF5 goes by what the file says, whatever the width of its numbers."""
    path = make(chunked(NUMBERS.astype(np.int32), compression="gzip", shuffle=True))
    content, message = path.read_bytes(), b"\x01\x00\x01\x00shuffle\x00%c\x00\x00\x00"
    assert content.count(message % 4) == 1
    path.write_bytes(content.replace(message % 4, message % 2))
    read(path, below=False)


def test_large_blocks_are_decoded_by_fewer_threads(make):
    path = make(chunked(NUMBERS.astype(np.float32), compression="gzip"))
    with open_h5ad(str(path)) as opened:
        stored = StoredArray(opened, "a", threading.Lock())
        assert stored.block_bytes == 4 * CHUNK
        assert usable_threads(4, stored, memory_bytes=1 << 20) == 4
        assert usable_threads(4, stored, stored, memory_bytes=50_000) == 2
        assert usable_threads(4, stored, memory_bytes=10) == 1


def test_a_file_that_was_cut(make):
    path = make(lambda file: file.create_dataset("a", data=NUMBERS))
    with open_h5ad(str(path)) as opened:
        stored = StoredArray(opened, "a", threading.Lock())
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        with pytest.raises(HostileFileError) as caught:
            [list(stored.read(one)) for one in stored.stretches(0, N)]
    assert caught.value.kind == "truncated"


def test_blocks_beyond_the_file(make):
    path = make(chunked(NUMBERS, compression="gzip"))
    with open_h5ad(str(path)) as opened:
        stored = StoredArray(opened, "a", threading.Lock())
        stored._blocks.offsets[2] = path.stat().st_size - 3
        with pytest.raises(HostileFileError, match="lie beyond the file's end") as caught:
            [list(stored.read(one)) for one in stored.stretches(0, N)]
    assert caught.value.kind == "truncated"


def test_blocks_that_are_each_the_whole_file(make):
    """Blocks that are decoded together are read together, 512 KiB of them; here 130 MB would be, of a file of 2 MB."""

    def create(file):
        chunked(NUMBERS, compression="gzip")(file)
        file["pad"] = np.zeros(1 << 21, np.uint8)

    path = make(create)
    with h5py.File(path) as file:
        infos = []
        file["a"].id.chunk_iter(infos.append)
    data = bytearray(path.read_bytes())
    for info in infos:
        entry = struct.pack("<IIQQQ", info.size, 0, info.chunk_offset[0], 0, info.byte_offset)
        at = data.index(entry)
        data[at : at + 4] = (1 << 21).to_bytes(4, "little")
    path.write_bytes(data)
    with open_h5ad(str(path)) as opened, pytest.raises(HostileFileError, match="takes 2,097,152 bytes") as caught:
        StoredArray(opened, "a", threading.Lock())
    assert caught.value.kind == "decoded-size"


def test_threads_read_at_once(make):
    path = make(chunked(NUMBERS.astype(np.int32), compression="gzip", fletcher32=True))
    with open_h5ad(str(path)) as opened:
        stored = StoredArray(opened, "a", threading.Lock())
        got = np.empty(N, np.int32)

        def work(first):
            for start in range(first, N, 4_000):
                for stretch in stored.stretches(start, min(start + 1_000, N)):
                    for part in stored.read(stretch):
                        numbers = plain_numbers(part, stored.dtype)
                        got[part.at : part.at + len(numbers)] = numbers

        threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 4_000, 1_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_array_equal(got, NUMBERS)
