"""Byte ranges: joined where a request costs more than what lies between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import CorruptError
from ingest.load.manifest import read_manifest
from ingest.load.read import ranges as module
from ingest.load.read.ranges import StoredChunks, join_ranges
from ingest.store.open import open_store

SPANS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60)), max_size=20)


@given(spans=SPANS, gap=st.integers(0, 80))
def test_every_range_is_inside_of_one_request(spans, gap):
    joined = join_ranges(spans, max_gap_bytes=gap)
    assert sorted(member for _, _, members in joined for member in members) == list(range(len(spans)))
    for start, length, members in joined:
        for member in members:
            first, size = spans[member]
            assert start <= first <= first + size <= start + length


@given(spans=SPANS, gap=st.integers(0, 80))
def test_ascending_ranges_are_read_in_order_with_no_larger_gap(spans, gap):
    apart, place = [], 0
    for skip, length in spans:
        apart.append((place + skip, length))
        place += skip + length
    joined = join_ranges(apart, max_gap_bytes=gap)
    ends = [start + length for start, length, _ in joined]
    assert all(after[0] - end > gap for after, end in zip(joined[1:], ends, strict=False))
    read = sum(length for _, length, _ in joined)
    assert read <= sum(length for _, length in apart) + gap * len(apart)


def test_a_request_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    joined = join_ranges([(at, 30) for at in range(0, 300, 30)], max_gap_bytes=1000)
    assert [length for _, length, _ in joined] == [90, 90, 90, 30]


@pytest.mark.parametrize("requests", [0, 3])
@given(spans=SPANS, gap=st.integers(0, 80))
def test_what_is_read_is_what_stands_there(shelf, requests, spans, gap):
    folder = shelf.made("float32-deflate")
    store = open_store(str(folder))
    files = StoredChunks(read_manifest(store), store, requests=requests, max_gap_bytes=gap)
    whole = (folder / "chunks" / "chunk_000001.h5ad").read_bytes()
    for order in (spans, sorted(spans)):
        assert [bytes(part) for part in files.read(1, order)] == [whole[a : a + n] for a, n in order]
    assert files.whole(1) == whole
    files.close()


@pytest.mark.parametrize("requests", [0, 3])
def test_what_is_not_there_is_named(damageable, requests):
    dest = damageable()
    dest.chunk(2).unlink()
    dest.chunk(1).write_bytes(b"short")
    store = open_store(str(dest.path))
    files = StoredChunks(read_manifest(store), store, requests=requests, max_gap_bytes=0)
    for at, kind, ask in [
        (2, "chunk-missing", lambda at: files.read(at, [(0, 4)])),
        (2, "chunk-missing", files.whole),
        (1, "chunk-damaged", lambda at: files.read(at, [(0, 4), (100, 10)])),
    ]:
        with pytest.raises(CorruptError, match=f"chunk_{at:06d}.h5ad") as raised:
            ask(at)
        assert (raised.value.kind, raised.value.chunk) == (kind, at)
        assert f"repair {dest.path}" in raised.value.hint
    files.close()
