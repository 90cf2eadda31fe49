"""How many sources a worker holds open."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ingest import open_sources
from ingest.errors import TransientError
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.open_sources import OpenSources
from ingest.source import Source


@pytest.fixture
def opened_with(monkeypatch, tmp_path):
    """Return sources of the layouts given, and the numbers of those that are open."""
    is_open: list[int] = []

    class Fetcher:
        def __init__(self, number):
            self.number = number
            is_open.append(number)

        def read(self, _rows):
            return self.number

        def close(self):
            is_open.remove(self.number)

    def opened_with(*layouts):
        surveys = [
            SimpleNamespace(layout=layout, number=number, source=Source.parse(f"/data/{number}.h5ad"))
            for number, layout in enumerate(layouts)
        ]
        plan = SimpleNamespace(surveys=surveys, genes=None)
        return OpenSources(plan, FetchOptions(), FetchLimits(1 << 20, 1, tmp_path)), is_open

    monkeypatch.setattr(open_sources, "open_fetcher", lambda survey, *_: Fetcher(survey.number))
    return opened_with


def test_the_least_recently_used_is_closed(opened_with):
    sources, is_open = opened_with(*["csr"] * 10)
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 0, 8, 9):
        assert sources.read(number, np.arange(1)) == number
    assert sorted(is_open) == [0, 3, 4, 5, 6, 7, 8, 9]
    sources.close()
    assert is_open == []


def test_one_transposition_is_held_at_a_time(opened_with):
    sources, is_open = opened_with("csc", "csr", "csc", "csc")
    for number in (0, 1, 2, 2, 3, 1):
        assert sources.read(number, np.arange(1)) == number
    assert sorted(is_open) == [1, 3]


def test_the_only_census_is_open_before_it_is_read(opened_with):
    sources, is_open = opened_with("csr", "soma", "csr")
    sources.open_ahead()
    assert is_open == [1]
    assert sources.read(1, np.arange(1)) == 1
    assert is_open == [1]


@pytest.mark.parametrize("layouts", [("csr", "csc"), ("soma", "soma")])
def test_nothing_else_is_opened_ahead(opened_with, layouts):
    sources, is_open = opened_with(*layouts)
    sources.open_ahead()
    assert is_open == []


def test_what_stands_in_the_way_of_opening_ahead_is_left_to_the_unit(opened_with, monkeypatch):
    sources, is_open = opened_with("soma")
    normal = open_sources.open_fetcher

    def fail(*_):
        raise TransientError("no answer")

    monkeypatch.setattr(open_sources, "open_fetcher", fail)
    sources.open_ahead()
    assert is_open == []
    monkeypatch.setattr(open_sources, "open_fetcher", normal)
    assert sources.read(0, np.arange(1)) == 0
