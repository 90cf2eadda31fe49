"""A few megabytes that say they become many gigabytes: refused before Arrow takes the memory."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from index.read import IndexFile as StoredIndex
from ingest.arrow_ranges import READ_AHEAD_BYTES, RangeFile, anybodys_batches
from ingest.errors import ConfigError, CorruptError
from ingest.index_file import IndexFile
from ingest.load.arrow import map_table
from ingest.opened import open_plan
from ingest.store.local import LocalStore
from ingest.survey.table import surveys_from_bytes
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.testing.examples import examples
from ingest.testing.watch import watched_memory
from ingest.unpacked import LIMIT_BYTES, UnpackedTooLargeError, UnpackLimit
from ingest.verifying import verify_dataset

N_ROWS = 3000


def cells(n_rows=N_ROWS):
    """A column of each layout: numbers, text, codes, lists, structs, booleans; with gaps."""
    return pa.table(
        {
            "row": np.arange(n_rows),
            "name": [None if at % 7 == 0 else f"cell-{at % 50}" for at in range(n_rows)],
            "type": pa.array([f"T{at % 3}" for at in range(n_rows)]).dictionary_encode(),
            "list": [[at, at] if at % 2 else None for at in range(n_rows)],
            "pair": [{"x": at, "y": "z"} for at in range(n_rows)],
            "flag": [at % 3 == 0 for at in range(n_rows)],
        }
    )


def stored(table, compression, **more):
    sink = io.BytesIO()
    feather.write_feather(table, sink, compression=compression, **more)
    return sink.getvalue()


def unpacked(table):
    """Bytes that a table's buffers have when they are written plainly, without padding: by Arrow's own account."""
    batches = pa.ipc.open_file(stored(table, "uncompressed"))
    return sum(batches.get_batch(at).nbytes for at in range(batches.num_record_batches))


def smallest_limit(data, check):
    """Return the least limit with which `check` lets a file pass."""
    low, high = -1, LIMIT_BYTES
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check(UnpackLimit(data if isinstance(data, RangeFile) else memoryview(data), middle))
        except UnpackedTooLargeError:
            low = middle
        else:
            high = middle
    return high


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_limit_counts_what_arrow_takes(compression):
    whole = smallest_limit(stored(cells(), compression), UnpackLimit.check_whole)
    # Arrow counts what it keeps; what is written is padded to 8 bytes a buffer, and a bitmap may be left out.
    assert whole == pytest.approx(unpacked(cells()), rel=0.02)
    pool_before = pa.total_allocated_bytes()
    table = pa.ipc.open_file(stored(cells(), compression)).read_all()
    assert pa.total_allocated_bytes() - pool_before == pytest.approx(whole, rel=0.05)
    del table


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_each_batch_by_itself(compression):
    data = stored(cells(), compression, chunksize=1000)
    one, last = (smallest_limit(data, lambda limit, at=at: limit.check_batch(at)) for at in (0, 2))
    whole = smallest_limit(data, UnpackLimit.check_whole)
    assert 0.8 < one / last < 1.2
    assert whole > 2.8 * one


def test_what_is_not_compressed_takes_nothing():
    UnpackLimit(memoryview(stored(cells(), "uncompressed")), 0).check_whole()


@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
@pytest.mark.parametrize("n_rows", [0, 1, N_ROWS])
def test_rows_are_counted_without_reading_them(compression, n_rows, tmp_path):
    path = tmp_path / "index.feather"
    path.write_bytes(stored(cells(n_rows).select(["row", "name"]), compression, chunksize=1000))
    assert UnpackLimit(memoryview(path.read_bytes())).count_rows() == n_rows
    assert StoredIndex(path).total == n_rows


def lying(data, n_bytes):
    """Let the first buffer of a file say that it becomes so many bytes."""
    reader = pa.ipc.open_file(data)
    first = struct.pack("<q", reader.get_batch(0).column(0).buffers()[1].size)
    assert data.count(first) >= 1
    return data.replace(first, struct.pack("<q", n_bytes))


@pytest.fixture(params=[1 << 34, (1 << 63) - 1], ids=["16 GiB", "all there is"])
def bomb(request, tmp_path):
    path = tmp_path / "index.feather"
    path.write_bytes(lying(stored(cells(), "zstd"), request.param))
    return path


@pytest.mark.parametrize("reader", [IndexFile, StoredIndex])
def test_an_index_is_refused_before_it_takes_memory(bomb, reader):
    path = bomb
    if reader is StoredIndex:  # which takes flat columns alone
        path.write_bytes(lying(stored(cells().select(["row", "name"]), "lz4"), 1 << 34))
    with watched_memory() as peak, pytest.raises(ConfigError) as caught:
        list(reader(path).batches())
    assert peak.taken_bytes < 100 << 20
    assert caught.value.kind == "bad-index"
    assert re.search(
        r"index\.feather: its record batch 0 takes [\d,.]+ GB unpacked, where 2\.1 GB may", str(caught.value)
    )
    assert "chunksize=65536" in caught.value.hint


def test_a_mapped_table_and_a_survey_are_too(bomb):
    with pytest.raises(UnpackedTooLargeError):
        map_table(bomb)
    with pytest.raises(CorruptError, match="GB unpacked"):
        surveys_from_bytes(bomb.read_bytes(), key="survey.feather")


@pytest.mark.parametrize("ahead_bytes", [0, 100, READ_AHEAD_BYTES])
def test_a_file_of_ranges_is_looked_at_as_one_in_memory(bomb, ahead_bytes):
    store = LocalStore(bomb.parent)
    store.put_new("good.feather", stored(cells(), "lz4", chunksize=700))
    good = RangeFile(store, "good.feather", ahead_bytes)
    assert smallest_limit(good, UnpackLimit.check_whole) == smallest_limit(good[:], UnpackLimit.check_whole)
    with pytest.raises(UnpackedTooLargeError, match="its record batch 0 takes"):
        UnpackLimit(RangeFile(store, bomb.name, ahead_bytes)).check_batch(0)


def test_a_summary_of_anybodys_differs_before_it_takes_memory(tmp_path):
    dest = tmp_path / "dest"
    make_dataset(str(dest), write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path, n_files=1)))
    summary = dest / "metadata/cells.feather"
    good = feather.read_table(summary)
    summary.write_bytes(stored(good, "zstd", chunksize=4))  # says the same in its own way
    assert verify_dataset(open_plan(LocalStore(dest))).findings == ()
    summary.write_bytes(lying(stored(good, "zstd"), 1 << 34))
    [finding] = verify_dataset(open_plan(LocalStore(dest))).findings
    assert (finding.kind, finding.key) == ("summary-differs", "metadata/cells.feather")
    with pytest.raises(UnpackedTooLargeError):
        next(anybodys_batches(LocalStore(dest), finding.key))


def test_compressed_in_the_way_of_2020_counts_too():
    """As Arrow 0.17 wrote it: what says so stands in a message's metadata, and readers still take it."""
    n_bytes = 4 << 20
    packed = struct.pack("<q", n_bytes) + pa.compress(bytes(n_bytes), codec="lz4", asbytes=True)
    column = pa.Array.from_buffers(pa.int8(), len(packed), [None, pa.py_buffer(packed)])
    batch, sink = pa.record_batch([column], names=["row"]), io.BytesIO()
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "lz4"})
    read = pa.ipc.open_file(sink.getvalue()).get_batch(0)
    assert read.column(0).buffers()[1].size == n_bytes
    with pytest.raises(UnpackedTooLargeError):
        UnpackLimit(memoryview(sink.getvalue()), n_bytes - 1).check_batch(0)
    UnpackLimit(memoryview(sink.getvalue()), n_bytes).check_batch(0)


