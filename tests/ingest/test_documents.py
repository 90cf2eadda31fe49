from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.documents import canonical, parse, readable, seal, unseal
from ingest.errors import CorruptError

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.text(max_size=5).filter(lambda key: key not in ("digest", "format_version"))
_DOCUMENTS = st.dictionaries(_KEYS, _VALUES, max_size=4)


@given(_DOCUMENTS)
def test_a_sealed_document_comes_back(document):
    assert unseal(seal(document), key="k") == {"format_version": 1, **document}


@given(_DOCUMENTS, st.data())
def test_any_changed_byte_of_a_sealed_document_is_found(document, data):
    sealed = seal({**document, "sum": 19999, "weight": 1e16})
    at = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != sealed[at]))
    with pytest.raises(CorruptError):
        unseal(sealed[:at] + bytes([other]) + sealed[at + 1 :], key="k")


def test_every_digit_turned_into_an_exponent_is_found():
    # 19999 with one digit made an e is 1e999, which is infinite, which is no JSON.
    sealed = seal({"sum": 19999})
    at = sealed.index(b"19999") + 1
    with pytest.raises(CorruptError):
        unseal(sealed[:at] + b"e" + sealed[at + 1 :], key="k")


def test_another_spelling_of_the_same_content_is_found():
    sealed = seal({"sum": 1e16})
    assert sealed.count(b"e+16") == 1
    for spelling in (b"E+16", b"e+016", b"e16"):
        with pytest.raises(CorruptError):
            unseal(sealed.replace(b"e+16", spelling), key="k")


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_a_cut_document_is_found(cut):
    with pytest.raises(CorruptError):
        unseal(seal({"a": [1, 2, 3]})[:-1][:cut], key="k")


@pytest.mark.parametrize("data", [b"[]", b"3", b"{}", b'{"format_version": "1"}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_document(data):
    with pytest.raises(CorruptError):
        parse(data, key="k")


def test_a_newer_format_is_told_from_damage():
    with pytest.raises(CorruptError, match="format_version 2") as caught:
        parse(b'{"format_version": 2}', key="k")
    assert caught.value.kind == "newer-format"


def test_spellings():
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert readable({"b": 1, "a": 2}).decode().splitlines()[1:3] == [' "format_version": 1,', ' "b": 1,']
    assert json.loads(readable({"b": 1})) == {"format_version": 1, "b": 1}


def test_a_nested_digest_is_content_like_any_other():
    inner = {"digest": "0" * 64, "z": 1}
    sealed = seal({"inner": inner, "more": [inner, {"digest": "1" * 64}]})
    assert unseal(sealed, key="k")["inner"] == inner
    with pytest.raises(CorruptError):
        unseal(sealed.replace(b'"' + b"0" * 64, b'"' + b"2" * 64), key="k")
    with pytest.raises(CorruptError):
        unseal(sealed.replace(b"1" * 64, b"3" * 64), key="k")


def test_another_spelling_is_found_where_the_digest_cannot_be_cut_out_of_the_bytes():
    """Some text in it looks like its digest, too."""
    sealed = seal({"sum": 1e16, "quoted": {"digest": "0" * 64, "z": 1}})
    assert sealed.count(b'"digest":"') == 2
    assert unseal(sealed, key="k")["sum"] == 1e16
    with pytest.raises(CorruptError):
        unseal(sealed.replace(b"e+16", b"e16"), key="k")
