"""What fields of records may be."""

from __future__ import annotations

import math

import pytest

from ingest.record_fields import (
    check_fields,
    each,
    is_count,
    is_flag,
    is_number,
    is_sha256,
    is_text,
    keyed,
    maybe,
    one_of,
)


@pytest.mark.parametrize(
    ("check", "taken", "refused"),
    [
        (is_count, [0, 7, 2**63 - 1], [-1, 2**63, True, 1.0, "1", None, [], {}]),
        (is_number, [0, -3, 1.5, 2**63 - 1], [2**63, -(2**63), math.nan, math.inf, 10**400, True, "1", None]),
        (is_flag, [True, False], [0, 1, "true", None]),
        (is_text, ["", "é", "a"], ["\ud800", b"a", 1, None]),
        (each(is_count), [[], [1], (1, 2)], [[-1], ["1"], 1, None, {"a": 1}]),
        (each(is_count, 2), [[1, 2]], [[], [1], [1, 2, 3]]),
        (is_sha256, ["0a" * 32], ["0a" * 31, "0A" * 32, "0g" * 32, "", 1, None]),
        (keyed(is_text), [{}, {"a": "b"}], [{"a": 1}, [], None]),
        (maybe(is_text), [None, "a"], [1]),
        (one_of("a", "b"), ["a", "b"], ["c", "ab", "", None, ["a"], {}]),
    ],
)
def test_checks(check, taken, refused):
    assert all(check(value) for value in taken)
    assert not any(check(value) for value in refused)


def test_the_first_wrong_field_is_named_and_not_said_at_length():
    checks = {"a": is_count, "b": is_text}
    check_fields({"a": 1, "b": "x", "other": None}, checks)
    with pytest.raises(ValueError, match="b is missing"):
        check_fields({"a": 1}, checks)
    with pytest.raises(ValueError, match="a is 'xxx") as caught:
        check_fields({"a": "x" * 10_000, "b": ""}, checks)
    assert len(str(caught.value)) < 100
    with pytest.raises(ValueError, match="a list where an object belongs"):
        check_fields([], checks)
