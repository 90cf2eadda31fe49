"""What the harness of kills says of its rounds; its kills are in tests/acceptance."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ingest.testing.exact import Compared
from ingest.testing.kills import Round


@pytest.mark.parametrize("compared", [None, Compared(2_000, 0, 0, 0), Compared(2_000, 1, 0, 0)])
def test_a_round_is_said_as_json(compared):
    one = Round(3, Counter({"worker": 5, "machine": 1}), 2, 1.5, digest_equal=True, compared=compared, exit_codes=[1])
    said = json.loads(json.dumps(one.facts()))
    assert said["killed"] == {"worker": 5, "machine": 1}
    assert said["good"] is one.good is (compared is not None and not compared.lost)
    assert (said["number"], said["lives"], said["exit_codes"]) == (3, 2, [1])
    assert said["compared"] == (
        None
        if compared is None
        else {
            "n_cells": 2_000,
            "lost": compared.lost,
            "doubled": 0,
            "altered": 0,
            "strangers": 0,
        }
    )
