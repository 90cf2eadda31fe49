"""A unit in the hands of a worker: how often it is asked, and what of its answers counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from actors.calls import settled
from actors.flight import Flight
from ingest.pool import Progress, UnitTask

TASK = UnitTask(7, (0, 1), "a")


class Asked:
    """Counts the questions; each is answered by `ray.put`, at once."""

    def __init__(self, unit_id=7):
        self.n_asked = self.n_stopped = 0
        self.progress = SimpleNamespace(remote=self._progress)
        self.stop_soon = SimpleNamespace(remote=self._stop)
        self._unit_id = unit_id

    def _progress(self):
        self.n_asked += 1
        return ray.put(Progress(self._unit_id, self.n_asked, 0, 0))

    def _stop(self):
        self.n_stopped += 1


def flight_of(actor):
    return Flight(TASK, SimpleNamespace(actor=actor), ray.put(None), 1e9, give_up=1e9)


@pytest.mark.parametrize(("n_flights", "every"), [(1, 1), (64, 1), (640, 10)])
def test_the_more_work_the_more_seldom_each_is_asked(local_ray, n_flights, every):  # noqa: ARG001 # connected
    actor = Asked()
    flight = flight_of(actor)
    for now in range(101):
        answered = settled([flight.asked] if flight.asked is not None else [])
        flight.tend(float(now), stopping=now > 50, answered=answered, n_flights=n_flights)
    assert actor.n_asked == 100 // every + 1
    assert flight.latest.n_cells >= actor.n_asked - 1
    assert actor.n_stopped == 1


def test_who_does_not_answer_is_not_asked_again_and_an_old_answer_is_of_another_unit(local_ray):  # noqa: ARG001
    actor = Asked(unit_id=6)
    flight = flight_of(actor)
    for now in range(50):
        flight.tend(float(now), stopping=False, answered=set(), n_flights=1)
    assert actor.n_asked == 1
    flight.tend(50.0, stopping=False, answered={flight.asked}, n_flights=1)
    assert flight.latest is None
