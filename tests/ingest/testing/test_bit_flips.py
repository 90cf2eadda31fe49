"""Some of the damage that `python -m ingest.testing.bit_flips` does thousands of times."""

from __future__ import annotations

import pytest

from ingest.testing.bit_flips import KINDS, Campaign


@pytest.mark.parametrize("kinds", [("float32-deflate", "h5-none")])
def test_every_damage_is_found_and_repaired(tmp_path, kinds):
    campaign = Campaign(tmp_path, 5, kinds)
    for number in range(160):
        campaign.damage(number)
    for number in range(2):
        campaign.repair(number)
    tally = campaign.tally
    assert tally.faults == []
    assert (tally.damages, tally.repairs) == (160, 2)
    assert {what for what, _ in tally.by_class} == {"chunk", "receipt", "plan", "index", "survey", "genes", "summary"}
    assert tally.loaded["refused"] > 5


@pytest.mark.long
def test_ten_thousand_times(tmp_path):
    campaign = Campaign(tmp_path, 1, KINDS)
    for number in range(10_000):
        campaign.damage(number)
        if number % 100 == 0:
            campaign.repair(number)
    assert campaign.tally.faults == []


def test_a_verify_that_sees_nothing_would_be_seen(tmp_path, monkeypatch):
    campaign = Campaign(tmp_path, 5, ("float32-none",))
    monkeypatch.setattr("ingest.testing.bit_flips._found", lambda *_: None)
    for number in range(12):
        campaign.damage(number)
    assert campaign.tally.faults
