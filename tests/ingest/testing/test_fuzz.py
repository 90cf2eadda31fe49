"""The fuzzer: some cases as it makes them, and that it sees what it looks for."""

from __future__ import annotations

import random

from ingest.testing.fuzz import fuzz
from ingest.testing.mutations import mutate


def test_some_cases(tmp_path):
    found = fuzz(seed=1, cases=36, keep=tmp_path / "kept")
    assert found.findings == []
    assert found.cases == 36
    assert found.outcomes["refused"] > 12
    assert list((tmp_path / "kept").iterdir()) == []


def test_mutations_are_the_same_for_the_same_numbers():
    data = bytes(range(256)) * 8
    made = [mutate(random.Random(number), data) for number in range(200)]  # noqa: S311 # repeatable, not secret
    assert made == [mutate(random.Random(number), data) for number in range(200)]  # noqa: S311
    assert sum(one != data for one in made) > 180
    assert mutate(random.Random(1), b"") == b""  # noqa: S311
