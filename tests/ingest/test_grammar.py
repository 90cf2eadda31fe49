"""The filter grammar: what parses, what is refused, and that Arrow here and SOMA there keep the same rows."""

from __future__ import annotations

import math
import pickle

import pyarrow as pa
import pytest
import tiledbsoma
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.grammar import Filter, close_matches, parse_filter
from ingest.grammar.tree import AllOf, AnyOf, Comparison, Membership
from ingest.testing.examples import examples

ROWS = 8
CATEGORIES = ["blood", "lung", "small intestine"]


def _table() -> pa.Table:
    lazy = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2, 0, 1, 1, 0], pa.int32()), pa.array(CATEGORIES, pa.large_string())
    )
    floats = [1.0, 2.5, None, math.nan, -1.0, 0.1, 0.0, 3.0]
    return pa.table(
        {
            "soma_joinid": pa.array(range(ROWS), pa.int64()),
            "tissue": lazy,
            "text": pa.array(["x", "y", None, "Z", "", "é", "10x 3' v2", "x"], pa.large_string()),
            "f64": pa.array(floats, pa.float64()),
            "f32": pa.array(floats, pa.float32()),
            "i64": pa.array([1, 2, None, 4, -5, 2**53 + 1, 0, 1], pa.int64()),
            "i16": pa.array([1, 2, None, 4, -5, 32767, 0, 1], pa.int16()),
            "u8": pa.array([0, 1, None, 3, 255, 4, 7, 1], pa.uint8()),
            "flag": pa.array([True, False, None, True, False, True, False, False]),
            "with space": pa.array([1, 2, None, 4, 5, 6, 7, 8], pa.int64()),
        }
    )


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return _table()


@pytest.fixture(scope="module")
def frame(tmp_path_factory, table):
    uri = (tmp_path_factory.mktemp("soma") / "obs").as_posix()
    nullable = pa.schema([field.with_nullable(field.name != "soma_joinid") for field in table.schema])
    tiledbsoma.DataFrame.create(uri, schema=nullable, domain=[(0, ROWS - 1)]).close()
    with tiledbsoma.open(uri, "w") as writer:
        writer.write(table.cast(nullable))
    with tiledbsoma.open(uri) as reader:
        yield reader


def _here(table: pa.Table, kept: Filter) -> list[int]:
    return table.filter(kept.mask(table))["soma_joinid"].to_pylist()


def _there(frame, kept: Filter) -> list[int]:
    bound = kept.bind(frame.schema, categories={"tissue": CATEGORIES})
    return sorted(
        frame.read(value_filter=bound.to_soma(), column_names=["soma_joinid"]).concat()["soma_joinid"].to_pylist()
    )


