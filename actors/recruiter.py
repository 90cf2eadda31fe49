"""Starting actors: how many are missing, who has answered, when to try again, when to give up."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.blame import judge, node_is_alive, other_build
from actors.calls import kill, settled
from actors.flight import Member
from actors.worker import WorkerPlace, start_actor
from ingest.errors import ConfigError, VersionMismatchError

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from actors.blame import Verdict
    from actors.budget import StartBudget
    from actors.worker import WorkerSpec

__all__ = ["Recruiter"]

_log = logging.getLogger(__name__)

_AFTER_NODE_LOSS_S = 1.0


@dataclass(slots=True, eq=False)
class _Start:
    """An actor that has not said yet whether it can work."""

    actor: ActorHandle[Any]
    here: ObjectRef[Any]
    """Settles when a node has had room for it."""
    ready: ObjectRef[Any]
    give_up: float
    has_room: bool = False


class Recruiter:
    """Bring in one actor for each that is missing, and no more.

    Parameters
    ----------
    spec
        What to start.
    budget
        Counts failed starts; shared with the pool, which reports what worked.
    start_timeout_s
        Seconds an actor may wait for room while no worker lives, and then take to be ready.
    """

    def __init__(self, spec: WorkerSpec, budget: StartBudget, start_timeout_s: float) -> None:
        self._spec = spec
        self._budget = budget
        self._start_timeout_s = start_timeout_s
        self._due: list[float] = []
        self._starts: list[_Start] = []
        self._said: set[str] = set()

    @property
    def pending(self) -> list[ObjectRef[Any]]:
        """The calls that settle when a starting actor has something to say."""
        return [start.ready for start in self._starts]

    @property
    def n_coming(self) -> int:
        """Actors that are starting, wait for room, or are due."""
        return len(self._starts) + len(self._due)

    def want_one(self) -> None:
        """Ask for one more actor, after the budget's delay."""
        self._due.append(time.monotonic() + self._budget.delay_s)

    def launch(self, *, hold: bool, has_workers: bool = False) -> None:
        """Start what is due, unless `hold`, and give up on starts that take too long.

        While others work (`has_workers`), to wait for room is no failure: a cluster may grow tomorrow.
        """
        now = time.monotonic()
        self._look_who_has_room(now, has_workers=has_workers)
        for start in [start for start in self._starts if now >= start.give_up]:
            self._starts.remove(start)
            kill(start.actor)
            self._count(self._too_slow(start))
        if hold:
            return
        due = [when for when in self._due if when <= now]
        self._due = [when for when in self._due if when > now]
        for _ in due:
            actor = start_actor(self._spec)
            self._starts.append(_Start(actor, actor.here.remote(), actor.ready.remote(), now + self._start_timeout_s))

    def _look_who_has_room(self, now: float, *, has_workers: bool) -> None:
        waiting = [start for start in self._starts if not start.has_room]
        settled_by_now = settled(start.here for start in waiting)
        for start in waiting:
            start.has_room = start.here in settled_by_now
            if start.has_room or has_workers:
                start.give_up = now + self._start_timeout_s

    def withdraw(self) -> None:
        """Ask for nobody beyond those that have room already: an autoscaler would bring nodes for them."""
        self._due.clear()
        answered = settled(start.here for start in self._starts)
        for start in [start for start in self._starts if start.here not in answered]:
            self._starts.remove(start)
            kill(start.actor)

    def joined(self) -> list[Member]:
        """Return the actors that became ready since the last call; others are asked for instead of the failed."""
        answered = settled(self.pending)
        ended = [start for start in self._starts if start.ready in answered]
        self._starts = [start for start in self._starts if start.ready not in answered]
        return [member for start in ended if (member := self._settle(start)) is not None]

    def _settle(self, start: _Start) -> Member | None:
        try:
            answer = ray.get(start.ready)
        except RayError as error:
            kill(start.actor)
            if (other := other_build(error)) is not None:
                raise other from error
            self.failed(judge(error, None, node_is_alive), error)
            return None
        if isinstance(answer, VersionMismatchError):
            kill(start.actor)
            raise answer  # another start would find the same, and what two builds make together nobody has tested
        if not isinstance(answer, WorkerPlace):
            kill(start.actor)
            self._count(answer)
            return None
        return Member(start.actor, answer, start.actor.watch.remote())

    def failed(self, verdict: Verdict, error: Exception | None) -> None:
        """Count an actor that died before its first unit; what a lost node took with it is nobody's failure.

        One that could not be reached counts: a network that lets nobody through must not be tried for ever.
        """
        if verdict.kind == "node-lost":
            self._due.append(time.monotonic() + _AFTER_NODE_LOSS_S)
            return
        cause = ConfigError(verdict.message, kind=verdict.kind)
        cause.__cause__ = error
        self._count(cause)

    def _count(self, cause: Exception) -> None:
        self._budget.failed(cause)
        if str(cause) not in self._said:
            self._said.add(str(cause))
            _log.warning("a worker could not be started: %s", cause)
        self.want_one()

    def _too_slow(self, start: _Start) -> ConfigError:
        if start.has_room:
            return ConfigError(
                f"a worker was not ready after {self._start_timeout_s:g} s",
                kind="start-timeout",
                hint="look at the worker's log in the Ray session folder",
            )
        return ConfigError(
            f"no node had room for a worker within {self._start_timeout_s:g} s (it asks for {self._spec})",
            kind="start-timeout",
            hint="ask for fewer or smaller workers, or give the cluster more nodes",
        )

    def close(self) -> None:
        """Kill what is starting and want nobody."""
        for start in self._starts:
            kill(start.actor)
        self._starts.clear()
        self._due.clear()
