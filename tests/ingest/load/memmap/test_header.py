"""``header.sch``, byte for byte as bionemo-scdl writes it, and what is none."""

from __future__ import annotations

import pytest
from bionemo.scdl.schema import header as theirs
from bionemo.scdl.util.scdl_constants import ArrayDType as TheirDType
from bionemo.scdl.util.scdl_constants import FileNames as TheirNames
from hypothesis import given
from hypothesis import strategies as st

from ingest.load.memmap.header import ArrayInfo, FeatureIndexInfo, HeaderSerializationError, SCDLHeader
from ingest.load.memmap.names import ArrayDType, FileNames

_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: text.strip())
_shapes = st.none() | st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=3).map(tuple)
_lengths = st.integers(0, 2**64 - 1)
_dtypes = st.sampled_from(list(ArrayDType))
_arrays = st.builds(ArrayInfo, _names, _lengths, _dtypes, _shapes)
_files = st.lists(_names, max_size=4).map(tuple)
_indices = st.builds(FeatureIndexInfo, _names, _lengths, _dtypes, _files, _shapes)


def _unique(things):
    return len({thing.name for thing in things}) == len(things)


@given(st.lists(_arrays, max_size=4), st.lists(_indices, max_size=3))
def test_same_bytes_and_back(arrays, indices):
    ours = SCDLHeader(tuple(arrays), tuple(indices))
    assert SCDLHeader.deserialize(ours.serialize()) == ours
    if not _unique([*arrays, *indices]):
        return
    header = theirs.SCDLHeader(
        arrays=[theirs.ArrayInfo(one.name, one.length, TheirDType(one.dtype), one.shape) for one in arrays],
        feature_indices=[
            theirs.FeatureIndexInfo(one.name, one.length, TheirDType(one.dtype), list(one.index_files), one.shape)
            for one in indices
        ],
    )
    assert header.serialize() == ours.serialize()
    assert repr(theirs.SCDLHeader.deserialize(ours.serialize()).arrays) == repr(header.arrays)


def test_names_and_numbers_are_theirs():
    assert {one.name: one.value for one in FileNames} == {one.name: one.value for one in TheirNames}
    assert {one.name: one.value for one in ArrayDType} == {one.name: one.value for one in TheirDType}
    for one in ArrayDType:
        assert one.numpy_dtype_string == TheirDType(one).numpy_dtype_string


@given(st.binary(max_size=64), st.integers(0, 200), st.integers(1, 8))
def test_damaged_bytes_are_no_header(noise, at, width):
    whole = SCDLHeader(
        (ArrayInfo("DATA", 5, ArrayDType.FLOAT32_ARRAY), ArrayInfo("ROWPTR", 3, ArrayDType.UINT8_ARRAY, (3,))),
        (FeatureIndexInfo("var_features", 2, index_files=("a", "b")),),
    ).serialize()
    for damaged in (noise, whole[: at % len(whole)], whole[: at % len(whole)] + noise[:width]):
        try:
            SCDLHeader.deserialize(damaged)
        except HeaderSerializationError:
            continue
        assert damaged.startswith(b"SCDL")


def test_impossible_numbers_ask_for_no_memory():
    with pytest.raises(HeaderSerializationError, match="too short"):
        SCDLHeader.deserialize(b"SCDL\0\1\0\1" + bytes([0, 0, 0, 1]) + b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("at", "byte", "said"), [(0, 0, "magic"), (4, 9, "version"), (7, 2, "endianness"), (11, 7, "backend")]
)
def test_what_is_wrong_is_said(at, byte, said):
    data = bytearray(SCDLHeader().serialize())
    data[at] = byte
    with pytest.raises(HeaderSerializationError, match=said):
        SCDLHeader.deserialize(bytes(data))


def test_a_header_file_that_is_none_is_named(tmp_path):
    (tmp_path / "header.sch").write_bytes(b"nothing")
    with pytest.raises(HeaderSerializationError, match=r"header\.sch"):
        SCDLHeader.load(tmp_path / "header.sch")
    with pytest.raises(HeaderSerializationError, match="not found"):
        SCDLHeader.load(tmp_path / "none.sch")