# Expected rows are written down by hand: neither engine is trusted to check the other.
CASES = {
    "tissue == 'lung'": [1, 5, 6],
    "tissue != 'lung'": [0, 3, 4, 7],
    "not tissue == 'lung'": [0, 3, 4, 7],
    "tissue == 'moon'": [],
    "tissue != 'moon'": [0, 1, 3, 4, 5, 6, 7],
    "tissue in ['lung', 'moon']": [1, 5, 6],
    "tissue not in ['lung', 'moon']": [0, 3, 4, 7],
    "not tissue in ['lung']": [0, 3, 4, 7],
    "tissue < 'lung'": [0, 4, 7],
    "tissue >= 'lung'": [1, 3, 5, 6],
    "tissue < 'a'": [],
    "text == ''": [4],
    'text == "10x 3\' v2"': [6],
    r"text == '10x 3\' v2'": [6],
    "text == 'é'": [5],
    "text < 'x'": [3, 4, 6],
    "text != 'x' and soma_joinid <= 3": [1, 3],
    "f64 > 0": [0, 1, 5, 7],
    "not f64 > 0": [4, 6],
    "f64 != 1": [1, 3, 4, 5, 6, 7],
    "f64 not in [1, 2.5]": [3, 4, 5, 6, 7],
    "f64<-.5": [4],
    "f64 == 0": [6],
    "f32 == 0.1": [5],
    "f32 in [0.1, 3]": [5, 7],
    "f32 > 0.1": [0, 1, 7],
    "f32 < 1e300": [0, 1, 4, 5, 6, 7],
    "i64 == 1.5": [],
    "i64 != 1.5": [0, 1, 3, 4, 5, 6, 7],
    "i64 >= 1.5": [1, 3, 5],
    "i64 < 1.5": [0, 4, 6, 7],
    "i64 > -4.5": [0, 1, 3, 5, 6, 7],
    "i64 == 2.0": [1],
    "i64 in [1.5, 2]": [1],
    "i64 in [1.5]": [],
    "i64 not in [1.5]": [0, 1, 3, 4, 5, 6, 7],
    "i64 == 9007199254740993": [5],
    "i64 < 18446744073709551615": [0, 1, 3, 4, 5, 6, 7],
    "i16 in [1, 32767]": [0, 5, 7],
    "i16 > 32767": [],
    "i16 >= -40000": [0, 1, 3, 4, 5, 6, 7],
    "u8 == 256": [],
    "u8 != 256": [0, 1, 3, 4, 5, 6, 7],
    "u8 < 300": [0, 1, 3, 4, 5, 6, 7],
    "u8 > -1": [0, 1, 3, 4, 5, 6, 7],
    "u8 < -1": [],
    "u8 in [3, 255, 256]": [3, 4],
    "u8 not in [3, 255]": [0, 1, 5, 6, 7],
    "flag == True": [0, 3, 5],
    "flag != True": [1, 4, 6, 7],
    "flag in [True]": [0, 3, 5],
    "flag in [True, False]": [0, 1, 3, 4, 5, 6, 7],
    "flag not in [True, False]": [],
    "flag == 1": [0, 3, 5],
    "1 < i64 < 5": [1, 3],
    "1 < i64": [1, 3, 5],
    "True == flag": [0, 3, 5],
    "`with space` >= 7": [6, 7],
    "not (tissue == 'lung' or flag == True)": [4, 7],
    "not not tissue == 'lung'": [1, 5, 6],
    "tissue == 'lung' or tissue == 'blood' and flag == True": [0, 1, 5, 6],
    "(tissue == 'lung' or tissue == 'blood') and flag == True": [0, 5],
    "soma_joinid in [1, 2,]": [1, 2],
}


@pytest.mark.parametrize("text", CASES)
def test_arrow_and_soma_keep_the_rows_written_down(table, frame, text):
    kept = parse_filter(text)
    assert _here(table, kept) == CASES[text]
    assert _there(frame, kept) == CASES[text]


_LITERALS = {
    "tissue": st.sampled_from([*CATEGORIES, "moon", "", 'it\'s "odd"\\\n']),
    "text": st.sampled_from(["x", "é", "", "Z", "10x 3' v2"]),
    "f64": st.sampled_from([0, 1, 0.1, -1.5, 10**18, -1e-300]),
    "f32": st.sampled_from([0, 1, 0.1, 1e300, -1.5]),
    "i64": st.sampled_from([0, 1, 1.5, -4.5, 2**53 + 1, 2**63, -(2**63)]),
    "u8": st.sampled_from([0, 1, 255, 256, -1, 2.5]),
}


