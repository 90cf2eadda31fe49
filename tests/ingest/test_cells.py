from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from ingest.cells import read_cells
from ingest.errors import ConfigError, EmptySelectionError
from ingest.profile import known_nnz
from ingest.source import Source
from ingest.testing.examples import examples

HUMAN = "census://2025-11-08/homo_sapiens"
MOUSE = "census://2025-11-08/mus_musculus"
FILE = "file:///data/a.h5ad#version=1"


class ReadCells:
    """All cells of an index at once, for small ones."""

    def __init__(self, path, *, n_rows=3, **options):
        cells = read_cells(path, **options)
        self.cells, self.sources = cells, cells.sources
        batches = list(cells.batches(n_rows))
        assert [len(batch) for batch in batches[:-1]] == [n_rows] * (len(batches) - 1)
        self.table = pa.Table.from_batches([batch.table for batch in batches])
        self.codes = np.concatenate([batch.codes for batch in batches])
        self.coordinates = np.concatenate([batch.coordinates for batch in batches])
        for batch in batches:
            assert batch.codes.dtype == np.int32
            assert batch.coordinates.dtype == np.int64
            for column, first in zip(batch.table.columns, batches[0].table.columns, strict=True):
                assert not pa.types.is_dictionary(column.type) or column.dictionary.equals(first.dictionary)

    def __len__(self):
        assert len(self.cells) == len(self.codes)
        return len(self.codes)


@pytest.fixture
def read(tmp_path):
    def read(table, **options):
        path = tmp_path / "index.feather"
        if isinstance(table, pd.DataFrame):
            table.to_feather(path)
        else:
            feather.write_feather(table, path)
        return ReadCells(path, **options)

    return read


def census(n=3, **columns):
    return pa.table({"source": [HUMAN] * n, "soma_joinid": list(range(n)), **columns})


