from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.growth import Growth


@pytest.mark.parametrize(
    ("working", "coming", "missing"),
    [(0, 0, 16), (0, 16, 0), (3, 13, 3), (16, 0, 16), (100, 60, 40), (600, 0, 400), (999, 0, 1), (1000, 0, 0)],
)
def test_as_many_wait_as_work_and_sixteen_at_first(working, coming, missing):
    assert Growth(1000).missing(working=working, coming=coming) == missing


def test_who_says_how_many_has_all_of_them_asked_for_at_once():
    assert Growth(300, at_once=True).missing(working=0, coming=0) == 300
    assert Growth(300, at_once=True).missing(working=20, coming=280) == 0


@given(most=st.integers(1, 2000), working=st.integers(0, 2000), coming=st.integers(0, 2000), at_once=st.booleans())
def test_never_more_than_the_most_and_never_fewer_than_one_waits_below_it(most, working, coming, at_once):
    missing = Growth(most, at_once=at_once).missing(working=working, coming=coming)
    assert missing == 0 or working + coming + missing <= most
    assert working >= most or missing + coming >= 1
