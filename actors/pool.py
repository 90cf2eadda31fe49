"""The Ray pool: `ray.util.ActorPool` hands units to actors, this module keeps it truthful.

`ActorPool` alone queues without bound, gives work to dead actors after most errors, forgets queued work when all
actors are dead, and replaces nobody. So: submit only to an idle actor; one record per unit in flight; whatever an
error does not prove alive is killed and replaced; Ray itself restarts and retries nothing.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util import ActorPool

from actors.blame import lost_to_deadline
from actors.budget import StartBudget
from actors.build import this_build
from actors.calls import error_of, kill, settled
from actors.flight import Flight
from actors.node_watch import NodeWatch
from actors.recruiter import Recruiter
from actors.worker import WorkerSpec
from ingest.pool import Ended, UnitOutcome, unforeseen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ray import ObjectRef
    from ray.actor import ActorHandle

    from actors.flight import Member
    from actors.growth import Growth
    from ingest.pool import Lost, PoolEvent, Progress, UnitTask, WorkerFactory

__all__ = ["RayPool"]

_IDLE_S = 60.0
"""On a cluster, how long an actor may have nothing to do before it gives back its room."""

_log = logging.getLogger(__name__)

_SLICE_S = 0.2
"""Longest sleep in `wait`: how late a request to stop, a deadline or a due start is noticed."""


class RayPool:
    """Keep `size` actors at work; connect to Ray first.

    The actors start in the background; `wait` returns as soon as the first is ready.

    Parameters
    ----------
    factory
        Makes the worker inside each actor; of a module that is installed on the nodes.
    size
        Actors wanted; a dead one is replaced. With `growth`, the most there can be.
    num_cpus, memory_bytes, resources
        What the scheduler keeps free for one actor.
    growth
        On a cluster: ask for more while all have a unit, and for fewer once some have none.
    max_failed_starts
        Starts that may fail one after another, while no worker lives, before the pool gives up.
    start_timeout_s
        Seconds an actor may wait for room while no other works (a cluster may have to grow for it), and then take
        to be ready.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        size: int,
        *,
        num_cpus: float = 1,
        memory_bytes: int | None = None,
        resources: Mapping[str, float] | None = None,
        growth: Growth | None = None,
        max_failed_starts: int = 4,
        start_timeout_s: float = 600.0,
    ) -> None:
        if size < 1:
            raise ValueError(f"a pool of {size} workers")
        self._size = size
        self._budget = StartBudget(max_failed_starts)
        build = this_build(sources=growth is not None)  # else the workers are on this machine
        spec = WorkerSpec(factory, num_cpus, memory_bytes, resources or {}, build)
        self._recruiter = Recruiter(spec, self._budget, start_timeout_s)
        self._growth = growth
        self._pool: Any = ActorPool([])
        self._members: dict[ActorHandle[Any], Member] = {}
        self._flights: dict[ActorHandle[Any], Flight] = {}
        self._nodes = NodeWatch()
        self._stopping = False
        self._closed = False
        for _ in range(size if growth is None else growth.missing(working=0, coming=0)):
            self._recruiter.want_one()
        self._recruiter.launch(hold=False)

    @property
    def size(self) -> int:
        """Actors wanted."""
        return self._size

    @property
    def n_alive(self) -> int:
        """Actors that have started and are not known to be dead."""
        return len(self._members)

    def has_free(self) -> bool:
        """Whether a started, idle actor would take a unit now."""
        self._bury_idle()
        return bool(self._pool.has_free())

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:
        """Give `task` to an idle actor.

        Raises
        ------
        RuntimeError
            No actor is free: a mistake of the caller, ActorPool would queue the unit.
        """
        if not self._pool.has_free():
            raise RuntimeError("submit to a pool without a free worker")
        self._budget.worked()
        self._pool.submit(self._launch, (task, deadline_s))

    def _launch(self, actor: ActorHandle[Any], order: tuple[UnitTask, float]) -> ObjectRef[Any]:
        task, deadline_s = order
        flight = Flight.start(self._members[actor], task, deadline_s)
        self._flights[actor] = flight
        return flight.run

    def wait(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Block until units end, a worker becomes free or `timeout_s` is over; return what ended.

        Raises
        ------
        ConfigError
            Kind ``pool-start``: the budget of failed starts is spent and no worker lives; its cause says why.
            ``version-mismatch``: a node has another build of this package.
        TransientError
            Kind ``ray-lost``: no node is left, so no worker will ever start.
        """
        give_up = time.monotonic() + timeout_s
        while not self._closed:
            self._tend()
            joined = self._join()
            self._bury_idle()
            events = self._collect_ended()
            left = give_up - time.monotonic()
            if events or joined or left <= 0:
                return events
            self._sleep(min(left, _SLICE_S))
        return []

    def _tend(self) -> None:
        """Do what is due, without blocking."""
        now = time.monotonic()
        spent = self._budget.spent and not self._members
        if spent:
            self._recruiter.withdraw()  # who waits for room would be tried one after another
        if spent and not self._recruiter.pending:
            raise self._budget.error() from self._budget.cause
        self._nodes.look_for_life(now, has_workers=bool(self._members))
        self._look_who_leaves(now)
        self._adjust(now)
        self._recruiter.launch(hold=spent, has_workers=bool(self._members))
        flights = self._flights.values()
        answered = settled(flight.asked for flight in flights if flight.asked is not None)
        for flight in flights:
            stopping = self._stopping or flight.member.leaving
            flight.tend(now, stopping=stopping, answered=answered, n_flights=len(flights))

    def _adjust(self, now: float) -> None:
        """Ask a cluster for more actors while all have a unit; for none, and fewer, while there is nothing to do."""
        if self._growth is None:
            return
        idle = self._idle_members()
        if not idle and not self._stopping:
            missing = self._growth.missing(working=len(self._members), coming=self._recruiter.n_coming)
            for _ in range(missing):
                self._recruiter.want_one()
            return
        self._recruiter.withdraw()
        for member in idle:
            if now - member.idle_since > _IDLE_S and len(self._members) > 1:
                self._take_out(member.actor)
                kill(member.actor)

    def _look_who_leaves(self, now: float) -> None:
        """Have workers stop whose node is about to go: what they commit until then is kept, the rest made elsewhere."""
        self._nodes.look_who_leaves(now)
        for member in self._members.values():
            # That cannot be taken back, should the node stay after all.
            member.leaving = member.leaving or member.place.node_id in self._nodes.leaving

    def _join(self) -> bool:
        members = self._recruiter.joined()
        for member in members:
            self._members[member.actor] = member
            self._pool.push(member.actor)
        return bool(members)

    def _sleep(self, seconds: float) -> None:
        """Sleep up to `seconds`, until anything happens that `wait` looks at."""
        calls = [flight.run for flight in self._flights.values()] + self._recruiter.pending
        calls += [member.watch for member in self._idle_members()]
        if calls:
            ray.wait(calls, num_returns=1, timeout=seconds, fetch_local=False)
        else:
            time.sleep(seconds)

    def progress(self) -> Sequence[Progress]:
        """Return what busy workers last said; `wait` does the asking."""
        return [flight.latest for flight in list(self._flights.values()) if flight.latest is not None]

    def stop_soon(self) -> None:
        """Ask workers to end after the chunk in hand; only sets a flag, `wait` delivers it."""
        self._stopping = True

    def close(self) -> None:
        """Kill all actors."""
        self._closed = True
        self._recruiter.close()
        for actor in self._members:
            kill(actor)
        self._pool = ActorPool([])
        self._members.clear()
        self._flights.clear()

    def _collect_ended(self) -> list[PoolEvent]:
        events: list[PoolEvent] = []
        while self._pool.has_next():
            try:
                events.append(self._next_ended())
            except TimeoutError:
                break
        return events

    def _next_ended(self) -> PoolEvent:
        """Take one ended unit from ActorPool, whose state differs after each kind of error.

        Raises ``TimeoutError`` when none has ended.
        """
        try:
            outcome: UnitOutcome = self._pool.get_next_unordered(timeout=0)
        except ActorDiedError as error:  # evicted already
            return self._lose(self._flight_of(error), error)
        except RayTaskError as error:  # alive: the task or its outcome did not survive the journey
            actor = self._take_returned()
            self._pool.push(actor)
            task = self._flights.pop(actor).task
            failure = unforeseen(task.chunks, error.cause, lines=str(error))
            return Ended(task, UnitOutcome(task.unit_id, done=(), failures=(failure,)))
        except RayError as error:  # put back, dead or alive
            return self._lose(self._flights[self._take_returned()], error)
        flight = next(flight for flight in self._flights.values() if flight.task.unit_id == outcome.unit_id)
        del self._flights[flight.member.actor]
        flight.member.idle_since = time.monotonic()
        if outcome.worker_is_spent:
            self._retire(flight.member)
        return Ended(flight.task, outcome)

    def _retire(self, member: Member) -> None:
        """End an idle worker and ask for another."""
        self._take_out(member.actor)
        kill(member.actor)
        self._recruiter.want_one()

    def _take_returned(self) -> ActorHandle[Any]:
        """Take out the actor that `get_next_unordered` put back before it raised: its idle list is a stack."""
        actor: ActorHandle[Any] = self._pool.pop_idle()
        return actor

    def _flight_of(self, error: ActorDiedError) -> Flight:
        """Return the flight that `error` ended; when it names no actor, any whose run ended likewise will do."""
        flights = list(self._flights.values())
        for flight in flights:
            if flight.member.place.actor_id == error.actor_id:
                return flight
        ended = settled(flight.run for flight in flights)
        return next(f for f in flights if f.run in ended and isinstance(error_of(f.run), ActorDiedError))

    def _lose(self, flight: Flight, error: RayError) -> Lost:
        member = flight.member
        del self._flights[member.actor], self._members[member.actor]
        kill(member.actor)
        self._recruiter.want_one()
        if flight.overdue:
            return lost_to_deadline(flight.task, member.place, flight.deadline_s)
        return self._nodes.judge(error, member.place).lost(flight.task)

    def _idle_members(self) -> list[Member]:
        return [member for member in self._members.values() if member.actor not in self._flights]

    def _bury_idle(self) -> None:
        """Take out and replace actors that died between units: they must not be handed any.

        One whose node another actor was seen to go with is dead before its own watch says so. One whose node is about
        to go leaves it.
        """
        idle = self._idle_members()
        dead = settled(member.watch for member in idle)
        for member in idle:
            if member.watch in dead:
                self._replace_idle(member, error_of(member.watch) or ActorDiedError())
            elif member.place.node_id in self._nodes.lost:
                self._replace_idle(member, ActorDiedError())
            elif member.leaving:
                self._retire(member)

    def _take_out(self, actor: ActorHandle[Any]) -> None:
        others = []
        while (idle := self._pool.pop_idle()) is not None:
            if idle != actor:
                others.append(idle)
        for idle in others:
            self._pool.push(idle)
        del self._members[actor]

    def _replace_idle(self, member: Member, error: RayError) -> None:
        self._take_out(member.actor)
        verdict = self._nodes.judge(error, member.place)
        kill(member.actor)
        if member.used or verdict.blame == "infrastructure":
            _log.warning("an idle worker is replaced: %s", verdict.message)
            self._recruiter.want_one()
        else:
            self._recruiter.failed(verdict, error)
