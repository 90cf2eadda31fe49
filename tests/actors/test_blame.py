"""Texts are Ray 2.60's own, taken from real deaths."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RaySystemError

from actors.blame import judge, lost_to_deadline
from actors.worker import WorkerPlace
from ingest.pool import UnitTask

PLACE = WorkerPlace(actor_id="a", node_id="n", host="node-3", pid=8412)
CRASH = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n\tpid: 8412\n"
    "The actor is dead because its worker process has died. Worker exit type: {type} Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) …"
)
NODE = "The actor died unexpectedly before finishing this task.\nThe actor died because its node has died. Node Id: 7f"


def died(text):
    error = ActorDiedError()
    error.base_error_msg = error.error_msg = text
    assert str(error) == text
    return error


@pytest.mark.parametrize(
    ("error", "node_alive", "blame", "kind"),
    [
        (died(CRASH.format(type="SYSTEM_ERROR")), True, "unit", "worker-died"),
        (died(CRASH.format(type="SYSTEM_ERROR")), False, "infrastructure", "node-lost"),
        (died(CRASH.format(type="NODE_OUT_OF_MEMORY")), True, "unit", "out-of-memory"),
        (died(NODE), True, "infrastructure", "node-lost"),
        (died("The actor is dead because it was killed by `ray.kill`."), True, "unit", "worker-died"),
        (OutOfMemoryError("low on memory"), True, "unit", "out-of-memory"),
        (NodeDiedError("gone"), True, "infrastructure", "node-lost"),
        (ActorUnavailableError("Socket closed", None), True, "infrastructure", "unavailable"),
        (ActorUnavailableError("Socket closed", None), False, "infrastructure", "node-lost"),
        (RaySystemError("raylet"), True, "infrastructure", "unavailable"),
    ],
)
def test_who_is_to_blame(error, node_alive, blame, kind):
    verdict = judge(error, PLACE, lambda node_id: node_alive and node_id == "n")
    assert (verdict.blame, verdict.kind) == (blame, kind)
    assert "worker 8412 on node-3" in verdict.message
    assert "\n" not in verdict.message


def test_a_crash_is_told_in_one_short_line():
    verdict = judge(died(CRASH.format(type="SYSTEM_ERROR")), PLACE, lambda _: True)
    assert verdict.message == (
        "worker 8412 on node-3 died: SYSTEM_ERROR, Worker unexpectedly exits with a connection error code 2. "
        "End of file."
    )


def test_a_worker_that_had_not_started_has_no_place():
    assert "a starting worker" in judge(died(NODE), None, lambda _: True).message


def test_lateness_is_the_units_fault():
    lost = lost_to_deadline(UnitTask(3, (1, 2), "x"), PLACE, 60.0)
    assert (lost.blame, lost.kind) == ("unit", "deadline")
    assert "60 s" in lost.message
