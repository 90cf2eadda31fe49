"""Which unit runs next and what its end means: a state machine without clock, threads or I/O.

Two budgets: trouble blamed on the unit (it crashes workers, runs out of memory, misses its deadline) cuts it
smaller, then runs it alone, then quarantines the chunk; trouble of the infrastructure (node lost, store down) is
waited out and never blamed on a chunk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ingest.pool import Ended, Failure, Lost, UnitTask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ingest.pool import PoolEvent

__all__ = ["Policy", "Scheduler", "Settled"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How often what is tried again."""

    blamed: int = 3
    """Times that a lone chunk may cost a worker before it is quarantined."""
    passing: int = 4
    """Times that a chunk may meet transient trouble that outlasted the worker's own retries."""
    infrastructure: int = 10
    """Times that a unit may be lost, or come back untouched, through no fault of its own."""
    barren: int = 8
    """Ended units in a row without one finished chunk, all of them transient trouble: the store or source is down."""
    first_s: float = 1.0
    most_s: float = 60.0
    longest_hold_s: float = 900.0
    """What a server may wish for at most: one that says "tomorrow" must end the run, not silence it."""


@dataclass(slots=True)
class _Work:
    """Chunks that must still be made, together, with their history."""

    chunks: tuple[int, ...]
    blamed: int = 0
    passing: int = 0
    lost: int = 0
    not_before: float = 0.0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """What one event came to."""

    done: tuple[int, ...] = ()
    adopted: tuple[int, ...] = ()
    failures: tuple[Failure, ...] = ()
    """To be recorded, one a cause."""
    retried: int = 0
    """Chunks that will be tried again."""


@dataclass(slots=True)
class _State:
    done: set[int] = field(default_factory=set)
    quarantined: dict[int, Failure] = field(default_factory=dict)
    gave_up: dict[int, Failure] = field(default_factory=dict)


