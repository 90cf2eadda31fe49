"""What a dataset leaves out stands beside its plan: create-only, sealed, and permission rather than order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.amendments import Amendment, Amendments, LeftOut, parse_amendment
from ingest.chunk_rows import committed_rows, rows_to_make
from ingest.documents import seal
from ingest.errors import CorruptError
from ingest.layout import AMENDMENTS
from ingest.ledger.ledger import Ledger
from ingest.store.local import LocalStore

PLAN = "0" * 32


def amendment(source=0, chunk=3, cells=5, run="r1", plan=PLAN):
    return Amendment(plan, run, (LeftOut(source, "truncated", "cut short", ((chunk, cells),)),))


def plan(digest=PLAN):
    return SimpleNamespace(identity=SimpleNamespace(digest=digest))


def test_an_amendment_survives_and_notices_damage():
    data = amendment().seal()
    assert parse_amendment(data, key="k") == amendment()
    with pytest.raises(CorruptError):
        parse_amendment(data.replace(b"truncated", b"truncateD"), key="k")


@pytest.mark.parametrize(
    "document",
    [
        {"run": "r", "left_out": []},
        {"plan": PLAN, "run": 1, "left_out": []},
        {"plan": PLAN, "run": "r", "left_out": [{"source": -1}]},
        {"plan": PLAN, "run": "r", "left_out": [3]},
    ],
)
def test_a_sealed_document_of_another_kind_is_no_amendment(document):
    with pytest.raises(CorruptError, match="k is no amendment"):
        parse_amendment(seal(document), key="k")


def test_amendments_are_numbered_and_never_replaced(tmp_path):
    ledger = Ledger(LocalStore(tmp_path / "dest"))
    first = ledger.amend(amendment(0))
    second = ledger.amend(amendment(1))
    assert (first, second) == (f"{AMENDMENTS}000000.json", f"{AMENDMENTS}000001.json")
    assert ledger.amend(amendment(1)) == f"{AMENDMENTS}000002.json"
    assert [found.left_out[0].source for found in ledger.amendments(plan())] == [0, 1, 1]


@pytest.mark.parametrize("name", [".DS_Store", "000000.json~", "000000 (1).json", "notes/000000.json", "0.json"])
def test_a_file_of_another_name_is_no_amendment(tmp_path, name):
    ledger = Ledger(LocalStore(tmp_path / "dest"))
    ledger.store.put_new(f"{AMENDMENTS}{name}", b"\x00\x01Bud1")
    assert ledger.amendments(plan()) == []
    assert ledger.amend(amendment()) == f"{AMENDMENTS}000000.json"
    assert len(ledger.amendments(plan())) == 1


def test_a_damaged_amendment_is_damage(tmp_path):
    ledger = Ledger(LocalStore(tmp_path / "dest"))
    ledger.store.put_new(f"{AMENDMENTS}000000.json", b"\x00\x01Bud1")
    with pytest.raises(CorruptError):
        ledger.amendments(plan())


def test_a_reply_that_was_lost_makes_no_second_amendment(tmp_path):
    class LosesReplies(LocalStore):
        def put_new(self, key, data):
            if not any(True for _ in self.list(key)):
                super().put_new(key, data)
            return super().put_new(key, data)

    ledger = Ledger(LosesReplies(tmp_path / "dest"))
    assert ledger.amend(amendment()) == f"{AMENDMENTS}000000.json"
    assert len(ledger.amendments(plan())) == 1


def test_two_drivers_amend_at_once(tmp_path):
    ledger = Ledger(LocalStore(tmp_path / "dest"))

    class Overtaken(LocalStore):
        def put_new(self, key, data):
            if key.endswith("000000.json"):
                ledger.amend(amendment(7))
            return super().put_new(key, data)

    assert Ledger(Overtaken(tmp_path / "dest")).amend(amendment(8)) == f"{AMENDMENTS}000001.json"
    assert [found.left_out[0].source for found in ledger.amendments(plan())] == [7, 8]


def test_an_amendment_of_another_plan_is_refused(tmp_path):
    ledger = Ledger(LocalStore(tmp_path / "dest"))
    ledger.amend(amendment())
    with pytest.raises(CorruptError, match="belongs to another plan"):
        ledger.amendments(plan("1" * 32))


# -- which rows a chunk holds ----------------------------------------------------------------------------------------

SIZE = 10


def world(codes, amendments):
    rows = SimpleNamespace(
        codes=lambda start, stop: np.array(codes, np.int32)[start:stop],
        coordinates=lambda start, stop: np.arange(100 + start, 100 + stop),
        obs=lambda start, stop: pa.table({"n": range(start, stop)}),
    )
    opened = SimpleNamespace(
        plan=SimpleNamespace(rows=lambda chunk: (chunk * SIZE, min((chunk + 1) * SIZE, len(codes)))),
        amendments=Amendments(amendments),
        store=SimpleNamespace(url="dest"),
    )
    return opened, rows


def entry(chunk, made, **changes):
    numbers, counts = np.unique(made.codes, return_counts=True)
    facts = {
        "chunk": chunk,
        "n_cells": len(made),
        "sources": tuple(zip(numbers.tolist(), counts.tolist(), strict=True)),
        "dropped": dict(made.dropped),
    }
    return SimpleNamespace(**(facts | changes))


codes_lists = st.lists(st.integers(0, 3), min_size=1, max_size=35).map(sorted)
permissions = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6)


@given(codes_lists, permissions)
def test_what_is_made_is_what_a_receipt_is_held_against(codes, permitted):
    opened, rows = world(codes, [amendment(source, chunk) for source, chunk in permitted])
    for chunk in range(-(-len(codes) // SIZE)):
        made = rows_to_make(opened, rows, chunk)
        allowed = {source for source, its in permitted if its == chunk}
        expected = [at for at in range(*opened.plan.rows(chunk)) if codes[at] not in allowed]
        assert made.places.tolist() == expected == made.obs["n"].to_pylist()
        assert made.codes.tolist() == [codes[at] for at in expected]
        assert made.coordinates.tolist() == [100 + at for at in expected]
        start, stop = opened.plan.rows(chunk)
        assert sum(made.dropped.values()) == stop - start - len(expected)
        again = committed_rows(opened, rows, entry(chunk, made))
        assert again.places.tolist() == expected


@given(codes_lists, permissions)
def test_a_chunk_that_was_made_whole_stays_right(codes, permitted):
    opened, rows = world(codes, [amendment(source, chunk) for source, chunk in permitted])
    whole = rows_to_make(*world(codes, []), 0)
    assert committed_rows(opened, rows, entry(0, whole)).places.tolist() == list(range(*opened.plan.rows(0)))


def test_rows_may_not_lack_without_an_amendment():
    codes = [0] * 4 + [1] * 6
    made = rows_to_make(*world(codes, [amendment(1, 0)]), 0)
    opened, rows = world(codes, [])
    for dropped in (dict(made.dropped), {"": 6}):
        with pytest.raises(CorruptError, match="nothing allows"):
            committed_rows(opened, rows, entry(0, made, dropped=dropped))


def test_a_receipt_does_not_lie_about_what_it_dropped():
    codes = [0] * 4 + [1] * 6
    opened, rows = world(codes, [amendment(1, 0)])
    made = rows_to_make(opened, rows, 0)
    with pytest.raises(CorruptError):
        committed_rows(opened, rows, entry(0, made, dropped={"truncated": 5}))


@given(codes_lists, permissions, st.sets(st.integers(0, 3)))
def test_what_is_used_is_what_chunks_lack_each_row_once(codes, permitted, made_whole):
    """However often it is permitted, and whatever else."""
    left = [
        amendment(source, chunk, codes[chunk * SIZE : (chunk + 1) * SIZE].count(source)) for source, chunk in permitted
    ]
    opened, rows = world(codes, left)
    whole, _ = world(codes, [])
    numbers = range(-(-len(codes) // SIZE))
    chunks = [
        entry(number, rows_to_make(whole if number in made_whole else opened, rows, number)) for number in numbers
    ]
    used = opened.amendments.used_by(chunks)
    assert sum(part.n_cells for part in used.left_out) == len(codes) - sum(chunk.n_cells for chunk in chunks)
    assert all(
        used.rules(chunk.chunk).keys() == set(codes[slice(*opened.plan.rows(chunk.chunk))]) - set(dict(chunk.sources))
        for chunk in chunks
    )
    assert used.used_by(chunks).left_out == used.left_out
