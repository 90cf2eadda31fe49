"""Index files of every make, as a stream."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from ingest.errors import ConfigError
from ingest.index_file import IndexFile
from ingest.testing.examples import examples


def table_of(n_rows):
    return pa.table(
        {
            "source": pa.array(["a", "b"] * n_rows)[:n_rows].dictionary_encode(),
            "row": np.arange(n_rows),
            "text": [None if at % 7 == 0 else f"t{at % 5}" for at in range(n_rows)],
            "flag": [at % 2 == 0 for at in range(n_rows)],
        }
    )


def write(table, path, how, chunk_rows):
    if how == "growing dictionaries":
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True, compression="lz4")
        texts = [f"t{at}" for at in range(len(table))]
        rows = range(0, len(table), chunk_rows)
        codes = [np.arange(at, min(at + chunk_rows, len(table)), dtype=np.int32) for at in rows]
        schema = pa.schema([("source", pa.dictionary(pa.int32(), pa.string())), ("row", pa.int64())])
        with pa.ipc.new_file(path, schema, options=options) as writer:
            for part in codes:
                grown = pa.DictionaryArray.from_arrays(pa.array(part), pa.array(texts[: part[-1] + 1]))
                writer.write_batch(pa.RecordBatch.from_arrays([grown, pa.array(part.astype(np.int64))], schema=schema))
    else:
        feather.write_feather(table, path, compression=how, chunksize=chunk_rows)


@settings(max_examples=examples(16))
@given(
    st.sampled_from(["lz4", "zstd", "uncompressed", "growing dictionaries"]),
    st.integers(1, 60),
    st.integers(1, 70),
    st.none() | st.integers(1, 70),
)
def test_every_make_is_its_rows_as_often_as_they_are_asked_for(tmp_path_factory, how, n_rows, chunk_rows, limit):
    path = tmp_path_factory.mktemp("make") / "i.feather"
    table = table_of(n_rows)
    write(table, path, how, chunk_rows)
    file = IndexFile(path, limit)
    wanted = feather.read_table(path).slice(0, limit).to_pylist()
    for _ in range(2):
        assert [row for batch in file.batches() for row in batch.to_pylist()] == wanted


@pytest.mark.parametrize("data", [b"FEA1", b"FEA1\0\0\0\0FEA1", b"FEA1" + b"\xff" * 64 + b"FEA1"])
def test_the_first_version_is_refused_before_arrow_dies_of_it(tmp_path, data):
    (tmp_path / "i.feather").write_bytes(data)
    with pytest.raises(ConfigError, match="version 1") as caught:
        IndexFile(tmp_path / "i.feather")
    assert "to_feather" in caught.value.hint


def test_one_large_batch_is_given_in_pieces(tmp_path):
    table = table_of(300_000)
    write(table, tmp_path / "i.feather", "uncompressed", 300_000)
    sizes = [len(batch) for batch in IndexFile(tmp_path / "i.feather").batches()]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 1 << 17


def test_what_is_in_memory_is_a_batch_not_the_file(tmp_path):
    n_rows = 1_000_000
    feather.write_feather(
        pa.table({"row": np.arange(n_rows), "x": np.random.default_rng(0).random(n_rows)}), tmp_path / "i.feather"
    )
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    most = max(pool.bytes_allocated() - before for _ in IndexFile(tmp_path / "i.feather").batches())
    assert most < 4 * (1 << 16) * 16, "more than a few batches of the sixteen in the file"


def test_columns_that_pandas_leaves_behind_are_never_decoded(tmp_path):
    """What is not wanted may even be damaged: a text that is not UTF-8 in it is not looked at."""
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    feather.write_feather(pa.table({"row": [0, 1], "__index_level_0__": bad}), tmp_path / "i.feather")
    file = IndexFile(tmp_path / "i.feather")
    assert file.schema.names == ["row"]
    assert [batch.to_pydict() for batch in file.batches()] == [{"row": [0, 1]}]


def test_damage_is_found_where_it_is_and_not_before(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb")]
    )
    feather.write_feather(pa.table({"row": [0, 1, 2], "text": bad}), tmp_path / "i.feather", chunksize=1)
    assert sum(map(len, IndexFile(tmp_path / "i.feather", 1).batches())) == 1
    with pytest.raises(ConfigError, match="is damaged"):
        list(IndexFile(tmp_path / "i.feather").batches())


def test_a_folder_and_an_empty_file_are_no_index(tmp_path):
    (tmp_path / "empty").touch()
    for path in (tmp_path, tmp_path / "empty"):
        with pytest.raises(ConfigError, match="not a feather file"):
            IndexFile(path)