class Scheduler:
    """Every chunk handed in ends as done, quarantined, given up, or left (when the run stops early).

    Parameters
    ----------
    units
        Chunks of each unit, in the order in which they should start.
    run_id
        Begins the identifier of every attempt.
    policy
        Budgets.
    draw
        Uniform in [0, 1): jitter.
    """

    def __init__(
        self, units: Iterable[Sequence[int]], *, run_id: str, policy: Policy | None = None, draw: Callable[[], float]
    ) -> None:
        self._policy = policy or Policy()
        self._run_id, self._draw = run_id, draw
        self._fresh = deque(_Work(tuple(chunks)) for chunks in units)
        self._again: list[_Work] = []
        self._in_flight: dict[int, _Work] = {}
        self._unit_ids = 0
        self._hold_until = 0.0
        self._barren = 0
        self._state = _State()
        self.fatal: Failure | None = None
        """Nothing further is started: the run must stop, and this says why."""

    # -- views -----------------------------------------------------------------------------------------------------

    @property
    def done(self) -> Collection[int]:
        """Chunks that exist through this run."""
        return self._state.done

    @property
    def quarantined(self) -> dict[int, Failure]:
        """Chunks that will not be tried again by this run, with the proof against them."""
        return self._state.quarantined

    @property
    def gave_up(self) -> dict[int, Failure]:
        """Chunks whose transient trouble outlasted its budget; a later run may well make them."""
        return self._state.gave_up

    @property
    def n_in_flight(self) -> int:
        """Units that a worker has."""
        return len(self._in_flight)

    @property
    def n_waiting(self) -> int:
        """Units that no worker has yet, those to be tried again included."""
        return len(self._fresh) + len(self._again)

    @property
    def finished(self) -> bool:
        """Whether nothing is in flight and nothing may start."""
        return not self._in_flight and (self.fatal is not None or not (self._fresh or self._again))

    # -- transitions -----------------------------------------------------------------------------------------------

    def next(self, now: float) -> UnitTask | None:
        """Hand out the next unit, or None when none may start now."""
        if self.fatal is not None or now < self._hold_until or self._runs_alone():
            return None
        work = self._pick(now)
        if work is None:
            return None
        self._unit_ids += 1
        self._in_flight[self._unit_ids] = work
        return UnitTask(self._unit_ids, work.chunks, f"{self._run_id}-{self._unit_ids:07d}")

    def _runs_alone(self) -> bool:
        return any(work.alone for work in self._in_flight.values())

    def _pick(self, now: float) -> _Work | None:
        while self._fresh:
            work = self._fresh.popleft()
            # What was forgotten meanwhile is left out here: going through all units for every forgotten chunk is not.
            work.chunks = self._unsettled(work)
            if work.chunks:
                return work
        for at, work in enumerate(self._again):
            # A suspect runs while nothing else does: then what it kills is its own doing.
            if work.not_before <= now and not (work.alone and self._in_flight):
                return self._again.pop(at)
        return None

    def forget(self, chunks: Collection[int]) -> None:
        """Drop chunks that exist already: somebody else made them, or a worker that died before it could tell."""
        gone = set(chunks)
        for held_against in (self._state.quarantined, self._state.gave_up):
            for chunk in gone & held_against.keys():
                del held_against[chunk]
        self._state.done |= gone
        for work in self._again:
            work.chunks = self._unsettled(work)
        self._again = [work for work in self._again if work.chunks]

    def settle(self, event: PoolEvent, now: float) -> Settled:
        """Take the end of a unit; an event for a unit that is not in flight changes nothing."""
        work = self._in_flight.pop(event.task.unit_id, None)
        if work is None:
            return Settled()
        if isinstance(event, Lost):
            return self._lost(work, event, now)
        return self._ended(work, event, now)

    def _ended(self, work: _Work, event: Ended, now: float) -> Settled:
        outcome, failures = event.outcome, list(event.outcome.failures)
        reported, left = frozenset(outcome.done), frozenset(outcome.undone)
        done = tuple(chunk for chunk in work.chunks if chunk in reported)
        self._state.done.update(done)
        unsettled = self._unsettled(work)
        retried = 0
        for failure in failures:
            # A worker's word counts for the chunks of its unit, and once.
            named = frozenset(failure.chunks)
            its = tuple(chunk for chunk in unsettled if chunk in named)
            unsettled = tuple(chunk for chunk in unsettled if chunk not in named)
            if its or failure.handling == "config":
                retried += self._fail(work, replace(failure, chunks=its), now)
        undone = tuple(chunk for chunk in unsettled if chunk in left)
        if undone and done:
            self._again.append(_Work(undone, work.blamed, work.passing, work.lost, now, work.alone))
        elif undone:
            why = Failure(undone, "transient", "left-undone", f"workers left {len(undone):,} chunks undone every time")
            retried += self._wait_out(work, why, now)
        # Completeness is never inferred: a chunk that the outcome does not mention is made again.
        if missing := tuple(chunk for chunk in unsettled if chunk not in left):
            failures.append(Failure(missing, "internal", "unmentioned", "the worker's report leaves out chunks"))
            retried += self._suspect(_Work(missing, work.blamed + 1), failures[-1], now)
        self._judge_barren(done, outcome.failures)
        return Settled(done, outcome.adopted, tuple(failures), retried)

    def _unsettled(self, work: _Work) -> tuple[int, ...]:
        return tuple(chunk for chunk in work.chunks if chunk not in self._state.done)

    def _fail(self, work: _Work, failure: Failure, now: float) -> int:
        """Act on one failure; return how many chunks will be tried again."""
        if failure.handling == "config":
            self.fatal = self.fatal or failure
            return 0
        if failure.handling in {"source", "conflict"}:
            self._quarantine(failure.chunks, failure)
            return 0
        if failure.handling in {"internal", "exhausted"}:
            return self._suspect(_Work(failure.chunks, work.blamed + 1), failure, now)
        if failure.retry_after_s is not None:
            wish = min(failure.retry_after_s, self._policy.longest_hold_s)
            self._hold_until = max(self._hold_until, now + wish)
        if work.passing + 1 >= self._policy.passing:
            self._state.gave_up.update(dict.fromkeys(failure.chunks, failure))
            return 0
        due = now + self._delay_s(work.passing + 1)
        self._again.append(_Work(failure.chunks, work.blamed, work.passing + 1, work.lost, due, work.alone))
        return len(failure.chunks)

    def _lost(self, work: _Work, event: Lost, now: float) -> Settled:
        failure = Failure(self._unsettled(work), "internal", event.kind, event.message)
        if not failure.chunks:
            return Settled()
        if event.blame == "unit":
            retried = self._suspect(_Work(failure.chunks, work.blamed + 1), failure, now)
        else:
            retried = self._wait_out(work, failure, now)
        return Settled(failures=(failure,), retried=retried)

    def _wait_out(self, work: _Work, failure: Failure, now: float) -> int:
        """Try the chunks of `failure` again: nothing is wrong with them."""
        if work.lost + 1 >= self._policy.infrastructure:
            self._state.gave_up.update(dict.fromkeys(failure.chunks, failure))
            return 0
        due = now + self._delay_s(work.lost + 1)
        self._again.append(_Work(failure.chunks, work.blamed, work.passing, work.lost + 1, due, work.alone))
        return len(failure.chunks)

    def _suspect(self, work: _Work, failure: Failure, now: float) -> int:
        """Cut a unit that costs workers in two; a lone chunk runs alone, then is quarantined."""
        due = now + self._delay_s(work.blamed)
        if len(work.chunks) > 1:
            middle = len(work.chunks) // 2
            # Each half starts with a clean record but one: the other half may be the guilty one.
            for part in (work.chunks[:middle], work.chunks[middle:]):
                self._again.append(_Work(part, 1, not_before=due))
        elif work.blamed >= self._policy.blamed:
            self._quarantine(work.chunks, failure)
            return 0
        else:
            self._again.append(_Work(work.chunks, work.blamed, not_before=due, alone=True))
        return len(work.chunks)

    def _quarantine(self, chunks: Iterable[int], failure: Failure) -> None:
        self._state.quarantined.update(dict.fromkeys(chunks, failure))

    def _judge_barren(self, done: tuple[int, ...], failures: Sequence[Failure]) -> None:
        if done or not failures or any(failure.handling != "transient" for failure in failures):
            self._barren = 0
            return
        self._barren += 1
        if self._barren >= self._policy.barren:
            self.fatal = self.fatal or failures[-1]

    def _delay_s(self, failed: int) -> float:
        """Exponential with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015)."""
        return self._draw() * min(self._policy.most_s, self._policy.first_s * 2.0 ** (failed - 1))
