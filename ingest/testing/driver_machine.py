"""Drivers of one DEST against a model of it: any interleaving, any death, another plan, and the same end.

::

    python -m ingest.testing.driver_machine --examples 500 --steps 100

Drivers come and go, go on by single operations on the store, are killed, interrupted, told of losses; their workers
are killed, believed lost while they go on, meet lost requests and lost replies; some find a source at fault, and of
these some amend the plan while others are at it. After every step everything that has
changed in DEST must have been allowed to (`ingest.testing.driver_stage.Model`). Whoever ends undisturbed must have
finished the dataset, or been refused because DEST holds another plan; and in the end one undisturbed driver finishes
whatever is there, but for a chunk that somebody left whole and without a receipt before another amended it.
"""

# ruff: noqa: S101  # assert is how pytest speaks

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ingest.cli.style import Command
from ingest.errors import ForeignPlanError, IngestError, TransientError
from ingest.opened import open_plan
from ingest.testing.driver_stage import BAD, N_ENCODINGS, Stage, make_piece, no_pauses
from ingest.testing.faults import DiedError
from ingest.testing.memory_store import MemoryStore
from ingest.verifying import verify_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.testing.driver_stage import Actor, Piece
    from ingest.testing.puppets import Mishap, Puppet

__all__ = ["driver_machine", "make_pieces", "run_machine"]

_MOST_DRIVERS = 3
_ANY = st.integers(0, 11)
"""Which of those who are there, counted round."""
_STEPS = st.integers(1, 12)
_WORK = st.integers(1, 3)
"""Few: a chunk is two operations, and what is left between them is what others have to cope with."""
_MISHAPS = st.sampled_from(("lose-request", "lose-reply", "tried-again"))


def _rarely(one_in: int) -> st.SearchStrategy[bool]:
    """Draw True once in so many times."""
    return st.sampled_from((False,) * (one_in - 1) + (True,))


def make_pieces(folder: Path) -> tuple[Piece, Piece]:
    """Make the plan that most drivers bring, and another of the same cells."""
    return make_piece(folder / "one", cells_per_chunk=2), make_piece(folder / "other", cells_per_chunk=3)


