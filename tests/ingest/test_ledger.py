from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.documents import seal, unseal
from ingest.encode.base import Offsets
from ingest.errors import ConflictError, CorruptError, NotFoundError
from ingest.layout import RUNS, receipt_key
from ingest.ledger.ledger import Ledger, put_same, put_same_file
from ingest.ledger.receipts import ChunkReceipt, Receipt, parse_receipt
from ingest.pool import Failure
from ingest.store.local import LocalStore
from ingest.testing.examples import examples

DIGESTS = st.text("0123456789abcdef", min_size=4, max_size=4)


@st.composite
def receipts(draw):
    first = draw(st.integers(0, 999_999))
    chunks = tuple(draw(chunk_receipts(first + at)) for at in range(draw(st.integers(1, 3))))
    return Receipt(draw(DIGESTS), draw(st.text(max_size=8)), chunks)


@st.composite
def chunk_receipts(draw, number=3):
    offsets = draw(st.lists(st.integers(0, 2**40), max_size=3))
    return ChunkReceipt(
        chunk=number,
        key=f"chunks/chunk_{number:06d}.h5ad",
        size=draw(st.integers(0, 2**40)),
        sha256=draw(DIGESTS) * 16,
        rows=draw(DIGESTS),
        content=draw(DIGESTS),
        n_cells=draw(st.integers(1, 10**6)),
        nnz=draw(st.integers(0, 2**40)),
        sum=draw(st.integers(0, 2**53) | st.floats(0, 1e12)),
        maximum=draw(st.integers(0, 2**31) | st.floats(0, 1e9)),
        dtype="float32",
        sources=tuple(draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 99)), max_size=3))),
        cell_sums=draw(DIGESTS),
        dropped=draw(st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2)),
        notes=tuple(draw(st.lists(st.text(max_size=5), max_size=2))),
        offsets=(Offsets("X/data", (1024,), tuple(offsets), tuple(offsets)),),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"n_cells":2', '"n_cells":-2'),
        ('"n_cells":2', '"n_calls":2'),
        ('"maximum":5', '"maximum":"5"'),
        ('"sizes":[7]', '"sizes":[7,8]'),
        ('"chunk_shape":[9]', '"chunk_shape":[4611686018427387904,4]'),
        ('"chunk_shape":[9]', '"chunk_shape":[1' + 32 * ",1" + "]"),
        ('"dtype":"float32"', '"dtype":"nonsense"'),
        ('"dtype":"float32"', '"dtype":"O"'),
        ('"plan":"p"', '"plan":7'),
        (f'"sha256":"{"5" * 64}"', '"sha256":"5"'),
        (f'"sha256":"{"5" * 64}"', f'"sha256":"{"S" * 64}"'),
    ],
)
def test_a_sealed_document_of_another_kind_is_no_receipt(old, new):
    one = receipt(3)
    entry = replace(one.chunks[0], offsets=(Offsets("X/data", (9,), (5,), (7,)),))
    key = receipt_key(3, 3)
    document = unseal(replace(one, chunks=(entry,)).seal(), key=key)
    assert parse_receipt(seal(document), key=key).chunks == (entry,)
    text = json.dumps(document, separators=(",", ":"))
    assert old in text
    with pytest.raises(CorruptError, match="is no receipt"):
        parse_receipt(seal(json.loads(text.replace(old, new))), key=key)


def test_a_receipt_of_nothing_is_none():
    with pytest.raises(CorruptError, match=r"is no receipt .*chunks is \[\]"):
        parse_receipt(Receipt("p", "a", ()).seal(), key=receipt_key(3, 3))


def test_a_file_is_put_once_and_another_is_refused(tmp_path):
    store, one, other = LocalStore(tmp_path / "dest"), tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    assert put_same_file(store, "k", one) is True
    assert put_same_file(store, "k", one) is False
    with pytest.raises(ConflictError, match="exists with other content") as caught:
        put_same_file(store, "k", other)
    assert caught.value.kind == "other-content"
    assert store.get("k") == b"one"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(LocalStore(tmp_path / "dest"))


