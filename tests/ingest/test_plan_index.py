from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.arrow_ranges import RangeFile
from ingest.errors import CorruptError
from ingest.index_blocks import BlockHasher, IndexBlocks, parse_blocks
from ingest.plan_index import IndexWriter, PlanIndex, batch_rows
from ingest.store.local import LocalStore
from ingest.testing.blocks import dictionary
from ingest.testing.faults import FaultyStore, StoreFault

KEY = "_ingest/index-0.feather"


def index_to_bytes(table, cells_per_chunk, *, blocks=False):
    with TemporaryDirectory() as folder:
        with IndexWriter(Path(folder) / "index.feather") as writer:
            for batch in table.combine_chunks().to_batches(max_chunksize=min(len(table), batch_rows(cells_per_chunk))):
                writer.add(batch)
        data = writer.path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == writer.sha256
    return (data, writer.blocks) if blocks else data


def table_of(n_rows):
    return pa.table(
        {
            "source": dictionary([f"s{row * 3 // n_rows}" for row in range(n_rows)]),
            "soma_joinid": np.arange(n_rows) * 7,
            "cell_type": dictionary([None if row % 5 == 0 else f"t{row % 3}" for row in range(n_rows)]),
            "score": np.arange(n_rows) / 8,
        }
    )


@pytest.fixture
def open_index(tmp_path):
    def open_index(table, cells_per_chunk, *, data=None):
        store = FaultyStore(LocalStore(tmp_path / "dest"))
        store.put_new(KEY, index_to_bytes(table, cells_per_chunk) if data is None else data)
        return PlanIndex(store, KEY, cells_per_chunk), store

    return open_index


@given(st.data())
def test_a_file_of_ranges_is_a_file(tmp_path_factory, data):
    store = LocalStore(tmp_path_factory.mktemp("ranges"))
    content = data.draw(st.binary(min_size=1, max_size=200))
    store.put_new(KEY, content)
    ranged, plain = RangeFile(store, KEY, data.draw(st.integers(1, 50))), io.BytesIO(content)
    assert ranged.seekable()
    for _ in range(8):
        offset, whence = data.draw(st.sampled_from([(0, 0), (3, 0), (99, 0), (250, 0), (0, 2), (-1, 2)]))
        assert ranged.seek(offset, whence) == plain.seek(offset, whence)
        size = data.draw(st.integers(-1, 60))
        assert ranged.read(size) == plain.read(size)
        assert ranged.tell() == max(plain.tell(), 0)
    start, stop = data.draw(st.integers(-60, 250)), data.draw(st.none() | st.integers(-60, 250))
    assert (len(ranged), bytes(ranged[start:stop])) == (len(content), content[start:stop])
    ranged.seek(0)
    buffered, size = io.BufferedReader(ranged, 16), data.draw(st.integers(1, 60))
    assert b"".join(iter(lambda: buffered.read(size), b"")) == content


@given(st.data())
def test_any_range_is_that_range_of_the_table(tmp_path_factory, data):
    n_rows, size = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([1, 7, 60, 1 << 16, 10**12]))
    table = table_of(n_rows)
    store = LocalStore(tmp_path_factory.mktemp("index"))
    store.put_new(KEY, index_to_bytes(table, size))
    index = PlanIndex(store, KEY, size)
    for _ in range(5):
        start = data.draw(st.integers(0, n_rows - 1))
        stop = data.draw(st.integers(start + 1, n_rows))
        assert index.rows(start, stop).to_pylist() == table.slice(start, stop - start).to_pylist()
    streamed = pa.Table.from_batches(index.batches(n_rows))
    assert streamed.to_pylist() == table.to_pylist()
    assert all(batch.num_rows % size == 0 for batch in streamed.to_batches()[:-1]), "a chunk is in two batches"
    some = pa.Table.from_batches(index.batches(n_rows, ("source", "score", "absent")))
    assert some.to_pylist() == table.select(["source", "score"]).to_pylist()


def test_ranges_over_many_batches(open_index):
    table = table_of(200_000)
    index, _ = open_index(table, 1000)
    for start, stop in [(0, 1), (64_999, 65_001), (65_000, 130_000), (0, 200_000), (199_999, 200_000), (1, 199_999)]:
        assert index.rows(start, stop).equals(table.slice(start, stop - start).unify_dictionaries())


def test_a_chunk_is_read_by_few_requests_and_few_bytes(open_index):
    table = table_of(500_000)
    index, store = open_index(table, 1000)
    whole = store.stat(KEY).size
    store.log.clear()
    index.rows(300_000, 301_000)
    assert {operation.name for operation in store.log} == {"get_range"}
    assert len(store.log) <= 8
    assert whole > 1_000_000


def test_reading_on_asks_little_too(open_index):
    index, store = open_index(table_of(500_000), 1000)
    whole = store.stat(KEY).size
    for columns in ((), ("soma_joinid",)):
        store.log.clear()
        assert sum(map(len, index.batches(500_000, columns))) == 500_000
        assert len(store.log) <= 12 + whole // (16 << 20), "a request a batch, or a column"


def test_another_number_of_rows_is_damage_for_who_reads_on(open_index):
    index, _ = open_index(table_of(10), 4)
    for n_cells in (9, 11, 4, 400_000):
        with pytest.raises(CorruptError, match="planned"):
            list(index.batches(n_cells))


