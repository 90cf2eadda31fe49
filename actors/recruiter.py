"""Starting actors: how many are missing, who has answered, when to try again, when to give up."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.blame import judge, node_is_alive
from actors.calls import kill, settled
from actors.flight import Member
from actors.worker import WorkerPlace, start_actor
from ingest.errors import ConfigError

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
    ready: ObjectRef[Any]
    give_up: float


class Recruiter:
    """Bring in one actor for each that is missing, and no more.

    Parameters
    ----------
    spec
        What to start.
    budget
        Counts failed starts; shared with the pool, which reports what worked.
    start_timeout_s
        Seconds an actor may take to be scheduled and ready.
    """

    def __init__(self, spec: WorkerSpec, budget: StartBudget, start_timeout_s: float) -> None:
        self._spec = spec
        self._budget = budget
        self._start_timeout_s = start_timeout_s
        self._due: list[float] = []
        self._starts: list[_Start] = []

    @property
    def pending(self) -> list[ObjectRef[Any]]:
        """The calls that settle when a starting actor has something to say."""
        return [start.ready for start in self._starts]

    def want_one(self) -> None:
        """Ask for one more actor, after the budget's delay."""
        self._due.append(time.monotonic() + self._budget.delay_s)

    def launch(self, *, hold: bool) -> None:
        """Start what is due, unless `hold`, and give up on starts that take too long."""
        now = time.monotonic()
        for start in [start for start in self._starts if now >= start.give_up]:
            self._starts.remove(start)
            kill(start.actor)
            self._count(self._too_slow())
        if hold:
            return
        due = [when for when in self._due if when <= now]
        self._due = [when for when in self._due if when > now]
        for _ in due:
            actor = start_actor(self._spec)
            self._starts.append(_Start(actor, actor.ready.remote(), now + self._start_timeout_s))

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
            self.failed(judge(error, None, node_is_alive), error)
            return None
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
        _log.warning("a worker could not be started: %s", cause)
        self.want_one()

    def _too_slow(self) -> ConfigError:
        spec = self._spec
        wants = f"{spec.num_cpus:g} CPU" + (f" and {spec.memory_bytes:,} bytes" if spec.memory_bytes else "")
        return ConfigError(
            f"a worker was not ready after {self._start_timeout_s:g} s (it asks for {wants})",
            kind="start-timeout",
            hint="ask for fewer or smaller workers, or give the cluster more nodes",
        )

    def close(self) -> None:
        """Kill what is starting and want nobody."""
        for start in self._starts:
            kill(start.actor)
        self._starts.clear()
        self._due.clear()
