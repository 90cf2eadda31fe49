"""Drivers that race, die and are joined by others; `python -m ingest.testing.driver_machine` runs more of them."""

from __future__ import annotations

import pytest

from ingest.layout import PLAN_KEY, SUCCESS_KEY, chunk_key, receipt_key
from ingest.testing.driver_machine import make_pieces, run_machine
from ingest.testing.driver_stage import BAD, Stage, no_pauses
from ingest.testing.memory_store import MemoryStore


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return make_pieces(tmp_path_factory.mktemp("pieces"))


@pytest.fixture
def stage(pieces):
    stage = Stage(pieces)
    with no_pauses():
        yield stage
    stage.clear()


def test_any_history_is_as_the_model_has_it(pieces):
    run_machine(pieces, examples=25, steps=40)


@pytest.mark.long
def test_five_hundred_histories_are_as_the_model_has_them(pieces):
    run_machine(pieces, examples=500, steps=100)


def test_a_driver_alone_plays_its_piece(stage):
    actor = stage.enter(0, size=2, encoding=0)
    stage.perform(actor)
    assert actor.puppet.result.exit_code == 0
    assert stage.model.complete
    assert stage.model.wrongs == []


@pytest.mark.parametrize("leaves_out", [False, True])
def test_a_driver_that_began_before_another_amended_finishes_too(stage, leaves_out):
    bad = frozenset({BAD})
    first = stage.enter(0, size=1, encoding=0, bad=bad, leaves_out=leaves_out)
    while first.pool is None:
        first.puppet.step()
    second = stage.enter(0, size=2, encoding=1, bad=bad, leaves_out=True)
    stage.perform(second)
    assert second.puppet.result.exit_code == 0
    stage.perform(first)
    assert first.puppet.error is None, first.puppet.error
    assert first.puppet.result.finished == second.puppet.result.finished
    assert first.puppet.result.finished.left_out == stage.pieces[0].amendment.left_out
    assert not first.puppet.result.driven.quarantined, "what failed here the other has made"
    assert stage.model.complete
    assert stage.model.wrongs == []


def test_a_chunk_that_was_left_whole_before_it_was_amended_waits_for_repair(stage):
    """Neither is right alone: nobody but the source can tell whether what is there is whole."""
    piece = stage.pieces[0]
    store, made = MemoryStore(stage.objects), piece.made[0][BAD]
    one = stage.enter(0, size=1, encoding=0, bad=frozenset({BAD}), leaves_out=True)
    while one.pool is None:
        one.puppet.step()
    store.put_new(made.entry.key, made.encoded.data)
    stage.perform(one)
    assert one.puppet.result.exit_code == 3
    assert stage.model.stuck
    assert not stage.model.complete


def test_the_model_sees_what_must_not_be(stage):
    """Each defence taken away in turn: what a run without it would do to DEST."""
    stage.perform(stage.enter(0, size=1, encoding=0))
    store, wrongs = MemoryStore(stage.objects), stage.model.wrongs

    def wrong(act):
        act()
        assert len(wrongs) == 1, wrongs
        return wrongs.pop()

    def replace(key, data):
        return wrong(lambda: store.replace(key, data, expected=store.stat(key).version))

    assert "only summaries" in replace(chunk_key(0, 6, ".h5ad"), b"other")
    assert "only summaries" in replace(PLAN_KEY, store.get(PLAN_KEY))
    assert "only summaries" in replace(receipt_key(0, 0), store.get(receipt_key(0, 0)))
    assert "another digest" in replace(SUCCESS_KEY, b"{}")
    assert "nothing is deleted" in wrong(
        lambda: store.delete("config.json", expected=store.stat("config.json").version)
    )


def test_the_model_sees_what_comes_too_early(pieces):
    stage = Stage(pieces)
    store, made = MemoryStore(stage.objects), pieces[0].made[0][0]
    store.put_new(made.entry.key, made.encoded.data)
    assert ["there is no plan yet" in wrong for wrong in stage.model.wrongs] == [True]
