"""Real drivers and the workers' commits on one DEST in memory, each a puppet: what a state machine pulls strings of.

A driver is all that ``run`` does after drafting: the plan is committed or refused, work is divided, units are driven,
the dataset is finished; one that leaves out what is bad amends the plan then, and goes on. A worker claims a unit and
commits chunks that were made beforehand: fetching and encoding have tests of their own, and would be most of the time.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from ingest.amendments import Amendment, LeftOut
from ingest.cells import read_cells
from ingest.chunks import MadeChunk, commit_chunk
from ingest.committing import commit_plan
from ingest.documents import parse
from ingest.driver import drive
from ingest.encode.base import Encoded
from ingest.encode.open import open_codec
from ingest.errors import IngestError, SourceError, TransientError
from ingest.layout import AMENDMENTS, PLAN_KEY, RECEIPTS, SUCCESS_KEY, receipt_chunks
from ingest.ledger.ledger import Ledger
from ingest.ledger.receipts import parse_receipt
from ingest.opened import open_plan
from ingest.plan import parse_plan
from ingest.pool import Ended, Lost, UnitOutcome
from ingest.preparing import divide_work, draft_dataset
from ingest.running import run_plan
from ingest.schedule import Policy
from ingest.settings import DataSettings, WorkSettings
from ingest.testing.datasets import SilentObserver, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.memory_store import MemoryObjects, MemoryStore
from ingest.testing.puppets import Puppet, PuppetStore
from ingest.unit_maker import failure_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ingest.opened import OpenPlan
    from ingest.planning import Draft
    from ingest.pool import Failure, Pool, PoolEvent, Progress, SizedFactory, UnitTask
    from ingest.running import RunReport
    from ingest.testing.memory_store import Change

__all__ = ["BAD", "Actor", "Model", "Piece", "Stage", "make_piece", "no_pauses"]

N_ENCODINGS = 2
"""Ways in which a chunk's bytes are made: equal cells, other bytes, as from another image or CPU."""

BAD = 1
"""The chunk whose source some drivers find at fault."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What one plan's drivers play: the draft, and all its chunks ready made."""

    draft: Draft
    made: tuple[Mapping[int, MadeChunk], ...]
    """By encoding."""
    digest: str
    """Of the finished dataset."""
    without: tuple[Mapping[int, MadeChunk], ...]
    """By encoding: chunk `BAD` as an amendment lets it be, without the rows of its first source."""
    digest_without: str
    """Of the finished dataset that has it so."""
    amendment: Amendment
    """What lets it."""

    @property
    def n_chunks(self) -> int:
        """Of the plan."""
        return self.draft.plan.n_chunks


def make_piece(folder: Path, *, cells_per_chunk: int) -> Piece:
    """Draft a plan for two files of six cells, which are made in `folder`, and run it for its chunks."""
    files = write_sources(folder, n_files=2, n_cells=6, n_genes=4)
    cells = read_cells(write_h5ad_index(folder / "index.feather", files))
    work = WorkSettings(workers=1)
    draft = draft_dataset(cells, DataSettings(cells_per_chunk=cells_per_chunk), work, cache=None)
    made, digest = _make_all(draft, work)
    source, n_cells = made[0][BAD].entry.sources[0]
    left_out = LeftOut(source, "nan", "they say", ((BAD, n_cells),))
    amendment = Amendment(draft.plan.identity.digest, "some", (left_out,))
    without, digest_without = _make_all(draft, work, amendment)
    if any(made[0][n].entry.sha256 == made[1][n].entry.sha256 for n in made[0]):
        raise RuntimeError("two encodings must differ in bytes")
    return Piece(draft, made, digest, tuple({BAD: each[BAD]} for each in without), digest_without, amendment)


def _make_all(
    draft: Draft, work: WorkSettings, amendment: Amendment | None = None
) -> tuple[tuple[Mapping[int, MadeChunk], ...], str]:
    stores = [_run_once(draft, work, level, amendment) for level in range(1, 1 + N_ENCODINGS)]
    digests = {str(parse(store.get(SUCCESS_KEY), key=SUCCESS_KEY)["digest"]) for store in stores}
    if len(digests) != 1:
        raise RuntimeError("two encodings must differ in bytes alone")
    return tuple(_made_chunks(store) for store in stores), digests.pop()