def expected_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort as the plan must: sources as they first appear, then by coordinate; pandas alone."""
    frame = frame.copy()
    rank = {name: at for at, name in enumerate(dict.fromkeys(frame["source"]))}
    frame["rank"] = frame["source"].map(rank)
    joinid = frame["soma_joinid"] if "soma_joinid" in frame else pd.Series(-1.0, frame.index)
    row = frame["row"] if "row" in frame else pd.Series(-1.0, frame.index)
    frame["at"] = np.where(frame["source"].str.startswith("census"), joinid, row).astype("int64")
    return frame.sort_values(["rank", "at"]).reset_index(drop=True)


@st.composite
def frames(draw):
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from([HUMAN, MOUSE, FILE]), st.integers(0, 1 << 40)),
            min_size=1,
            max_size=30,
            unique=True,
        )
    )
    frame = pd.DataFrame(keys, columns=["source", "at"])
    is_file = frame["source"] == FILE
    # As pandas leaves it behind a concat: whole numbers as floats with NaN for what does not apply.
    frame["soma_joinid"] = frame["at"].where(~is_file).astype(draw(st.sampled_from(["float64", "Int64"])))
    frame["row"] = frame["at"].where(is_file).astype("float64")
    frame["cell_type"] = pd.Categorical(
        draw(st.lists(st.sampled_from(["T cell", "B cell", "é", None]), min_size=len(frame), max_size=len(frame))),
        categories=["unused", "é", "T cell", "B cell"],
    )
    frame["score"] = np.arange(len(frame)) / 4
    if draw(st.booleans()):
        frame["source"] = frame["source"].astype("category")
    return frame.drop(columns="at")


@settings(max_examples=examples(24))
@given(frames(), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_any_pandas_index_is_read_in_source_order(tmp_path_factory, frame, limit, n_rows, bucket_rows):
    path = tmp_path_factory.mktemp("cells") / "i.feather"
    frame.to_feather(path)
    cells = ReadCells(path, limit=limit, n_rows=n_rows, bucket_rows=bucket_rows)
    wanted = expected_order(frame.head(limit).assign(source=lambda f: f["source"].astype(str)))
    assert [str(cells.sources[code]) for code in cells.codes] == wanted["source"].tolist()
    assert cells.coordinates.tolist() == wanted["at"].tolist()
    assert cells.codes.dtype == np.int32
    assert cells.coordinates.dtype == np.int64
    found = cells.table.to_pandas()
    assert found["source"].tolist() == wanted["source"].tolist()
    assert found["score"].tolist() == wanted["score"].tolist()
    assert found["cell_type"].astype(object).where(found["cell_type"].notna(), None).tolist() == (
        wanted["cell_type"].astype(object).where(wanted["cell_type"].notna(), None).tolist()
    )
    is_file = wanted["source"] == FILE
    assert found["row"].tolist() == wanted["at"].where(is_file, -1).tolist()
    assert found["soma_joinid"].tolist() == wanted["at"].where(~is_file, -1).tolist()


def test_pandas_leftovers_are_dropped(read):
    frame = pd.DataFrame({"source": [HUMAN] * 2, "soma_joinid": [5, 3], "__index_level_0__": [1, 0]})
    assert read(frame).table.column_names == ["source", "soma_joinid", "row"]


def test_joinids_alone_work_with_a_default_source(read):
    source = Source.parse(HUMAN)
    cells = read(pd.DataFrame({"soma_joinid": [4.0, 2.0]}), default_source=source)
    assert cells.sources == (source,)
    assert cells.coordinates.tolist() == [2, 4]
    with pytest.raises(ConfigError, match="no column 'source'") as caught:
        read(pd.DataFrame({"soma_joinid": [4.0]}))
    assert "--census-version" in caught.value.hint


def test_a_source_column_wins_over_the_default(read):
    cells = read(census(), default_source=Source.parse(MOUSE))
    assert [str(source) for source in cells.sources] == [HUMAN]


def test_two_spellings_of_one_source_are_one(read):
    table = pa.table({"source": ["/data/a.h5ad", "file:///data/a.h5ad"], "row": [1, 0]})
    assert len(read(table).sources) == 1
    with pytest.raises(ConfigError, match="1 cells stand twice"):
        read(table.set_column(1, "row", pa.array([1, 1])))


def test_duplicates_are_counted_and_the_first_is_named(read):
    frame = pd.DataFrame({"source": [HUMAN] * 5, "soma_joinid": [7, 9, 7, 9, 1]})
    with pytest.raises(ConfigError, match=f"2 cells stand twice, the first is 7 of {HUMAN}") as caught:
        read(frame)
    assert caught.value.kind == "duplicate-cells"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, -1], "row 1 of the index has no soma_joinid"),
        ([1, -7], "row 1 of the index has soma_joinid -7"),
        ([1, None], "row 1 of the index has no soma_joinid"),
        ([1.0, float("nan")], "row 1 of the index has no soma_joinid"),
        ([1.0, 1.5], r"'soma_joinid' \(double\) holds no whole numbers"),
        (["1", "x"], r"'soma_joinid' \(string\) holds no whole numbers"),
        (pa.array([1, 2**63], pa.uint64()), "no whole numbers"),
        (pa.nulls(2), "row 0 of the index has no soma_joinid"),
    ],
)
def test_coordinates_that_are_none(read, values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(pa.table({"source": [HUMAN] * 2, "soma_joinid": values}))
    assert caught.value.kind == "bad-index"


def test_a_categorical_coordinate_is_its_values(read):
    assert read(census(2).set_column(1, "soma_joinid", pa.array([9, 4]).dictionary_encode())).coordinates.tolist() == [
        4,
        9,
    ]


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array(["b", None, "a"]), ["b", None, "a"]),
        (pa.array(["b", None, "a"], pa.large_string()), ["b", None, "a"]),
        (pa.array(["b", None, "a"], pa.string_view()), ["b", None, "a"]),
        (pa.array(["b", None, "a"]).dictionary_encode(), ["b", None, "a"]),
        (pa.array(["b", None, "a"], pa.large_string()).dictionary_encode(), ["b", None, "a"]),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["b", None, "b"])), ["b", None, "b"]),
        (pa.nulls(3), [None] * 3),
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.array([0, None, 86400], pa.timestamp("s")), ["1970-01-01 00:00:00", None, "1970-01-02 00:00:00"]),
    ],
)
def test_texts_become_dictionaries_with_nulls_and_without_repeats(read, column, wanted):
    found = read(census(x=column)).table["x"].combine_chunks()
    assert found.type == pa.dictionary(pa.int32(), pa.string())
    assert found.to_pylist() == wanted
    assert found.dictionary.null_count == 0
    assert len(found.dictionary.unique()) == len(found.dictionary)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, None, 3], pa.int32()), pa.float64()),
        (pa.array([1.5, None, 3], pa.float32()), pa.float32()),
        (pa.array([1, None, 1]).dictionary_encode(), pa.float64()),
        (pa.array([1, 2, 3], pa.int8()), pa.int8()),
        (pa.array([True, False, True]), pa.bool_()),
        (pa.array([1, 2, 2**64 - 1], pa.uint64()), pa.uint64()),
    ],
)
def test_numbers_stay_numbers_and_gaps_become_nan(read, column, kind):
    found = read(census(x=column)).table["x"]
    assert found.type == kind
    assert found.null_count == 0
    for value, original in zip(found.to_pylist(), column.to_pylist(), strict=True):
        assert value == original or (original is None and np.isnan(value))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("x", pa.array([[1], [2], [3]]), "of type list"),
        ("x", pa.array([{"a": 1}] * 3), "of type struct"),
        ("x", pa.array([b"a", b"b", b"c"]), "of type binary"),
        ("x", pa.array([2**60, None, 1]), "beyond 2"),
        ("x", pa.array(["a\0b", "c", "d"]), "NUL"),
        ("a/b", pa.array([1, 2, 3]), "'a/b'"),
        ("_index", pa.array([1, 2, 3]), "'_index'"),
        ("", pa.array([1, 2, 3]), "''"),
        ("a\0", pa.array([1, 2, 3]), "cannot be called"),
    ],
)
def test_what_cannot_stand_in_obs_is_refused_before_anything_is_fetched(read, name, column, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(census(**{name: column}))
    assert caught.value.kind == "bad-index"


def test_a_column_that_stands_twice_is_refused(read):
    table = pa.Table.from_arrays(
        [pa.array([HUMAN]), pa.array([1]), pa.array([1]), pa.array([2])], ["source", "soma_joinid", "x", "x"]
    )
    with pytest.raises(ConfigError, match="'x' stands twice"):
        read(table)


def test_codes_outside_their_dictionary_are_damage(read):
    codes = pa.Array.from_buffers(pa.int32(), 3, [None, pa.py_buffer(np.array([0, 9, 1], np.int32).tobytes())])
    broken = pa.DictionaryArray.from_arrays(codes, pa.array(["a", "b"]), safe=False)
    with pytest.raises(ConfigError, match="damaged"):
        read(census(x=broken))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing(read, limit):
    with pytest.raises(EmptySelectionError, match=f"-n {limit}"):
        read(census(), limit=limit)


def test_an_index_without_rows(read):
    with pytest.raises(EmptySelectionError):
        read(census(0))


def test_the_first_rows_of_the_file_are_taken_before_sorting(read):
    frame = pd.DataFrame({"source": [HUMAN] * 4, "soma_joinid": [9, 7, 1, 0]})
    assert read(frame, limit=2).coordinates.tolist() == [7, 9]
    assert len(read(frame, limit=99)) == 4


def test_no_file_and_no_feather(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_cells(tmp_path / "absent")
    assert caught.value.kind == "no-index"
    (tmp_path / "text").write_text("cell,1\n")
    with pytest.raises(ConfigError) as caught:
        read_cells(tmp_path / "text")
    assert caught.value.kind == "bad-index"


def test_cut_and_flipped_files_are_refused_or_harmless(tmp_path):
    path = tmp_path / "i.feather"
    feather.write_feather(census(50, t=pa.array(["a", "b"] * 25).dictionary_encode()), path, compression="lz4")
    whole = path.read_bytes()
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError):
            read_cells(path)
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with contextlib.suppress(ConfigError):
            read_cells(path)


def test_a_gap_or_a_text_in_nnz_is_unknown(read):
    assert known_nnz(read(census(nnz=pa.array([5, None, 0]))).table).tolist() == [5, -1, 0]
    assert known_nnz(read(census()).table) is None
    for values, known in [([5, None, 0], False), ([5, -4, 0], False), (["5", "x", "y"], False), ([5, 4, 0], True)]:
        assert read(census(nnz=pa.array(values))).cells.knows_nnz is known
    assert read(census(nnz=pa.array([5.0, float("nan"), 0.0]))).cells.knows_nnz is False
    assert read(census(nnz=pa.array([5.0, 4.0, 0.0]))).cells.knows_nnz is True
    assert read(census()).cells.knows_nnz is False


def test_with_column_replaces_one_of_the_same_name(read):
    (batch,) = read(census(nnz=pa.array([5, None, 0]))).cells.batches()
    batch = batch.with_column("nnz", np.array([1, 2, 3])).with_column("more", np.array([4, 5, 6]))
    assert batch.table.schema.names == ["source", "soma_joinid", "row", "nnz", "more"]
    assert batch.table["nnz"].to_pylist() == [1, 2, 3]


def test_pinning_sources_keeps_cells(read):
    cells = read(
        pa.table({"source": ["/a.h5ad", HUMAN, "/a.h5ad"], "row": [4, -1, 2], "soma_joinid": [-1, 8, -1]})
    ).cells
    pinned = cells.with_sources(tuple(Source(s.kind, s.address, "v9", s.organism) for s in cells.sources))
    (batch,) = pinned.batches()
    assert batch.table["source"].to_pylist() == ["file:///a.h5ad#version=v9"] * 2 + ["census://v9/homo_sapiens"]
    assert batch.coordinates.tolist() == [2, 4, 8]