def driver_machine(pieces: Sequence[Piece]) -> type[RuleBasedStateMachine]:
    """Return the state machine over drivers that bring `pieces`.

    Run it by `run_machine`, or by ``hypothesis.stateful.run_state_machine_as_test`` within `no_pauses`.
    """

    class DriverMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.stage = Stage(pieces)
            self.last_encoding = 0
            """Of the one who finishes: another than that of the one who came last, whose leavings it adopts."""

        # -- drivers -----------------------------------------------------------------------------------------------

        @precondition(lambda self: len(self.stage.actors) < _MOST_DRIVERS)
        @rule(
            piece=st.sampled_from((0,) * 7 + (1,)),
            size=st.integers(1, 2),
            encoding=st.integers(0, N_ENCODINGS - 1),
            bad=st.sampled_from((frozenset(),) * 3 + (frozenset({BAD}),)),
            leaves_out=st.booleans(),
        )
        def arrive(self, piece: int, size: int, encoding: int, bad: frozenset[int], leaves_out: bool) -> None:
            self.stage.enter(piece, size=size, encoding=encoding, bad=bad, leaves_out=leaves_out)
            self.last_encoding = N_ENCODINGS - 1 - encoding

        @precondition(lambda self: self.stage.actors)
        @rule(which=_ANY, steps=_STEPS)
        def go_on(self, which: int, steps: int) -> None:
            self._go_on(self._actor(which), steps)

        @precondition(lambda self: self.stage.actors)
        @rule(steps=_STEPS)
        def all_go_on(self, steps: int) -> None:
            for _ in range(steps):
                for puppet in (*(actor.puppet for actor in self.stage.actors), *self.stage.workers()):
                    puppet.step()
            self._judge()

        @precondition(lambda self: self.stage.actors)
        @rule(which=_ANY, mishap=_MISHAPS, rare=_rarely(2))
        def meet_a_mishap(self, which: int, mishap: Mishap, rare: bool) -> None:
            actor = self._actor(which)
            actor.disturbed = actor.disturbed or (rare and mishap != "tried-again")
            actor.puppet.step(mishap if rare else None)
            self._judge()

        @precondition(lambda self: self.stage.actors)
        @rule(which=_ANY, rare=_rarely(4))
        def be_killed(self, which: int, rare: bool) -> None:
            if rare:
                self._actor(which).puppet.kill()
            self._go_on(self._actor(which) if self.stage.actors else None, 1)

        @precondition(lambda self: self.stage.actors)
        @rule(which=_ANY, rare=_rarely(6))
        def be_interrupted(self, which: int, rare: bool) -> None:
            actor = self._actor(which)
            if rare:
                actor.interrupted = actor.disturbed = True
            self._go_on(actor, 1)

        @precondition(lambda self: self.stage.actors)
        @rule(which=_ANY, rare=_rarely(12))
        def go_on_to_the_end(self, which: int, rare: bool) -> None:
            if rare:
                self.stage.perform(self._actor(which))
            self._judge()

        # -- workers -----------------------------------------------------------------------------------------------

        @precondition(lambda self: self.stage.workers())
        @rule(which=_ANY, steps=_WORK)
        def work(self, which: int, steps: int) -> None:
            worker = self._worker(which)
            for _ in range(steps):
                worker.step()

        @precondition(lambda self: self.stage.workers())
        @rule(which=_ANY, mishap=_MISHAPS)
        def work_amiss(self, which: int, mishap: Mishap) -> None:
            worker = self._worker(which)
            owner = self.stage.owner(worker)
            if owner is not None and mishap != "tried-again":
                owner.losses["mishap"] += 1
            worker.step(mishap)

        @precondition(lambda self: self.stage.workers())
        @rule(which=_ANY, blame=st.sampled_from(("unit", "infrastructure")), dead=st.booleans())
        def lose_a_worker(self, which: int, blame: Literal["unit", "infrastructure"], dead: bool) -> None:
            worker = self._worker(which)
            owner = self.stage.owner(worker)
            if owner is not None and owner.pool is not None:
                owner.losses[blame] += 1
                owner.pool.lose(worker, blame)
            if dead:
                worker.kill()

        # -- what must hold ----------------------------------------------------------------------------------------

        @invariant()
        def nothing_has_changed_that_must_not(self) -> None:
            assert self.stage.model.wrongs == []

        def teardown(self) -> None:
            try:
                self._end_well()
            finally:
                self.stage.clear()

        def _end_well(self) -> None:
            for worker in self.stage.workers()[::2]:  # the others stay behind and go on afterwards
                worker.kill()
            for actor in self.stage.actors:
                actor.puppet.kill()
            self._judge()
            model = self.stage.model
            piece = pieces.index(model.piece) if model.piece is not None else 0
            last = self.stage.enter(piece, size=2, encoding=self.last_encoding)
            self.stage.perform(last)
            self._judge()
            assert model.complete or model.stuck
            for worker in self.stage.workers():
                while not worker.over:
                    worker.step()
            assert model.wrongs == []
            assert verify_dataset(open_plan(MemoryStore(self.stage.objects)), deep=True).exit_code == 0

        def _go_on(self, actor: Actor | None, steps: int) -> None:
            for _ in range(steps):
                if actor is not None:
                    actor.puppet.step()
            self._judge()

        def _judge(self) -> None:
            for actor in self.stage.leave():
                self._judge_end(actor)

        def _judge_end(self, actor: Actor) -> None:
            model, error = self.stage.model, actor.puppet.error
            if isinstance(error, DiedError):
                return
            if isinstance(error, ForeignPlanError):
                assert model.piece is not None
                assert model.piece is not actor.piece, error
                return
            if isinstance(error, TransientError):
                assert actor.disturbed, error
                return
            if isinstance(error, IngestError) and model.piece is not actor.piece:
                return  # refused, in other words
            assert error is None, repr(error)
            code = actor.puppet.result.exit_code
            assert model.piece is actor.piece
            if code == 0:
                assert model.complete
            else:
                assert actor.excused or self._meets_another(actor), code

        def _meets_another(self, actor: Actor) -> bool:
            """Say whether one driver made a chunk whole and another without what is bad, neither with a receipt yet."""
            driven = actor.puppet.result.driven
            return self.stage.model.amended and any(f.handling == "conflict" for f in driven.quarantined.values())

        def _actor(self, which: int) -> Actor:
            return self.stage.actors[which % len(self.stage.actors)]

        def _worker(self, which: int) -> Puppet:
            workers = self.stage.workers()
            return workers[which % len(workers)]

    return DriverMachine


def run_machine(pieces: Sequence[Piece], *, examples: int, steps: int, shrink: bool = False) -> None:
    """Run so many histories of so many steps each; raise what the first wrong one raised."""
    phases = (Phase.explicit, Phase.generate, *((Phase.shrink,) if shrink else ()))
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    with no_pauses():
        run_state_machine_as_test(driver_machine(pieces), settings=chosen)


@click.command(
    cls=Command,
    examples=(
        "python -m ingest.testing.driver_machine --examples 50 --steps 50",
        "python -m ingest.testing.driver_machine --examples 500 --steps 100 --shrink",
    ),
)
@click.option("--examples", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Histories.")
@click.option("--steps", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Steps of each.")
@click.option("--shrink", is_flag=True, help="Look for the shortest wrong history.")
def main(*, examples: int, steps: int, shrink: bool) -> None:
    """Let drivers race, die and be joined by others on one DEST, and hold all they do against a model of it.

    Exit code 1 with the history when something is not as the model says.
    """
    with tempfile.TemporaryDirectory(prefix="drivers-") as folder:
        try:
            run_machine(make_pieces(Path(folder)), examples=examples, steps=steps, shrink=shrink)
        except AssertionError as error:
            click.echo("\n".join((*getattr(error, "__notes__", ()), f"wrong: {error}")), err=True)
            sys.exit(1)
    click.echo(f"{examples:,} histories of up to {steps:,} steps: as the model has it", err=True)


if __name__ == "__main__":
    main()