def _run_once(draft: Draft, work: WorkSettings, level: int, amendment: Amendment | None) -> MemoryStore:
    store = MemoryStore()

    def open_leveled(format_name: str, codec: str, _: int, *, threads: int, about: Mapping[str, Any] | None) -> Any:
        return open_codec(format_name, codec, level, threads=threads, about=about)

    with (
        mock.patch("ingest.worker.open_store", return_value=store),
        mock.patch("ingest.worker.open_codec", open_leveled),
    ):
        opened = commit_plan(store, draft)
        if amendment is not None:
            opened.ledger.amend(amendment)
            opened = open_plan(store)
        divided = divide_work(draft.profile, opened, (), work)
        run_plan(opened, divided, work, open_serial_pool, SilentObserver(), stop_requested=lambda: False)
    return store


def _made_chunks(store: MemoryStore) -> dict[int, MadeChunk]:
    found = {}
    for receipt in open_plan(store).ledger.receipts():
        for entry in receipt.chunks:
            encoded = Encoded(store.get(entry.key), entry.offsets, entry.content, entry.dtype)
            found[entry.chunk] = MadeChunk(encoded, entry)
    return found


# -- what may become of DEST ---------------------------------------------------------------------------------------


class Model:
    """What DEST must be like after any history; told of every change, it keeps those that must not be.

    Parameters
    ----------
    pieces
        The plans that may arrive.
    objects
        What is watched.
    """

    def __init__(self, pieces: Sequence[Piece], objects: MemoryObjects) -> None:
        self._pieces, self._objects = pieces, objects
        objects.on_change = self._take
        self.piece: Piece | None = None
        """Whose plan DEST holds."""
        self.done: set[int] = set()
        """Chunks with a receipt."""
        self.finished = False
        self.wrongs: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether every chunk exists and the dataset says so."""
        return self.piece is not None and self.finished and self.done == set(range(self.piece.n_chunks))

    @property
    def amended(self) -> bool:
        """Whether chunk `BAD` may lack rows."""
        return any(key.startswith(AMENDMENTS) for key in self._objects.data)

    @property
    def stuck(self) -> bool:
        """Whether chunk `BAD` is left whole and without a receipt, and may lack rows: only `repair` replaces it."""
        if self.piece is None or not self.amended or BAD in self.done:
            return False
        return self._is_whole(self.piece)

    def _is_whole(self, piece: Piece) -> bool:
        there = self._objects.data.get(piece.made[0][BAD].entry.key)
        return any(made[BAD].encoded.data == there for made in piece.made)

    def _take(self, change: Change, key: str, data: bytes) -> None:
        wrong = self._wrong(change, key, data)
        if wrong:
            self.wrongs.append(f"{change} {key}: {wrong}")

    def _wrong(self, change: Change, key: str, data: bytes) -> str | None:
        if change == "delete":
            return "nothing is deleted by a run"
        if change == "replace" and key.startswith(("_ingest/", "chunks/")):
            return "only summaries are replaced"
        if key == PLAN_KEY:
            return self._wrong_plan(data)
        if key.startswith("_ingest/") and not key.startswith(RECEIPTS):
            return None
        if self.piece is None:
            return "there is no plan yet"
        if key.startswith(RECEIPTS):
            return self._wrong_receipt(self.piece, key, data)
        return self._wrong_success(self.piece, data) if key == SUCCESS_KEY else None

    def _wrong_plan(self, data: bytes) -> str | None:
        plan = parse_plan(data)
        self.piece = next(one for one in self._pieces if one.draft.plan.identity.digest == plan.identity.digest)
        missing = [key for key in plan.files.values() if key not in self._objects.data]
        return f"it names {missing}, which are not there" if missing else None

    def _wrong_receipt(self, piece: Piece, key: str, data: bytes) -> str | None:
        receipt, (chunk,) = parse_receipt(data, key=key), receipt_chunks(key) or (-1,)
        entry = receipt.chunks[0]
        truths = [made[chunk] for made in piece.made]
        if self.amended:
            truths += [made[chunk] for made in piece.without if chunk in made]
        there = self._objects.data.get(entry.key)
        self.done.add(chunk)
        if there is None or all(truth.encoded.data != there for truth in truths):
            return "its object is not there, or another"
        right = next(truth for truth in truths if truth.encoded.data == there)
        if entry.sha256 != right.entry.sha256 or (entry.rows, entry.content) != (right.entry.rows, right.entry.content):
            return "it says something else than the object it names"
        return None if receipt.plan == piece.draft.plan.identity.digest else "it is of another plan"

    def _wrong_success(self, piece: Piece, data: bytes) -> str | None:
        self.finished = True
        if self.done != set(range(piece.n_chunks)):
            return f"only {sorted(self.done)} are there"
        digest = piece.digest if self._is_whole(piece) else piece.digest_without
        return None if digest in data.decode() else "another digest"


# -- who plays -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Actor:
    """A driver with its workers."""

    piece: Piece
    puppet: Puppet = field(init=False)
    encoding: int = 0
    bad: frozenset[int] = frozenset()
    """Chunks that its workers cannot make: their sources are at fault, they say."""
    leaves_out: bool = False
    """It amends the plan by what is bad, and makes these chunks without."""
    pool: _StagePool | None = None
    interrupted: bool = False
    disturbed: bool = False
    """It was interrupted, or an operation of its own went wrong."""
    losses: Counter[str] = field(default_factory=Counter)
    """By blame: workers that it was told are gone; ``mishap``: operations of workers that went wrong."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self.puppet.over

    @property
    def excused(self) -> bool:
        """Whether it may end without having finished: budgets of `ingest.schedule.Policy` may be spent."""
        policy = Policy()
        spent = {"unit": policy.blamed, "infrastructure": policy.infrastructure, "mishap": policy.passing}
        stays_bad = bool(self.bad) and not self.leaves_out
        return self.disturbed or stays_bad or any(self.losses[name] >= most - 1 for name, most in spent.items())


