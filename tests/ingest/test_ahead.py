from __future__ import annotations

import threading

import pytest

from ingest.ahead import Ahead


def counted(n, made, error=None):
    try:
        for item in range(n):
            made.append(item)
            yield item
        if error is not None:
            raise error
    finally:
        made.append("closed")


@pytest.mark.parametrize("depth", [1, 3])
def test_all_items_come_in_order_and_the_end_stays_the_end(depth):
    made = []
    ahead = Ahead(counted(20, made), depth=depth)
    assert list(ahead) == list(range(20))
    assert list(ahead) == []
    ahead.close()
    assert made == [*range(20), "closed"]


def test_what_the_items_raise_is_raised_where_they_are_taken():
    ahead = Ahead(counted(2, [], ZeroDivisionError("here")))
    assert [next(ahead), next(ahead)] == [0, 1]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="here"):
            next(ahead)
    ahead.close()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_than_the_depth_is_made_ahead(depth):
    made, step = [], threading.Semaphore(0)

    def items():
        for item in range(50):
            made.append(item)
            step.release()
            yield item

    ahead = Ahead(items(), depth=depth)
    for _ in range(depth):
        assert step.acquire(timeout=120)
    for taken in range(30):
        assert next(ahead) == taken
        assert step.acquire(timeout=120)  # room for one more: it is made without being asked for
        assert not step.acquire(blocking=False)
        assert len(made) == taken + 1 + depth
    ahead.close()


def test_closing_ends_the_thread_that_waits_for_room():
    made = []
    before = threading.active_count()
    ahead = Ahead(counted(10**9, made))
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before
    assert made[-1] == "closed"
    assert len(made) <= 4


def test_closing_waits_for_the_item_being_made():
    begun, go, ended = threading.Event(), threading.Event(), []

    def items():
        begun.set()
        go.wait(120)
        ended.append(True)
        yield 1

    ahead = Ahead(items())
    begun.wait(120)
    threading.Timer(0.1, go.set).start()
    ahead.close()
    assert ended == [True]