@st.composite
def _leaf(draw):
    column = draw(st.sampled_from(sorted(_LITERALS)))
    if draw(st.booleans()):
        values = tuple(draw(st.lists(_LITERALS[column], min_size=1, max_size=3, unique=True)))
        return Membership(column, values, draw(st.booleans()))
    return Comparison(column, draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="])), draw(_LITERALS[column]))


_TREES = st.recursive(
    _leaf(),
    lambda terms: st.lists(terms, min_size=2, max_size=3).flatmap(
        lambda several: st.sampled_from([AllOf(tuple(several)), AnyOf(tuple(several))])
    ),
    max_leaves=6,
)


@settings(max_examples=examples(60), deadline=None)
@given(_TREES)
def test_any_filter_means_the_same_here_and_in_soma(table, frame, node):
    assert _here(table, Filter(node)) == _there(frame, Filter(node))


@settings(max_examples=examples(40), deadline=None)
@given(_TREES)
def test_what_is_spelled_parses_to_a_filter_that_keeps_the_same_rows(table, node):
    spelled = str(Filter(node))
    again = parse_filter(spelled)
    assert str(again) == spelled
    assert _here(table, again) == _here(table, Filter(node))


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused_in_one_line(text):
    try:
        parse_filter(text)
    except ConfigError as error:
        refusal = error
    else:
        return
    assert refusal.kind == "filter-syntax"
    assert "\n" not in str(refusal)


@given(st.text(max_size=20))
def test_any_text_survives_as_a_literal(value):
    kept = Filter(Comparison("a", "==", value))
    assert parse_filter(str(kept)) == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tissue = 'lung'", "filter: unexpected '=' at the ^ in: tissue ^= 'lung'"),
        ("a == b", "filter: expected a value ('text', a number, True or False), not 'b', at the ^ in: a == ^b"),
        ("tissue ==", "filter: expected a value ('text', a number, True or False) at the ^ in: tissue ==^"),
        ("", "filter: expected a value ('text', a number, True or False) at the ^ in: ^"),
        ("tissue in 'lung'", "filter: expected '[', not \"'lung'\", at the ^ in: tissue in ^'lung'"),
        ("a in []", "filter: expected a value ('text', a number, True or False), not ']', at the ^ in: a in [^]"),
        ("(a == 1", "filter: expected ')' at the ^ in: (a == 1^"),
        ("a == 1 b == 2", "filter: expected 'and', 'or' or the end, not 'b', at the ^ in: a == 1 ^b == 2"),
        ("a == 'x", "filter: unexpected \"'\" at the ^ in: a == ^'x"),
        ("a not == 1", "filter: expected 'in', not '==', at the ^ in: a not ^== 1"),
        ("a == b'x'", "filter: expected a value ('text', a number, True or False), not 'b', at the ^ in: a == ^b'x'"),
        ("a == 1e999", "filter: a number beyond 64 bits at the ^ in: a == ^1e999"),
        ("a == 99999999999999999999", "filter: a number beyond 64 bits at the ^ in: a == ^99999999999999999999"),
        (r"a == 'x\d'", r"filter: unknown escape \d at the ^ in: a == 'x^\d'"),
        ("__import__('os').system('x')", "filter: unexpected '.' at the ^ in: __import__('os')^.system('x')"),
        ("exec(1)", "filter: expected a comparison (==, !=, <, <=, >, >=, in, not in), not '(', at the ^ in: exec^(1)"),
        ("a.b == 1", "filter: unexpected '.' at the ^ in: a^.b == 1"),
        ("and == 1", "filter: expected a column, not 'and', at the ^ in: ^and == 1"),
    ],
)  # fmt: skip
def test_bad_syntax_is_one_line_with_the_place(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_filter(text)
    assert str(caught.value) == message
    assert caught.value.kind == "filter-syntax"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000 + "a == 1",
        "not " * 200_000 + "a",
        " or ".join(["a == 1"] * 300),
        "a == " + "9" * 900_000,
        "a in [" + "1," * 600_000 + "1]",
    ],
)
def test_hostile_sizes_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_filter(text)
    assert caught.value.kind == "filter-syntax"
    assert len(str(caught.value)) < 300


def test_long_nots_and_the_most_comparisons_reach_soma_alive(frame):
    # tiledbsoma itself dies of a segmentation fault on 50 times `not`.
    assert _there(frame, parse_filter("not " * 5001 + "i64 == 1")) == [1, 3, 4, 5, 6]
    assert _there(frame, parse_filter(" or ".join(f"i64 == {k}" for k in range(256)))) == [0, 1, 3, 6, 7]
    nested = "(" * 40 + "i64 == 1" + " or i64 == 2)" * 40
    assert _there(frame, parse_filter(nested)) == [0, 1, 7]