def receipt(*numbers, content="c", attempt="a", plan="p", rows="r"):
    def one(number):
        return ChunkReceipt(
            number, f"chunks/{number}", 1, "5" * 64, rows, f"{content}{number}", 2, 3, 4, 5, "float32", (), "x"
        )

    return Receipt(plan, attempt, tuple(one(number) for number in numbers))


@given(receipts())
def test_a_receipt_comes_back(made):
    assert parse_receipt(made.seal(), key=made.key) == made


@given(receipts(), st.data())
def test_any_changed_byte_is_found(made, data):
    sealed = made.seal()
    at = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != sealed[at]))
    with pytest.raises(CorruptError):
        parse_receipt(sealed[:at] + bytes([other]) + sealed[at + 1 :], key=made.key)


def test_a_receipt_under_another_key_is_damage():
    with pytest.raises(CorruptError, match="holds the receipt of"):
        parse_receipt(receipt(3).seal(), key=receipt_key(4, 4))


def test_what_exists_is_one_listing(ledger):
    assert ledger.done() == set()
    ledger.commit(receipt(0))
    ledger.commit(receipt(5, 6, 7))
    ledger.store.put_new("_ingest/receipts/notes.txt", b"")
    ledger.store.put_new("chunks/chunk_000009.h5ad", b"no receipt, no chunk")
    assert ledger.done() == {0, 5, 6, 7}
    assert [found.key for found in ledger.receipts()] == [receipt_key(0, 0), receipt_key(5, 7)]


@settings(max_examples=examples(16))
@given(st.data())
def test_a_neighbourhood_is_what_the_whole_listing_says_of_it(tmp_path_factory, data):
    ledger = Ledger(LocalStore(tmp_path_factory.mktemp("near") / "dest"))
    base = data.draw(st.sampled_from([0, 95, 990, 9_985, 123_456_780]))
    exist = data.draw(st.sets(st.integers(base, base + 30), max_size=12))
    for chunk in exist:
        ledger.store.put_new(receipt_key(chunk, chunk), b"")
    ledger.store.put_new(receipt_key(base + 40, base + 43), b"")
    wanted = sorted(data.draw(st.sets(st.integers(base, base + 45))))
    assert ledger.done_among(wanted) == ledger.done().intersection(wanted)


def test_a_neighbourhood_is_not_everything(ledger):
    asked = []
    ledger.store.list = lambda prefix: asked.append(prefix) or iter(())
    ledger.done_among(range(1230, 1250))
    ledger.done_among([5])
    ledger.done_among(range(95, 105))
    assert [prefix.removeprefix("_ingest/receipts/") for prefix in asked] == [
        "0000012",
        "00000000",
        "00000009",
        "00000010",
    ]


def test_the_first_receipt_stands_when_both_agree(ledger):
    first = ledger.commit(receipt(3, attempt="one"))
    second = ledger.commit(receipt(3, attempt="two"))
    assert first.attempt == second.attempt == "one"


@pytest.mark.parametrize("other", [{"content": "d"}, {"plan": "q"}, {"rows": "s"}])
def test_a_receipt_of_other_content_is_a_conflict(ledger, other):
    ledger.commit(receipt(3))
    before = ledger.store.get(receipt_key(3, 3))
    with pytest.raises(ConflictError) as caught:
        ledger.commit(receipt(3, **other))
    assert caught.value.kind == "other-content"
    assert ledger.store.get(receipt_key(3, 3)) == before


def test_agreement_is_about_content_not_bytes():
    one = receipt(3)
    other = replace(one, attempt="b", chunks=(replace(one.chunks[0], sha256="6" * 64, size=9, offsets=()),))
    assert one.agrees_with(other)


