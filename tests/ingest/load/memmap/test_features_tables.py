"""Features from Arrow tables, many rows at once, and codes for samplers."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from bionemo.scdl.index import row_feature_index as theirs
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.load.memmap.feature_encode import from_values
from ingest.load.memmap.feature_observed import ObservedBlock
from ingest.load.memmap.feature_pieces import Coded, Plain, Texts
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex, are_dicts_equal

TYPES = ["B", "T", None, "B", "NK", "T"]


def pieces_of(index, name):
    return [segment.piece(name) for block in index._blocks for segment in block._segments]


def table(**columns):
    return pa.table(columns)


CHUNKED = {
    "text": pa.chunked_array([["a", None], ["b", "a"]]),
    "large": pa.chunked_array([["a", None, "b", "a"]], pa.large_string()),
    "dictionary": pa.chunked_array(
        [pa.array(["a", "b"]).dictionary_encode(), pa.array(["b", "c"]).dictionary_encode()]
    ),
    "unused": pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([2, 0, 2, 2], pa.int8()), ["x", "y", "z"])]),
    "twice": pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0]), ["x", "y", "x"])]),
    "numbers": pa.chunked_array([pa.array([3, 1, 3, 3]).dictionary_encode()]),
    "int": pa.chunked_array([[1, 2], [3, 4]], pa.int16()),
    "int or null": pa.chunked_array([[1, None], [3, 4]], pa.int16()),
    "bool": pa.chunked_array([[True, False, True, True]]),
    "bool or null": pa.chunked_array([[True, None, None, False]]),
    "null": pa.chunked_array([pa.nulls(4)]),
    "bytes": pa.chunked_array([[b"a", b"", None, b"b"]]),
    "date": pa.chunked_array([pa.array([0, 1, None, 3], pa.date32())]),
    "time": pa.chunked_array([pa.array([0, 1, None, 3], pa.timestamp("us", "UTC"))]),
    "lists": pa.chunked_array([[[1], [], None, [2, 3]]]),
}


@pytest.mark.parametrize("name", sorted(CHUNKED))
def test_a_table_is_its_arrays(name):
    column = CHUNKED[name]
    mine, peer = ObservedFeatureIndex(), theirs.ObservedFeatureIndex()
    mine.append_table(table(x=column), "one")
    peer.append_features({"x": np.array(column)}, "one")
    found = [mine.lookup(row)[0][0] for row in range(4)]
    wanted = [peer.lookup(row)[0][0] for row in range(4)]
    assert list(map(type, found)) == list(map(type, wanted))
    assert list(map(repr, found)) == list(map(repr, wanted))
    assert mine._feature_arr[0]["x"].dtype == peer._feature_arr[0]["x"].dtype
    var = VariableFeatureIndex()
    var.append_table(2, table(x=column), "one")
    assert list(map(repr, var.lookup(1)[0][0])) == list(map(repr, np.array(column)))
    assert var.lookup(1)[0][0].flags.writeable


@pytest.mark.parametrize(
    ("codes", "texts"),
    [([0, None, 1, 0], ["a", "b"]), ([0, 1, 2, 1], ["a", None, "b"]), ([None] * 4, ["a", "b"]), ([None] * 4, [])],
)
def test_null_in_a_dictionary_is_none(codes, texts, tmp_path):
    # np.array() of it gives the last text in place of a null code: here it is None, as in plain texts.
    column = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(texts, pa.string()))
    index = ObservedFeatureIndex()
    index.append_table(table(x=column))
    assert index._feature_arr[0]["x"].tolist() == column.to_pylist()
    assert index.codes("x")[0] == tuple(sorted(set(column.to_pylist()) - {None}))
    index.save(tmp_path / "obs")
    assert theirs.ObservedFeatureIndex.load(str(tmp_path / "obs"))._feature_arr[0]["x"].tolist() == column.to_pylist()


def test_no_chunks():
    for kind in (pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.int8(), pa.bool_()):
        var = VariableFeatureIndex()
        var.append_table(2, table(x=pa.chunked_array([], kind)))
        assert len(var.lookup(0)[0][0]) == 0
        index = ObservedFeatureIndex()
        index.append_table(table(x=pa.chunked_array([], kind)))
        assert index.number_of_rows() == 0


def test_tables_without_rows_or_columns_add_nothing_to_obs():
    index = ObservedFeatureIndex()
    index.append_table(table(x=pa.array([], pa.string())))
    index.append_table(pa.table({"x": pa.nulls(3)}).select([]))
    assert len(index) == index.number_of_rows() == 0


def test_texts_are_codes_of_one_byte():
    index = ObservedFeatureIndex()
    index.append_features({"x": np.array(TYPES * 1000, object)})
    index.append_table(table(x=pa.array(TYPES * 1000).dictionary_encode()))
    index.append_features({"x": np.array(["B", "T"] * 10)})
    index.append_features({"x": np.array(pd.array([True, None] * 10, dtype="boolean"))})
    for piece in pieces_of(index, "x"):
        assert isinstance(piece, Coded)
        assert piece.codes.dtype == np.uint8


def test_many_texts_are_wider_codes_and_names_are_texts():
    some = np.array([f"donor {number}" for number in range(300)] * 4, object)
    many = np.array([f"barcode {number}" for number in range(70_000)] * 4, object)
    names = np.array([f"cell {number}" for number in range(140_000)], object)
    found = {kind: from_values(values) for kind, values in (("some", some), ("many", many), ("names", names))}
    assert found["some"].codes.dtype == np.uint16
    assert isinstance(found["many"], Texts)
    assert found["many"].codes.dtype == np.uint32
    assert isinstance(found["names"], Texts)
    assert found["names"].codes is None
    rows = np.array([0, 5, -1, 69_999, 5])
    for values, piece in ((some, found["some"]), (many, found["many"]), (names, found["names"])):
        keep = rows[rows < len(values)]
        assert piece.take(keep).tolist() == values[keep].tolist()
        assert piece.take(slice(7, None, 3)).tolist() == values[7::3].tolist()
        assert piece.take(slice(7, 20)).tolist() == values[7:20].tolist()
        assert piece.take(slice(20, 7)).tolist() == []
        assert piece.at(7) == values[7]
    with_none = names.copy()
    with_none[::7] = None
    assert from_values(with_none).take(slice(0, 8)).tolist() == with_none[:8].tolist()
    assert from_values(with_none).at(7) is None
    with_nan = many.copy()
    with_nan[-2:] = np.nan
    assert [type(value) for value in from_values(with_nan).take(slice(-3, None))] == [str, float, float]
    fixed = from_values(names.astype(str))
    assert fixed.take(np.array([3])).dtype == names.astype(str).dtype
    assert type(fixed.at(3)) is np.str_
    several = names.copy()
    several[:2] = None, np.nan
    assert isinstance(from_values(several), Plain)


def test_a_zero_in_a_text_of_fixed_width_does_not_end_it(tmp_path):
    values = np.array(["a\0b", "", "\0c", "d"])
    index = ObservedFeatureIndex()
    index.append_features({"x": values, "big": values.astype(">U3")})
    assert index.take([0, 1, 2, 3], ["x"])["x"].tolist() == values.tolist()
    assert index.take([2, 0], ["big"])["big"].tolist() == ["\0c", "a\0b"]
    index.save(tmp_path / "obs")
    assert theirs.ObservedFeatureIndex.load(str(tmp_path / "obs")).lookup(0)[0] == ["a\0b", "a\0b"]


def test_numbers_of_another_byte_order(tmp_path):
    values = np.array([1, 2**40, -3], ">i8")
    index = ObservedFeatureIndex()
    index.append_features({"x": values})
    assert index.take([2, 1], ["x"])["x"].tolist() == [-3, 2**40]
    index.save(tmp_path / "obs")  # theirs cannot
    assert theirs.ObservedFeatureIndex.load(str(tmp_path / "obs"))._feature_arr[0]["x"].tolist() == values.tolist()


def test_names_that_are_all_different_are_not_looked_through_for_what_repeats(monkeypatch):
    def refuse(*_):
        raise AssertionError("looked through")

    monkeypatch.setattr("ingest.load.memmap.feature_encode._codes", refuse)
    assert isinstance(from_values(np.array([f"cell {number}" for number in range(140_000)], object)), Texts)


def test_appending_copies_nothing_that_is_there():
    index = ObservedFeatureIndex()
    values = np.arange(10)
    index.append_features({"x": values, "y": np.array(["a"] * 10, object)})
    pieces = [*pieces_of(index, "x"), *pieces_of(index, "y")]
    for _ in range(1000):
        other = ObservedFeatureIndex()
        other.append_features({"x": values, "y": np.array(["a"] * 10, object)})
        index.concat(other)
    assert pieces_of(index, "x")[0] is pieces[0]
    assert pieces_of(index, "y")[0] is pieces[1]
    assert pieces_of(index, "x")[-1].values is values
    assert index._feature_arr[0]["x"].tolist() == list(range(10)) * 1001
    assert index.lookup(10_009) == ([9, "a"], None)


def test_ever_wider_texts_are_widened_once():
    index = ObservedFeatureIndex()
    for number in range(1, 40):
        index.append_features({"x": np.array(["x" * number])})
    assert max(len(casts["x"]) for casts in index._blocks[0]._casts if casts) == 1
    assert index._feature_arr[0]["x"].dtype == "<U39"
    assert index.take([0, 38], ["x"])["x"].tolist() == ["x", "x" * 39]


def test_what_is_appended_to_one_index_is_not_appended_to_another():
    one, other = ObservedFeatureIndex(), ObservedFeatureIndex()
    one.append_features({"x": np.arange(3)}, "one")
    other.concat(one)
    other.append_features({"x": np.array([0.5])})
    assert one.number_of_rows() == 3
    assert one._feature_arr[0]["x"].dtype == np.int64
    assert other._feature_arr[0]["x"].tolist() == [0, 1, 2, 0.5]
    var, more = VariableFeatureIndex(), VariableFeatureIndex()
    var.append_features(3, {"x": np.arange(3)})
    more.concat(var)
    more.append_features(3, {"x": np.arange(3)})
    assert (var.number_of_rows(), more.number_of_rows()) == (3, 6)


def test_what_cannot_be_appended_changes_nothing():
    index = ObservedFeatureIndex()
    index.append_features({"x": np.arange(3), "y": np.array(["2020-01-01"] * 3, "M8[ns]")}, "one")
    with pytest.raises(TypeError, match="promoted"):
        index.append_features({"x": np.array([0.5]), "y": np.arange(1)})
    assert index.number_of_rows() == 3
    assert index._feature_arr[0]["x"].dtype == np.int64
    with pytest.raises(ConfigError, match="-1 rows cannot be appended"):
        VariableFeatureIndex().append_features(-1, {"x": np.arange(3)})


def test_what_it_is_given_must_be_a_dict_of_equal_lengths():
    for index, more in ((ObservedFeatureIndex(), ()), (VariableFeatureIndex(), (3,))):
        name = type(index).__name__
        with pytest.raises(TypeError, match=f"^{name}.append_features expects a dict of arrays$"):
            index.append_features(*more, pd.DataFrame({"x": [1]}))
        with pytest.raises(ValueError, match=r"^All feature arrays must have the same length$"):
            index.append_features(*more, {"x": np.arange(2), "y": np.arange(3)})
        other = VariableFeatureIndex() if name.startswith("Obs") else ObservedFeatureIndex()
        with pytest.raises(TypeError, match=f"^Error: trying to concatenate something that's not a {name}.$"):
            index.concat(other)
        index.append_features(*more, {"x": [1, 2, 3]})
        assert len(index) == 1
    for wrong in ("x", 1.0, np.int64(0), None):
        with pytest.raises(TypeError, match=r"^Index must be int or slice$"):
            ObservedFeatureIndex()[wrong]


def test_the_same_genes_again_are_not_looked_at_one_by_one(monkeypatch):
    names = [f"g{number}" for number in range(40)]
    index = VariableFeatureIndex()
    index.append_table(3, table(name=names, length=range(40)), "one")
    monkeypatch.setattr("ingest.load.memmap.features.from_arrow", lambda _: pytest.fail("looked at"))
    index.append_table(2, table(name=names, length=range(40)), "two")
    with pytest.raises(ConfigError, match="-1 rows cannot be appended"):
        index.append_table(-1, table(name=names, length=range(40)))
    assert (len(index), index.number_of_rows(), index.lookup(4)[1]) == (1, 5, "one")
    sent = pickle.loads(pickle.dumps(index))  # noqa: S301 # made here
    assert (len(sent), sent.number_of_rows()) == (1, 5)


@pytest.mark.parametrize(
    "column",
    [[1.0, np.nan], pa.array([1.5, None]), pa.array([1, None]), pa.array(["a", None]), [0.0, 1.0]],
    ids=["NaN", "null float", "null int", "null text", "float"],
)
def test_genes_again_are_the_block_that_their_arrays_are(column):
    mine, peer = VariableFeatureIndex(), theirs.VariableFeatureIndex()
    for values in (column, column, pa.array(column).slice(0, 1), column):
        told = table(x=values)
        mine.append_table(2, told, "a")
        peer.append_features(2, {"x": np.array(told.column("x"))}, "a")
    assert (mine.column_dims(), mine._cumulative_sum_index.tolist()) == (
        peer.column_dims(),
        peer._cumulative_sum_index.tolist(),
    )


def test_equal_arrays():
    one = {"x": np.arange(3), "y": np.array(["a", None, "b"], object)}
    assert are_dicts_equal(one, {"y": one["y"].copy(), "x": one["x"].copy()})
    assert not are_dicts_equal(one, {"x": one["x"]})
    assert not are_dicts_equal(one, {**one, "x": np.arange(4)[1:]})
    assert not are_dicts_equal({"x": np.array([np.nan])}, {"x": np.array([np.nan])})
    assert not are_dicts_equal({"x": np.array([pd.NA], object)}, {"x": np.array([1], object)})


@pytest.fixture(scope="module")
def index():
    found = ObservedFeatureIndex()
    found.append_features(
        {"type": np.array(TYPES, object), "n": np.arange(6, dtype=np.int8), "only": np.ones(6)}, "one"
    )
    found.append_features({"type": np.array(["NK", "T"]), "n": np.array([0.5, 2])}, "two")
    found.append_features({"type": np.array(["A", np.nan], object), "n": np.array([7, 8])}, "two")
    return found


@given(rows=st.lists(st.integers(0, 9)))
def test_take_is_lookup_of_each(index, rows):
    found = index.take(rows, ["n", "type"])
    assert list(found) == ["n", "type"]
    wanted = [index.lookup(row, ["n", "type"])[0] for row in rows]
    assert found["n"].tolist() == [n for n, _ in wanted]
    assert [type(text) for text in found["type"]] == [
        str if isinstance(text, str) else type(text) for _, text in wanted
    ]
    assert [str(text) for text in found["type"]] == [str(text) for _, text in wanted]


def test_take_of_many_segments_and_rows_in_any_order():
    index, wanted = ObservedFeatureIndex(), []
    for number in range(40):
        values = np.arange(number * 100, number * 100 + number % 5 + 1)
        index.append_features({"x": values, "y": np.array([f"t{number % 3}"] * len(values), object)})
        wanted += values.tolist()
    rows = np.random.default_rng(0).integers(0, len(wanted), 1000)
    assert index.take(rows, ["x"])["x"].tolist() == np.array(wanted)[rows].tolist()
    assert index.take(rows, ["x"])["x"].dtype == np.int64
    assert index.take(rows, []) == {}


def test_take_of_none_and_of_what_is_not_there(index):
    assert index.take([], ["n"])["n"].dtype == np.int8
    assert index.take([0, 1], ["only"])["only"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"^Provided feature column only in select_features not present in dataset.$"):
        index.take([0, 7], ["only"])
    with pytest.raises(IndexError, match=r"^Row index -2 is not valid. It must be non-negative.$"):
        index.take([3, -2], ["n"])
    with pytest.raises(IndexError, match=r"^Row index 10 is larger than number of rows in FeatureIndex \(10\).$"):
        index.take([3, 10], ["n"])
    with pytest.raises(IndexError, match=r"^There are no features to lookup.$"):
        ObservedFeatureIndex().take([0], ["n"])
    assert len(ObservedFeatureIndex().take([], ["n"])["n"]) == 0


def test_codes(index):
    categories, codes = index.codes("type")
    assert categories == ("A", "B", "NK", "T")
    assert codes.dtype == np.int8
    assert codes.tolist() == [1, 3, -1, 1, 2, 3, 2, 3, 0, -1]
    categories, codes = index.codes("n")
    assert categories == (0, 0.5, 1, 2, 3, 4, 5, 7, 8)
    assert np.array(categories)[codes].tolist() == [0, 1, 2, 3, 4, 5, 0.5, 2, 7, 8]
    with pytest.raises(ValueError, match=r"^Provided feature column only in select_features not present in dataset.$"):
        index.codes("only")
    assert ObservedFeatureIndex().codes("x")[0] == ()


def test_codes_are_of_values_that_rows_have():
    index = ObservedFeatureIndex()
    index.append_table(table(x=CHUNKED["unused"]))
    assert index.codes("x")[0] == ("x", "z")
    index.append_table(table(x=CHUNKED["twice"]))
    assert index.codes("x")[0] == ("x", "y", "z")
    assert index.codes("x")[1].tolist() == [2, 0, 2, 2, 0, 1, 0, 0]
    index.append_features({"x": np.array([2.5, np.nan])})
    assert index.codes("x")[0] == (2.5, "x", "y", "z")
    assert index.codes("x")[1].tolist()[-2:] == [0, -1]


@pytest.mark.parametrize("n", [1, 127, 128, 129, 40_000, 70_000])
def test_codes_of_any_number_of_values(n):
    index = ObservedFeatureIndex()
    wanted = [f"{number:06d}" for number in range(n)]
    for part in (wanted[n // 2 :], wanted[: n // 2], wanted[::-1]):
        if part:
            index.append_features({"x": np.array(part, object)})
    categories, codes = index.codes("x")
    assert list(categories) == wanted
    assert codes.tolist() == [*range(n // 2, n), *range(n // 2), *range(n - 1, -1, -1)]
    assert codes.dtype == (np.int8 if n <= 128 else np.int16 if n <= 1 << 15 else np.int32)


def test_codes_of_dates_and_truth():
    index = ObservedFeatureIndex()
    index.append_features(
        {"day": np.array(["2021", "NaT", "2020"], "M8[D]"), "ok": np.array([True, None, False], object)}
    )
    assert index.codes("day")[0] == (np.datetime64("2020-01-01"), np.datetime64("2021-01-01"))
    assert index.codes("day")[1].tolist() == [1, -1, 0]
    assert index.codes("ok")[0] == (False, True)
    assert index.codes("ok")[1].tolist() == [1, -1, 0]


def test_an_index_is_pickled_with_what_it_holds(index):
    again = pickle.loads(pickle.dumps(index))  # noqa: S301 # made here
    assert isinstance(again._blocks[0], ObservedBlock)
    assert [str(again.lookup(row)) for row in range(10)] == [str(index.lookup(row)) for row in range(10)]
