"""What is planned: every row once, at its place, whatever the sources."""

from __future__ import annotations

import numpy as np
import pytest
from bionemo.scdl.util.memmap_utils import determine_dtype, smallest_uint_dtype
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, CorruptError
from ingest.load.memmap.convert.plan import (
    ConversionPlan,
    CutSource,
    SourceFacts,
    even_rows,
    join_cuts,
    make_plan,
)


def source(lengths, pieces=None, *, name="a", n_columns=100, version="1"):
    """A source whose rows have these lengths, cut before the rows named."""
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    rows = np.array(sorted({0, len(lengths), *(pieces or ())}), np.int64)
    facts = SourceFacts("h5ad", f"file:///{name}.h5ad", version, name, len(lengths), n_columns, int(ends[-1]))
    return CutSource(facts, rows, ends[rows])


@st.composite
def sources(draw, least=1):
    found = []
    for number in range(draw(st.integers(least, 4))):
        lengths = draw(st.lists(st.integers(0, 300), max_size=12))
        pieces = draw(st.sets(st.integers(0, len(lengths)))) if lengths else ()
        found.append(source(lengths, pieces, name=f"s{number}", n_columns=draw(st.integers(1, 70_000))))
    return found


def has_entries(found):
    return sum(one.facts.n_entries for one in found) > 0


@given(sources().filter(has_entries))
def test_every_row_and_entry_once_in_order(found):
    plan = make_plan(found)
    row = entry = 0
    for number, part in enumerate(plan.parts):
        assert part.number == number
        assert (part.place.row_at, part.place.entry_at) == (row, entry)
        assert part.place.n_rows > 0
        row, entry = row + part.place.n_rows, entry + part.n_entries
    assert (row, entry) == (plan.spec.n_rows, plan.spec.n_entries)
    assert all(one.facts.n_rows for one in plan.sources)
    assert sum(map(plan.bytes_of, plan.parts)) == plan.spec.n_bytes - np.dtype(plan.spec.rows).itemsize


@given(sources().filter(has_entries), st.sampled_from([None, "uint8", "float16", "uint64"]))
def test_types_are_those_of_bionemo_scdls_concatenation(found, data_dtype):
    plan = make_plan(found, data_dtype=data_dtype)
    kept = [one.facts for one in found if one.facts.n_rows]
    assert plan.spec.columns == determine_dtype([smallest_uint_dtype(one.n_columns - 1) for one in kept])
    assert plan.spec.rows == smallest_uint_dtype(sum(one.n_entries for one in kept))
    assert plan.spec.data == (data_dtype or "float32")


@given(sources().filter(has_entries), st.none() | st.text(max_size=9))
def test_written_down_and_read_back(found, key):
    plan = make_plan(found, data_dtype="uint16", use_x=True, neighbor_key=key, tolerance=0.25)
    again = ConversionPlan.unseal(plan.sealed(), where="plan.json")
    assert (again.parts, again.spec, again.digest) == (plan.parts, plan.spec, plan.digest)
    assert (again.use_x, again.neighbor_key, again.tolerance) == (True, key, 0.25)
    assert again.sealed() == plan.sealed()
    assert again.differences(plan) == ""


def test_cuts_are_no_part_of_the_identity():
    """Whoever goes on with another number of workers goes on with the cuts that are there."""
    one, other = (make_plan([source([5] * 10, pieces)]) for pieces in ((), (3, 6)))
    assert one.digest == other.digest
    assert len(one.parts) != len(other.parts)


@pytest.mark.parametrize("at", [5, 40, -30])
def test_a_damaged_plan_is_refused(at):
    data = bytearray(make_plan([source([5] * 10, (3,))]).sealed())
    data[at] ^= 1
    with pytest.raises(CorruptError) as caught:
        ConversionPlan.unseal(bytes(data), where="x/plan.json")
    assert caught.value.kind == "plan-damaged"
    assert "x/plan.json" in str(caught.value)


def test_what_differs_is_said():
    here = make_plan([source([5, 5], name="a"), source([1], name="b")], neighbor_key="knn")
    there = make_plan([source([5, 5], name="a", version="2")], data_dtype="uint8", use_x=True, tolerance=1)
    said = here.differences(there)
    for text in (
        "data type uint8 there, float32 here",
        "sources 1 there, 2 here",
        "matrix X there, raw.X here",
        "tolerance 1 there, 1e-08 here",
        "neighbors none there, knn here",
        "cells 2 there, 3 here",
        "file:///a.h5ad has changed since",
    ):
        assert text in said
    other = make_plan([source([5, 5], name="c")])
    assert "file:///a.h5ad there, file:///c.h5ad here" in other.differences(make_plan([source([5, 5], name="a")]))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "there are no cells"),
        ([source([])], "there are no cells"),
        ([source([0, 0])], "n_elements is set to 0. It must be positive to create CSR matrices."),
    ],
)
def test_nothing_to_store_is_refused(found, said):
    with pytest.raises(ConfigError) as caught:
        make_plan(found)
    assert (caught.value.kind, str(caught.value)) == ("nothing-stored", said)


def test_a_type_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"Invalid data_dtype 'int8'. Must be one of: uint8, uint16") as caught:
        make_plan([source([1])], data_dtype="int8")
    assert caught.value.kind == "bad-dtype"


@pytest.mark.parametrize(
    ("rows", "entries"),
    [([0, 2], [0, 2]), ([0, 1, 1, 3], [0, 0, 0, 6]), ([1, 3], [0, 6]), ([0, 3], [0, 5]), ([0, 3], [0])],
)
def test_cuts_that_leave_rows_out_are_refused(rows, entries):
    facts = source([2, 2, 2]).facts
    with pytest.raises(ValueError, match="follow each other"):
        CutSource(facts, np.array(rows), np.array(entries))


@given(st.integers(0, 10_000), st.integers(0, 10**9), st.integers(1, 10**7))
def test_even_rows_reach_from_first_to_last(n_rows, n_entries, part_entries):
    cuts = even_rows(n_rows, n_entries, part_entries)
    assert (cuts[0], cuts[-1]) == (0, n_rows)
    assert (np.diff(cuts) > 0).all()
    assert np.ptp(np.diff(cuts)) <= 1 if len(cuts) > 1 else True


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=30), st.integers(1, 200))
def test_joined_pieces_are_cut_where_pieces_begin(pieces, part_entries):
    """Chunks are read whole: a part never begins inside of one; pieces without rows vanish."""
    pieces = [(n_rows, n_entries if n_rows else 0) for n_rows, n_entries in pieces]
    rows = np.concatenate([[0], np.cumsum([n for n, _ in pieces], dtype=np.int64)])
    entries = np.concatenate([[0], np.cumsum([n for _, n in pieces], dtype=np.int64)])
    joined_rows, joined_entries = join_cuts(rows, entries, part_entries)
    assert set(zip(joined_rows.tolist(), joined_entries.tolist(), strict=True)) <= set(
        zip(rows.tolist(), entries.tolist(), strict=True)
    )
    assert (np.diff(joined_rows) > 0).all()
    assert (joined_rows[0], joined_rows[-1]) == (0, rows[-1])
    if rows[-1]:
        assert (np.diff(joined_entries)[:-1] >= part_entries).all()
