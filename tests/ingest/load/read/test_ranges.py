"""Byte ranges: joined where a request costs more than what lies between."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import CorruptError
from ingest.load.manifest import read_manifest
from ingest.load.read import ranges as module
from ingest.load.read.ranges import LocalChunks, StoredChunks, join_ranges
from ingest.store.open import open_store
from ingest.testing.examples import examples

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


def files_of(folder, requests):
    """Open the chunks: 0 for the local way, else so many requests at a time."""
    store = open_store(str(folder))
    manifest = read_manifest(store)
    if not requests:
        return LocalChunks(manifest, folder, max_gap_bytes=20)
    return StoredChunks(manifest, store, requests=requests, max_gap_bytes=20)


@pytest.mark.parametrize("requests", [0, 1, 3])
@settings(max_examples=examples(16))
@given(spans=SPANS, lasting=st.booleans())
def test_what_is_read_is_what_stands_there(shelf, requests, spans, lasting):
    folder = shelf.made("float32-deflate")
    files = files_of(folder, requests)
    whole = (folder / "chunks" / "chunk_000001.h5ad").read_bytes()
    for order in (spans, sorted(spans)):
        found = files.read(1, order, lasting=lasting)
        assert [bytes(part) for part in found] == [whole[a : a + n] for a, n in order]
    assert files.whole(1) == whole
    files.close()


def test_what_is_to_last_does(shelf):
    folder = shelf.made("float32-deflate")
    files = files_of(folder, 0)
    held = files.read(1, [(0, 400), (1000, 50)])
    for start in range(0, 3000, 400):
        files.read(2, [(start, 400)])
        files.read(2, [(start, 400)], lasting=False)
    whole = (folder / "chunks" / "chunk_000001.h5ad").read_bytes()
    assert [bytes(part) for part in held] == [whole[:400], whole[1000:1050]]


def test_threads_do_not_share_memory(shelf):
    folder = shelf.made("float32-deflate")
    files, wrong = files_of(folder, 0), []
    wholes = [path.read_bytes() for path in sorted((folder / "chunks").iterdir())]

    def work(at):
        for start in range(0, 4000, 7):
            [part] = files.read(at, [(start, 500)], lasting=False)
            if bytes(part) != wholes[at][start : start + 500]:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("requests", [0, 3])
def test_what_is_not_there_is_named(damageable, requests):
    dest = damageable()
    dest.chunk(2).unlink()
    dest.chunk(1).write_bytes(b"short")
    files = files_of(dest.path, requests)
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
