"""One record per unit in flight."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.calls import kill

if TYPE_CHECKING:
    from collections.abc import Container

    from ray import ObjectRef
    from ray.actor import ActorHandle

    from actors.worker import WorkerPlace
    from ingest.pool import Progress, UnitTask

__all__ = ["Flight", "Member"]

_ASK_EVERY_S = 1.0
_ASKED_A_SECOND = 64
"""Workers, at most: a thousand that were asked every second would cost the driver half a core."""


@dataclass(slots=True, eq=False)
class Member:
    """A started actor, idle or busy."""

    actor: ActorHandle[Any]
    place: WorkerPlace
    watch: ObjectRef[Any]
    """Fails when the process dies."""
    used: bool = False
    """Whether it ever took a unit."""
    leaving: bool = False
    """Whether its node is about to go: it was asked to stop, and is given nothing more."""
    idle_since: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Flight:
    """A unit in the hands of an actor."""

    task: UnitTask
    member: Member
    run: ObjectRef[Any]
    deadline_s: float
    give_up: float
    """When, by the monotonic clock, the deadline is over."""
    overdue: bool = False
    """Whether the actor was killed for that."""
    latest: Progress | None = None
    _told_to_stop: bool = False
    _asked: ObjectRef[Any] | None = None
    _ask_next: float = 0.0

    @classmethod
    def start(cls, member: Member, task: UnitTask, deadline_s: float) -> Flight:
        """Send `task` to the actor of `member`."""
        member.used = True
        now = time.monotonic()
        run: ObjectRef[Any] = member.actor.run.remote(task)
        return cls(task, member, run, deadline_s, now + deadline_s, _ask_next=now + _ASK_EVERY_S)

    @property
    def asked(self) -> ObjectRef[Any] | None:
        """The question for its progress that is under way."""
        return self._asked

    def tend(self, now: float, *, stopping: bool, answered: Container[ObjectRef[Any]], n_flights: int) -> None:
        """Kill what is late, pass on a request to stop, ask for progress; blocks on nothing.

        Parameters
        ----------
        answered
            Of all questions under way those that are answered: to ask Ray about each by itself costs 30 us.
        n_flights
            The more there are, the more seldom each is asked.
        """
        if self.overdue:
            return
        if now >= self.give_up:
            self.overdue = True  # the end arrives as the actor's death, the ordinary way
            kill(self.member.actor)
            return
        if stopping and not self._told_to_stop:
            self._told_to_stop = True
            self.member.actor.stop_soon.remote()
        self._hear(answered)
        if self._asked is None and now >= self._ask_next:
            self._ask_next = now + max(_ASK_EVERY_S, n_flights / _ASKED_A_SECOND)
            self._asked = self.member.actor.progress.remote()

    def _hear(self, answered: Container[ObjectRef[Any]]) -> None:
        if self._asked is None or self._asked not in answered:
            return
        with contextlib.suppress(RayError):  # if the actor is gone, its run says so
            answer: Progress | None = ray.get(self._asked)
            if answer is not None and answer.unit_id == self.task.unit_id:
                self.latest = answer
        self._asked = None