def test_an_index_with_another_number_of_batches_is_damage(open_index):
    index, _ = open_index(table_of(10), 4)
    index.check_length(10)
    with pytest.raises(CorruptError, match="1 batches of cells where 10 were planned") as caught:
        index.check_length(batch_rows(4) * 10)
    assert caught.value.kind == "plan-damaged"


def test_damage_further_on_is_met_by_who_reads_on(open_index):
    whole = index_to_bytes(table_of(200_000), 1000)
    middle = len(whole) // 2
    zeros = whole[:middle] + bytes(4096) + whole[middle + 4096 :]
    index, _ = open_index(None, 1000, data=zeros)
    with pytest.raises(CorruptError):
        list(index.batches(200_000))


def test_who_gives_up_before_the_first_batch_leaves_a_closed_file(tmp_path):
    with pytest.raises(RuntimeError), IndexWriter(tmp_path / "index.feather") as writer:
        raise RuntimeError
    assert writer.path.stat().st_size == 0


def test_opening_asks_little(open_index):
    _, store = open_index(table_of(500_000), 1000)
    assert len(store.log) <= 12, [operation.name for operation in store.log]


def test_a_file_with_fewer_rows_is_damage(open_index):
    index, _ = open_index(table_of(10), 4)
    for start, stop in [(0, 11), (8, 12), (40, 44)]:
        with pytest.raises(CorruptError):
            index.rows(start, stop)


def test_no_file_is_damage(tmp_path):
    with pytest.raises(CorruptError, match="is gone"):
        PlanIndex(LocalStore(tmp_path / "dest"), KEY, 4)


def test_cuts_and_flips_are_damage_or_the_same_shape(tmp_path):
    table = table_of(40)
    whole = index_to_bytes(table, 8)

    def read(data, name):
        store = LocalStore(tmp_path / name)
        store.put_new(KEY, data)
        return PlanIndex(store, KEY, 8).rows(0, 40)

    for cut in range(0, len(whole), 211):
        with pytest.raises(CorruptError):
            read(whole[:cut], f"cut{cut}")
    for at in range(0, len(whole), 23):
        with contextlib.suppress(CorruptError):
            # What passes here is held against the plan's digest of all cells at start and end of a run.
            assert len(read(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :], f"flip{at}")) == 40


def test_the_same_cells_give_the_same_bytes():
    assert index_to_bytes(table_of(100), 9) == index_to_bytes(table_of(100), 9)


# -- blocks ------------------------------------------------------------------------------------------------------------


def read_some(store, blocks, columns=()):
    index = PlanIndex(store, KEY, 1000, blocks)
    spans = [(0, 3), (64_999, 65_001), (119_000, 120_000)]
    found = [index.rows(start, stop) for start, stop in spans]
    return [*(row for table in found for row in table.to_pylist()), *index.batches(120_000, columns)]


@pytest.fixture(scope="module")
def long_index(tmp_path_factory):
    """An index of several batches and blocks in a store, and the digests of its blocks."""
    data, blocks = index_to_bytes(table_of(120_000), 1000, blocks=True)
    assert len(blocks.digests) > 5 * 8
    assert len(data) == blocks.size
    store = LocalStore(tmp_path_factory.mktemp("blocks"))
    store.put_new(KEY, data)
    return store, blocks


def test_a_range_that_is_damaged_on_its_way_is_read_again(long_index):
    store, blocks = long_index
    counted = FaultyStore(store)
    wanted = read_some(counted, blocks)
    assert {operation.name for operation in counted.log} == {"get_range"}
    for at in range(len(counted.log)):
        faulty = FaultyStore(store, StoreFault(at, "before", "flip"))
        assert read_some(faulty, blocks) == wanted
        assert len(faulty.log) == len(counted.log) + 1
        with pytest.raises(CorruptError, match="names in bytes") as caught:
            read_some(FaultyStore(store, StoreFault(at, "before", "flip", times=2)), blocks)
        assert caught.value.kind == "plan-damaged"


def test_any_flipped_bit_of_an_index_is_found(tmp_path):
    data, blocks = index_to_bytes(table_of(40), 8, blocks=True)
    for at in range(0, len(data), 29):
        store = LocalStore(tmp_path / f"flip{at}")
        store.put_new(KEY, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(CorruptError):
            PlanIndex(store, KEY, 8, blocks).rows(0, 40)


@given(st.lists(st.integers(0, 200_000), max_size=6))
def test_blocks_are_the_same_however_a_file_is_written(lengths):
    data = np.random.default_rng(0).bytes(sum(lengths))
    whole, parts = BlockHasher(), BlockHasher()
    whole.add(data)
    for stop, length in zip(np.cumsum(lengths), lengths, strict=True):
        parts.add(data[stop - length : stop])
    blocks = parts.finish()
    assert blocks == whole.finish() == parse_blocks(blocks.to_bytes(), key="k")
    assert blocks.are(0, data)
    for start, stop in [(0, 1), (65_535, 65_537), (70_000, 70_001)]:
        if stop <= len(data):
            low, high = blocks.around(start, stop)
            assert low <= start < stop <= high <= len(data)
            assert blocks.are(low, data[low:high])


def test_digests_of_another_number_of_blocks_are_damage():
    whole = IndexBlocks(65_537, bytes(16)).to_bytes()
    assert parse_blocks(whole, key="k") == IndexBlocks(65_537, bytes(16))
    for data in (b"", whole[:7], whole[:-1], whole + bytes(8), bytes([255]) * 24):
        with pytest.raises(CorruptError, match="k has no digests"):
            parse_blocks(data, key="k")
