"""Writing an index: what pandas reads back, whole files or none, memory that does not follow the cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from index import dictionaries, write
from index.dictionaries import GrowingDictionary
from index.write import write_index
from ingest.errors import ConfigError, EmptySelectionError
from ingest.testing.examples import examples


def _table(n_cells: int) -> pa.Table:
    rng = np.random.default_rng(1)
    tissue = pa.DictionaryArray.from_arrays(
        pa.array(rng.integers(0, 3, n_cells), pa.int8(), mask=rng.random(n_cells) < 0.1),
        pa.array(["lung", "blood", "lung"], pa.large_string()),
    )
    return pa.table(
        {
            "source": pa.array([f"file:///{k * 5 // max(n_cells, 1)}.h5ad" for k in range(n_cells)], pa.string()),
            "soma_joinid": pa.array(np.full(n_cells, -1)),
            "row": pa.array(np.arange(n_cells)),
            "tissue": tissue,
            "barcode": pa.array([f"cell-{k}" for k in range(n_cells)], pa.large_string()),
            "nnz": pa.array(rng.random(n_cells), pa.float32()),
            "good": pa.array(rng.random(n_cells) < 0.5),
            "level": pa.array(rng.integers(0, 3, n_cells)).dictionary_encode(),
        }
    )


def _plain(table: pa.Table) -> list[list[object]]:
    return [column.to_pylist() for column in table.columns]


def test_pandas_and_arrow_read_back_what_was_streamed(tmp_path, table_stream):
    table = _table(70_000)
    report = write_index(tmp_path / "deep" / "index.feather", table_stream(table, 777))
    frame = pd.read_feather(report.path)
    assert report.cells == report.total == len(frame) == 70_000
    assert report.bytes == report.path.stat().st_size
    for name in ("source", "tissue", "barcode"):
        assert frame[name].dtype == "category"
        assert frame[name].astype(object).where(frame[name].notna(), None).tolist() == table[name].to_pylist()
    assert frame["row"].dtype == np.int64
    assert _plain(feather.read_table(report.path, memory_map=True)) == _plain(table)


def test_dictionaries_grow_by_deltas_and_keep_their_codes(tmp_path, table_stream):
    report = write_index(tmp_path / "i.feather", table_stream(_table(200_000), 50_000))
    file = pa.ipc.open_file(pa.memory_map(str(report.path)))
    assert file.num_record_batches == 4
    assert [file.get_batch(k).num_rows for k in range(4)] == [65_536] * 3 + [200_000 - 3 * 65_536]
    assert file.stats.num_dictionary_deltas > 0
    assert file.stats.num_replaced_dictionaries == 0


def test_a_column_of_too_many_values_is_plain_text(tmp_path, table_stream, monkeypatch):
    monkeypatch.setattr(dictionaries, "_MOST_VALUES", 500)
    monkeypatch.setattr(write, "GrowingDictionary", lambda: GrowingDictionary(500))
    table = _table(3000)
    report = write_index(tmp_path / "i.feather", table_stream(table, 200))
    read = feather.read_table(report.path)
    assert read.schema.field("barcode").type == pa.string()
    assert pa.types.is_dictionary(read.schema.field("tissue").type)
    assert _plain(read) == _plain(table)


_TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "", "é", "ccc"]))


@settings(max_examples=examples(24), deadline=None)
@given(st.lists(st.tuples(st.lists(_TEXTS, max_size=6), st.booleans()), max_size=6))
def test_codes_of_a_growing_dictionary_always_decode(parts):
    dictionary = GrowingDictionary()
    coded = []
    for texts, encoded in parts:
        column = pa.array(texts, pa.large_string())
        coded.append(dictionary.encode(column.dictionary_encode("encode") if encoded else column))
    decoded = [pa.DictionaryArray.from_arrays(codes, dictionary.values).to_pylist() for codes in coded]
    assert decoded == [texts for texts, _ in parts]
    assert len(set(dictionary.values.to_pylist())) == len(dictionary.values)


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, table_stream):
    path = tmp_path / "index.feather"
    write_index(path, table_stream(_table(10)))
    before = path.read_bytes()

    class Torn(table_stream):
        def batches(self, columns=None):
            yield from super().batches(columns)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(path, Torn(_table(100_000)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_cells_no_file(tmp_path, table_stream):
    with pytest.raises(EmptySelectionError, match="the table has no cells"):
        write_index(tmp_path / "index.feather", table_stream(_table(0)))
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_is_one_line(tmp_path, table_stream):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "index.feather", tmp_path):
        with pytest.raises(ConfigError) as caught:
            write_index(path, table_stream(_table(3)))
        assert caught.value.kind == "bad-output"
        assert str(path) in str(caught.value)


def test_a_source_failing_to_read_is_not_blamed_on_the_output(tmp_path, table_stream):
    class Broken(table_stream):
        def batches(self, columns=None):
            raise OSError(f"the disk of the source, reading {columns}")

    with pytest.raises(OSError, match="the disk of the source"):
        write_index(tmp_path / "index.feather", Broken(_table(3)))


def test_progress_ends_at_the_cells_written(tmp_path, table_stream):
    seen = []
    write_index(tmp_path / "i.feather", table_stream(_table(70_000)), progress=lambda *event: seen.append(event))
    assert seen == [("writing", 65_536), ("writing", 70_000)]


@pytest.mark.parametrize("coded", [True, False])
def test_a_text_that_nobody_could_read_back_is_named_and_not_written(tmp_path, table_stream, coded):
    good = pa.array(["lung", "skin"])
    bad = pa.Array.from_buffers(pa.string(), 2, [None, good.buffers()[1], pa.py_buffer(b"lu\xe9gskin")])
    tissue = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), bad) if coded else bad
    table = _table(2).set_column(3, "tissue", tissue)
    with pytest.raises(ConfigError, match=r"column 'tissue' cannot be written \(.*UTF8") as caught:
        write_index(tmp_path / "i.feather", table_stream(table, 10))
    assert caught.value.kind == "bad-column"
    assert list(tmp_path.iterdir()) == []
