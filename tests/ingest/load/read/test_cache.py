"""A cache bounded in bytes, used by many threads."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from ingest.load.read.cache import ByteLru


@given(
    room=st.integers(0, 60),
    steps=st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 8), st.integers(0, 25))),
)
def test_it_does_as_a_plain_list_would(room, steps):
    cache: ByteLru[int] = ByteLru(room)
    model: list[tuple[int, int, int]] = []  # key, value, size: the least recently used first
    for what, key, size in steps:
        known = next((entry for entry in model if entry[0] == key), None)
        if what == "get":
            assert cache.get(key) == (None if known is None else known[1])
            if known is not None:
                model.append(model.pop(model.index(known)))
        else:
            cache.put(key, key * 10, size)
            if known is None and size <= room:
                model.append((key, key * 10, size))
                while sum(entry[2] for entry in model) > room:
                    model.pop(0)
        assert cache.nbytes == sum(entry[2] for entry in model) <= room


def test_hits_and_misses():
    cache: ByteLru[str] = ByteLru(10)
    cache.put("a", "A", 3)
    assert [cache.get("a"), cache.get("b"), cache.get("a")] == ["A", None, "A"]
    assert (cache.hits, cache.misses) == (2, 1)


def test_many_threads_keep_the_books():
    cache: ByteLru[int] = ByteLru(500)

    def work(number):
        for step in range(3000):
            key = (step * 7 + number) % 40
            value = cache.get(key)
            assert value is None or value == key
            cache.put(key, key, 30 + key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.nbytes == sum(size for _, size in cache._held.values()) <= 500
