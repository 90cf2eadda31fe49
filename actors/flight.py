"""One record per unit in flight."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.calls import kill, settled

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from actors.worker import WorkerPlace
    from ingest.pool import Progress, UnitTask

__all__ = ["Flight", "Member"]

_ASK_EVERY_S = 1.0


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

    def tend(self, now: float, *, stopping: bool) -> None:
        """Kill what is late, pass on a request to stop, ask for progress; blocks on nothing."""
        if self.overdue:
            return
        if now >= self.give_up:
            self.overdue = True  # the end arrives as the actor's death, the ordinary way
            kill(self.member.actor)
            return
        if stopping and not self._told_to_stop:
            self._told_to_stop = True
            self.member.actor.stop_soon.remote()
        self._hear()
        if self._asked is None and now >= self._ask_next:
            self._ask_next = now + _ASK_EVERY_S
            self._asked = self.member.actor.progress.remote()

    def _hear(self) -> None:
        if self._asked is None or not settled([self._asked]):
            return
        with contextlib.suppress(RayError):  # if the actor is gone, its run says so
            answer: Progress | None = ray.get(self._asked)
            if answer is not None and answer.unit_id == self.task.unit_id:
                self.latest = answer
        self._asked = None
