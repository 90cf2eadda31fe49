"""Trying a few parts of a plan: really fetched, encoded and written, to a folder that goes again.

Nothing is written to DEST, which need not exist: of a plan that is not committed the draft's own files are used.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.amendments import Amendments
from ingest.cpu import available_cpus
from ingest.errors import ConfigError, SourceError
from ingest.layout import RECEIPTS
from ingest.ledger.ledger import Ledger
from ingest.naming import source_labels
from ingest.opened import OpenPlan
from ingest.plan_index import PlanIndex
from ingest.pool import UnitTask, run_unit
from ingest.preparing import scratch_of
from ingest.scratch import Scratch
from ingest.store.local import LocalStore
from ingest.unit_rows import rows_of_chunks
from ingest.worker import ChunkWorker, ChunkWorkerFactory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ingest.planning import Draft
    from ingest.pool import Failure, UnitOutcome
    from ingest.preparing import Work
    from ingest.profile import Profile
    from ingest.settings import WorkSettings
    from ingest.units import Unit

__all__ = ["MOST_CELLS", "Trial", "draw_parts", "try_parts"]

MOST_CELLS = 50_000
"""Of a unit, so many are tried, and whole chunks: some seconds."""

_TRIAL = "trial"
_LOOK_EVERY_S = 0.25
_OF_THE_PROCESS = ("config", "exhausted")
"""Trouble that the next part would meet again."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What some consecutive chunks of a unit came to."""

    chunks: tuple[int, ...]
    n_cells: int
    seconds: float
    """Wall time of the worker, from taking the unit to the last receipt."""
    cpu_seconds: float
    bytes_read: int
    """0 where the library does not tell."""
    bytes_written: int
    requests: int
    """Sent to sources; none to a local disk."""
    beside_bytes: int
    """What finishing writes of these cells and chunks: their annotations, and twice their receipts."""