def test_an_unknown_column_says_what_was_meant():
    census = pa.schema(
        [(name, pa.string()) for name in ("assay", "tissue", "tissue_general", "tissue_type", "disease")]
    )
    with pytest.raises(ConfigError) as caught:
        parse_filter("tisue == 'lung'").bind(census, "the Census obs")
    assert str(caught.value) == (
        "no column 'tisue' in the Census obs; did you mean 'tissue', 'tissue_type', 'tissue_general'?"
    )
    assert caught.value.kind == "unknown-column"
    with pytest.raises(ConfigError) as caught:
        parse_filter("qqq == 'lung'").bind(census)
    assert caught.value.hint == "it has assay, tissue, tissue_general, tissue_type, disease"


@pytest.mark.parametrize("text", ["tissue == 1", "f64 == 'a'", "i64 == True", "flag == 2", "flag < True", "tissue < 3"])
def test_a_literal_of_the_wrong_type_is_refused(table, text):
    with pytest.raises(ConfigError) as caught:
        parse_filter(text).mask(table)
    assert caught.value.kind == "filter-type"


def test_categories_with_an_order_of_their_own_are_not_compared_as_text():
    stages = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["young", "old"]), ordered=True)
    with pytest.raises(ConfigError, match="order of its own"):
        parse_filter("stage < 'z'").mask(pa.table({"stage": stages}))


def test_masks_of_chunked_empty_and_typeless_columns():
    table = pa.concat_tables([_table().slice(0, 3), _table().slice(3)])
    assert _here(table, parse_filter("tissue == 'lung'")) == [1, 5, 6]
    assert len(parse_filter("tissue == 'lung'").mask(table.slice(0, 0))) == 0
    nothing = pa.table({"a": pa.nulls(3)})
    assert parse_filter("a != 'x'").mask(nothing).to_pylist() == [False] * 3


def test_columns_and_absent_values():
    kept = parse_filter("tissue in ['lung', 'lungs'] and not assay == 'odd' or disease == 'x' and tissue == 'lungs'")
    assert kept.columns == ("tissue", "assay", "disease")
    assert kept.absent_values({"tissue": {"lung"}, "assay": {"10x"}}) == [("tissue", "lungs")]
    assert pickle.loads(pickle.dumps(kept)) == kept  # noqa: S301  # our own bytes


def test_close_matches_prefer_the_nearest():
    assert close_matches("lungs", ["lung", "blood", "lung parenchyma"]) == ["lung"]
    assert close_matches("normall", ["normal", "COVID-19"]) == ["normal"]
    assert close_matches("zzz", ["lung"]) == []


_trees = st.recursive(
    st.builds(Comparison, st.sampled_from("abcd"), st.sampled_from(["==", "!=", "<", ">="]), st.integers(0, 3)),
    lambda terms: st.builds(
        lambda kind, found: kind(tuple(found)), st.sampled_from([AllOf, AnyOf]), st.lists(terms, min_size=2, max_size=3)
    ),
    max_leaves=8,
)


@given(_trees, st.sets(st.sampled_from("abcd")), st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=20))
def test_what_a_filter_demands_of_some_columns_loses_no_row(tree, columns, rows):
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate("abcd")})
    whole = Filter(tree)
    part = whole.implied(columns)
    if part is None:
        return
    assert set(part.columns) <= columns
    wanted, demanded = whole.mask(table).to_numpy(False), part.mask(table).to_numpy(False)
    assert not (wanted & ~demanded).any()
    if set(whole.columns) <= columns:
        assert (wanted == demanded).all()


def test_a_filter_over_other_names():
    renamed = parse_filter("srx_accession in ['A'] and x > 1").renamed({"srx_accession": "SRX_accession"})
    assert str(renamed) == "SRX_accession in ['A'] and x > 1"