def test_dictionaries_count_together():
    words = pa.array(["x" * 1000] * 40_000)
    codes = pa.array([0], pa.int32())
    table = pa.table({f"c{at}": pa.DictionaryArray.from_arrays(codes, words) for at in range(3)})
    data = memoryview(stored(table, "zstd"))
    with pytest.raises(UnpackedTooLargeError, match=r"its dictionaries take 0\.1 GB"):
        UnpackLimit(data, 100 << 20)
    UnpackLimit(data, 130 << 20).check_batch(0)


def test_a_batch_as_large_as_may_be_is_taken(tmp_path):
    path = tmp_path / "index.feather"
    path.write_bytes(lying(stored(cells(), "zstd"), LIMIT_BYTES + 1))
    with pytest.raises(ConfigError, match="record batch 0"):
        list(IndexFile(path).batches())
    path.write_bytes(stored(cells(), "zstd"))
    assert sum(len(batch) for batch in IndexFile(path).batches()) == N_ROWS


FILE = stored(cells(200), "lz4", chunksize=64)


@settings(max_examples=examples(400))
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(FILE) - 1) | st.integers(len(FILE) - 2500, len(FILE) - 1), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
    cut=st.none() | st.integers(0, len(FILE)),
)
def test_no_damage_leads_outside(changes, cut):
    data = bytearray(FILE)
    for at, value in changes:
        data[at] = value
    try:
        limit = UnpackLimit(memoryview(data)[:cut])
        limit.check_whole()
    except pa.ArrowInvalid:
        pass