class Stage:
    """One DEST and all who write there.

    Parameters
    ----------
    pieces
        The plans that drivers may bring.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces, self.objects = pieces, MemoryObjects()
        self.model = Model(pieces, self.objects)
        self.actors: list[Actor] = []
        """Alive."""
        self.zombies: list[Puppet] = []
        """Workers that are at it still, though nobody waits for them."""

    def enter(
        self, piece: int, *, size: int, encoding: int, bad: frozenset[int] = frozenset(), leaves_out: bool = False
    ) -> Actor:
        """Start a driver; it stands before its first operation."""
        actor = Actor(self.pieces[piece], encoding=encoding, bad=bad, leaves_out=leaves_out)
        actor.puppet = Puppet(lambda puppet: self._drive(actor, puppet, size))
        self.actors.append(actor)
        return actor

    def _drive(self, actor: Actor, puppet: Puppet, size: int) -> RunReport:
        store, work = PuppetStore(MemoryStore(self.objects), puppet), WorkSettings(workers=size)
        opened = commit_plan(store, actor.piece.draft)
        report = self._run(actor, opened, work)
        proven = report.driven is not None and any(f.handling == "source" for f in report.driven.quarantined.values())
        if not (actor.leaves_out and proven and report.finished and BAD not in opened.ledger.done()):
            return report
        opened.ledger.amend(actor.piece.amendment)
        return self._run(actor, open_plan(store), work)

    def _run(self, actor: Actor, opened: OpenPlan, work: WorkSettings) -> RunReport:
        divided = divide_work(actor.piece.draft.profile, opened, opened.ledger.done(), work)

        @contextmanager
        def open_pool(factory: SizedFactory, size: int, *, memory_bytes: int) -> Iterator[Pool]:
            del memory_bytes
            actor.pool = _StagePool(self, actor, opened, str(factory.run_id), size)  # type: ignore[attr-defined]
            yield actor.pool

        return run_plan(opened, divided, work, open_pool, SilentObserver(), stop_requested=lambda: actor.interrupted)

    def workers(self) -> list[Puppet]:
        """Return all workers that have not ended, whoever they work for."""
        found = [puppet for actor in self.actors if actor.pool for puppet in actor.pool.busy()]
        return found + [puppet for puppet in self.zombies if not puppet.over]

    def owner(self, worker: Puppet) -> Actor | None:
        """Return for whom `worker` works; None of a zombie."""
        return next((actor for actor in self.actors if actor.pool and worker in actor.pool.busy()), None)

    def leave(self) -> Iterator[Actor]:
        """Take those who have ended off the stage, and yield them; their workers may go on."""
        for actor in [actor for actor in self.actors if not actor.alive]:
            self.actors.remove(actor)
            if actor.pool is not None:
                self.zombies += actor.pool.busy()
            yield actor

    def perform(self, actor: Actor) -> None:
        """Let `actor` and its workers go on to its end, undisturbed."""
        while actor.alive:
            for worker in actor.pool.busy() if actor.pool else ():
                while not worker.over:
                    worker.step()
            actor.puppet.step()

    def clear(self) -> None:
        """Kill everybody."""
        for puppet in (*self.workers(), *(actor.puppet for actor in self.actors)):
            puppet.kill()
        self.actors.clear()
        self.zombies.clear()


@dataclass(eq=False)
class _Flight:
    task: UnitTask
    worker: Puppet
    lost: Lost | None = None

    def event(self) -> PoolEvent:
        if self.lost is not None:
            return self.lost
        if self.worker.error is not None:
            raise self.worker.error
        return Ended(self.task, self.worker.result)


class _StagePool:
    """Workers that are puppets; the driver stands where it waits for them."""

    def __init__(self, stage: Stage, actor: Actor, opened: OpenPlan, run_id: str, size: int) -> None:
        self._stage, self._actor, self._opened, self._run_id, self._size = stage, actor, opened, run_id, size
        self._flights: list[_Flight] = []
        self._stopping = False

    @property
    def size(self) -> int:
        return self._size

    def has_free(self) -> bool:
        return len(self._flights) < self._size

    def submit(self, task: UnitTask, *, deadline_s: float) -> None:
        del deadline_s
        self._flights.append(_Flight(task, Puppet(lambda puppet: self._work(task, puppet))))

    def _work(self, task: UnitTask, puppet: Puppet) -> UnitOutcome:
        store = PuppetStore(MemoryStore(self._stage.objects), puppet)
        opened = replace(self._opened, ledger=Ledger(store))
        done: list[int] = []
        adopted: list[int] = []
        failures: list[Failure] = []
        try:
            opened.ledger.claim(self._run_id, task.unit_id, task.chunks)
            for chunk in task.chunks:
                if self._stopping:
                    break
                if (failure := self._make(opened, chunk, task.attempt, done, adopted)) is not None:
                    failures.append(failure)
        except IngestError as error:
            failures.append(failure_of(error, [chunk for chunk in task.chunks if chunk not in done]))
        named = {*done, *(chunk for failure in failures for chunk in failure.chunks)}
        undone = tuple(chunk for chunk in task.chunks if chunk not in named)
        return UnitOutcome(task.unit_id, tuple(done), tuple(failures), undone, tuple(adopted))

    def _make(self, opened: OpenPlan, chunk: int, attempt: str, done: list[int], adopted: list[int]) -> Failure | None:
        piece, may_lack = self._actor.piece, bool(opened.amendments.rules(chunk))
        if chunk in self._actor.bad and not may_lack:
            return failure_of(SourceError(f"chunk {chunk} is bad", kind="nan"), [chunk])
        made = (piece.without if may_lack else piece.made)[self._actor.encoding][chunk]
        try:
            committed = commit_chunk(opened, made, attempt=attempt)
        except TransientError:
            raise
        except IngestError as error:
            return failure_of(error, [chunk])
        done.append(chunk)
        if committed.adopted:
            adopted.append(chunk)
        return None

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        del timeout_s
        self._actor.puppet.stand("wait")
        ended = [flight for flight in self._flights if flight.lost or flight.worker.over]
        self._flights = [flight for flight in self._flights if flight not in ended]
        return [flight.event() for flight in ended]

    def lose(self, worker: Puppet, blame: Literal["unit", "infrastructure"]) -> None:
        """Let the driver believe that `worker` is gone; it goes on unless it is killed."""
        flight = next(flight for flight in self._flights if flight.worker is worker)
        flight.lost = Lost(flight.task, blame, "worker-died" if blame == "unit" else "node-lost", "gone")
        self._stage.zombies.append(worker)

    def busy(self) -> list[Puppet]:
        """Return the workers that have a unit and whom the driver believes in."""
        return [flight.worker for flight in self._flights if not flight.worker.over and not flight.lost]

    def progress(self) -> list[Progress]:
        return []

    def stop_soon(self) -> None:
        self._stopping = True

    def close(self) -> None:
        return


@contextmanager
def no_pauses() -> Iterator[None]:
    """Let whatever is tried again be tried at once, and time pass by being asked for: the same course every time."""
    ticks = count()
    timed = partial(drive, clock=lambda: float(next(ticks)))
    with (
        mock.patch("ingest.running.random", SimpleNamespace(random=lambda: 0.0)),
        mock.patch("ingest.running.drive", timed),
    ):
        yield