def test_a_damaged_receipt_is_found_by_readers_and_by_a_commit(ledger):
    ledger.store.put_new(receipt_key(3, 3), b"{}")
    with pytest.raises(CorruptError):
        list(ledger.receipts())
    with pytest.raises(CorruptError):
        ledger.commit(receipt(3))


def test_the_same_bytes_twice_are_once(ledger):
    assert put_same(ledger.store, "k", b"a") is True
    assert put_same(ledger.store, "k", b"a") is False
    with pytest.raises(ConflictError):
        put_same(ledger.store, "k", b"b")


def test_failures_and_runs_are_kept(ledger):
    ledger.start_run("r1", {"user": "me"})
    ledger.claim("r1", 4, (8, 9))
    ledger.claim("r1", 5, (10,))
    ledger.start_run("r2", {})
    ledger.end_run("r2", {"outcome": "ended"})
    first, second = ledger.runs()
    assert first["start"]["user"] == "me"
    assert first["end"] is None
    assert first["claimed"] == {8, 9, 10}
    assert second["end"]["outcome"] == "ended"
    failures = (Failure((1, 2), "source", "nan", "m"), Failure((3,), "transient", "slow", "m", retry_after_s=2.0))
    ledger.record_failures("r1-0000001", failures)
    ledger.record_failures("r1-0000001", failures)
    assert [(found["kind"], found["chunks"]) for found in ledger.failures()] == [("nan", [1, 2]), ("slow", [3])]


def test_a_failure_may_quote_what_is_no_utf_8(ledger):
    ledger.record_failures(
        "r1-0000001", [Failure((1,), "source", "not-utf8", "column 'a\udcff'", source="h5ad:/x/\udcff")]
    )
    (found,) = ledger.failures()
    assert (found["message"], found["source"], found["chunks"]) == ("column 'a?'", "h5ad:/x/?", [1])


def test_no_plan_is_none_and_a_damaged_one_is_damage(ledger):
    assert ledger.plan() is None
    ledger.store.put_new("_ingest/plan.json", b'{"format_version": 1}')
    with pytest.raises(CorruptError):
        ledger.plan()
    with pytest.raises(NotFoundError):
        ledger.store.get("absent")


def test_runs_that_have_begun_and_not_ended_are_open(ledger):
    for run in ("r1", "r2"):
        ledger.start_run(run, {})
        ledger.claim(run, 1, (0, 1))
    ledger.end_run("r1", {})
    assert ledger.open_runs() == {"r2"}


def test_a_name_that_covers_more_than_any_unit_has_is_no_receipt(ledger):
    ledger.commit(receipt(3))
    for last in (999_999_999, 10**17):
        ledger.store.put_new(receipt_key(4, last), b"{}")
    ledger.store.put_new(f"_ingest/receipts/4-{'9' * 60}.json", b"{}")
    assert ledger.done() == ledger.done_among((3, 4, 5)) == {3}
    assert [found.key for found in ledger.receipts()] == [receipt_key(3, 3)]


STRAYS = (".DS_Store", "._r1", "notes/start.json.txt", "r1/.DS_Store", "r1/unit-x.json", "r1/deep/end.json")


def test_what_lies_among_runs_and_is_none_is_passed_over(ledger):
    ledger.start_run("r1", {})
    ledger.claim("r1", 1, (0, 1))
    for name in STRAYS:
        ledger.store.put_new(f"{RUNS}{name}", b"\x00\x01Bud1")
    assert ledger.open_runs() == {"r1"}
    assert [(run["run"], run["claimed"]) for run in ledger.runs()] == [("r1", {0, 1})]


def test_what_lies_among_receipts_and_is_none_is_passed_over(ledger):
    ledger.commit(receipt(3))
    ledger.store.put_new(receipt_key(3, 3).removesuffix(".json") + "~.json", b"{}")
    assert ledger.done_among((3, 4)) == {3}