def draw_parts(
    profile: Profile, units: Sequence[Unit], cells_per_chunk: int, n_parts: int, seed: int
) -> list[tuple[int, ...]]:
    """Draw parts of units to try: every cell is as likely as the next, and the whole plan is covered evenly.

    The units' cells are laid in a row, which is cut into `n_parts` equal lengths; from each comes the unit at a random
    place, the same in all (systematic sampling with probability proportional to size). Sources lie together in a plan,
    so large ones are drawn from, and so are several. Of a long unit it is a run of chunks that one worker may make.

    Returns
    -------
    Chunk numbers of each part, ascending; fewer parts where units come up twice.
    """
    if not units or n_parts < 1:
        return []
    rng = np.random.default_rng(seed)
    ends = np.cumsum([len(unit.chunks) for unit in units])
    places = (np.arange(n_parts) + rng.random()) * ends[-1] / n_parts
    drawn = np.unique(np.searchsorted(ends, places, side="right"))
    return [_part(profile, units[number].chunks, max(1, MOST_CELLS // cells_per_chunk), rng) for number in drawn]


def _part(profile: Profile, chunks: tuple[int, ...], most: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw `most` consecutive chunks or some more, from where a unit may begin to where one may end.

    Where there is a choice, bands are not split: of one that is, a reader may take less than the plan expects.
    """
    if len(chunks) <= most:
        return chunks
    numbers = np.array(chunks)
    begins = ~profile.uncut[numbers]
    begins[0] = True
    whole = begins & (profile.first_band[numbers] != profile.last_band[np.maximum(numbers - 1, 0)])
    whole[0] = True
    starts = np.flatnonzero(whole if whole[1 : len(chunks) - most + 1].any() else begins)
    first = int(rng.choice(starts[starts <= len(chunks) - most]))
    ends = [*np.flatnonzero(begins), len(chunks)]
    last = next(end for end in ends if end >= first + most)
    wholly = [end for end in (*np.flatnonzero(whole), len(chunks)) if last <= end <= first + 2 * most]
    return chunks[first : wholly[0] if wholly else last]


def try_parts(
    plan_of: Draft | OpenPlan,
    work: Work,
    settings: WorkSettings,
    parts: Sequence[Sequence[int]],
    *,
    on_cells: Callable[[int], None] = lambda _: None,
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> list[Trial]:
    """Make the chunks of each of `parts`, one part after the other, in this process.

    Of each kind of source a few chunks are made beforehand, and thrown away: who comes first waits for kernels to be
    compiled or read, which says nothing of the plan.

    Parameters
    ----------
    on_cells
        Called several times a second with the cells that are made so far.
    on_failure
        Called for what could not be made; such a part says nothing and is left out.

    Raises
    ------
    IngestError
        The scratch folder is full, credentials are missing, or nothing at all could be made.
    """
    scratch = Scratch(settings.scratch)
    try:
        worker = ChunkWorker(_factory(work, settings), _open_beside(plan_of, scratch.path))
        try:
            worker.ready()
            for chunks in _rehearsals(worker.opened, work.profile, parts):
                _run(worker, UnitTask(-1, chunks, f"{_TRIAL}-rehearsal"), lambda _: None)
                _clear(scratch.path)
            return _try_all(worker, scratch.path, parts, on_cells, on_failure)
        finally:
            worker.close()
    finally:
        scratch.close()


def _rehearsals(opened: OpenPlan, profile: Profile, parts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the fewest chunks that a worker may make of the first part of each layout."""
    found: dict[frozenset[str], tuple[int, ...]] = {}
    for part in parts:
        few = next((part[:n] for n in range(1, len(part)) if not profile.uncut[part[n]]), part)
        rows = rows_of_chunks(opened, few)
        sources = rows.codes(rows.first, rows.first + rows.table.num_rows)
        found.setdefault(frozenset(opened.surveys[code].layout for code in set(sources.tolist())), tuple(few))
    return list(found.values())


def _factory(work: Work, settings: WorkSettings) -> ChunkWorkerFactory:
    return ChunkWorkerFactory(
        dest=_TRIAL,
        endpoint_url=None,
        run_id=_TRIAL,
        slab_bytes=work.memory.slab,
        upload_bytes=work.memory.upload,
        window_bytes=work.memory.window,
        threads=settings.cpus or max(1, available_cpus() // work.workers),
        bytes_per_s=settings.bytes_per_s,  # one works alone: all of the line is its own
        scratch=str(scratch_of(settings)),
    )


def _open_beside(plan_of: Draft | OpenPlan, folder: Path) -> OpenPlan:
    """Return the plan with all its parts, and `folder` in the place of DEST."""
    plan, ledger = plan_of.plan, Ledger(LocalStore(folder))
    if isinstance(plan_of, OpenPlan):
        index, amendments = plan_of.index, plan_of.amendments
    else:
        path = plan_of.files["index"]
        if isinstance(path, bytes):
            raise TypeError("the index of a draft is a file")
        index = PlanIndex(LocalStore(path.parent), path.name, plan.identity.cells_per_chunk)
        amendments = Amendments()
    labels = source_labels([survey.source for survey in plan_of.surveys])
    return OpenPlan(plan, ledger, plan_of.genes, tuple(plan_of.surveys), labels, index, amendments)


def _try_all(
    worker: ChunkWorker,
    folder: Path,
    parts: Sequence[Sequence[int]],
    on_cells: Callable[[int], None],
    on_failure: Callable[[Failure], None],
) -> list[Trial]:
    found: list[Trial] = []
    failure: Failure | None = None
    for number, part in enumerate(parts):
        before = sum(trial.n_cells for trial in found)
        task = UnitTask(number, tuple(part), f"{_TRIAL}-{number}")
        trial = _try(worker, folder, task, partial(_add, on_cells, before))
        if isinstance(trial, Trial):
            found.append(trial)
            continue
        failure = trial
        on_failure(failure)
        if failure.handling in _OF_THE_PROCESS:
            break
    if failure is not None and (not found or failure.handling in _OF_THE_PROCESS):
        error = ConfigError if failure.handling in _OF_THE_PROCESS else SourceError
        raise error(failure.message, kind=failure.kind, hint=failure.hint)
    return found


def _add(on_cells: Callable[[int], None], before: int, n_cells: int) -> None:
    on_cells(before + n_cells)


def _try(worker: ChunkWorker, folder: Path, task: UnitTask, on_cells: Callable[[int], None]) -> Trial | Failure:
    requests, cpu, start = worker.line.n_requests, time.process_time(), time.perf_counter()
    outcome = _run(worker, task, on_cells)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if outcome.failures:
        return outcome.failures[0]
    return Trial(
        chunks=task.chunks,
        n_cells=outcome.n_cells,
        seconds=seconds,
        cpu_seconds=cpu,
        bytes_read=outcome.bytes_read,
        bytes_written=outcome.bytes_written,
        requests=worker.line.n_requests - requests,
        beside_bytes=_annotations(worker, task) + _clear(folder),
    )


def _run(worker: ChunkWorker, task: UnitTask, on_cells: Callable[[int], None]) -> UnitOutcome:
    """Run `task` on a thread, as a pool does, and look how far it is meanwhile; who is impatient waits for a chunk."""
    with ThreadPoolExecutor(1, "trial") as thread:
        ending = thread.submit(run_unit, worker, task)
        try:
            while wait([ending], timeout=_LOOK_EVERY_S).not_done:
                if (progress := worker.progress()) is not None:
                    on_cells(progress.n_cells)
        except BaseException:
            worker.stop_soon()
            raise
        return ending.result()


def _annotations(worker: ChunkWorker, task: UnitTask) -> int:
    table: Any = rows_of_chunks(worker.opened, task.chunks).table
    return int(table.nbytes)


def _clear(folder: Path) -> int:
    """Remove what a part has made, for the disk need not hold two; return twice the bytes of its receipts."""
    receipts = 0
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if f"/{RECEIPTS}" in path.as_posix():
            receipts += path.stat().st_size
        path.unlink()
    return 2 * receipts
